"""The same log gives the same rows and the same chain hash: in another process, and after a restart in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.engine.model import Row
from orchestrator.engine.results import AnyResult
from tests.engine.driver import Driver
from tests.engine.scenario import play

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(40)


def digest() -> str:
    whole = blake2b(digest_size=16)
    for seed in SEEDS:
        driver = play(seed, 40)
        whole.update(driver.machine.chain)
        for mark, row in driver.rows().items():
            whole.update(msgspec.msgpack.encode((mark, row)))
    return whole.hexdigest()


def test_one_log_applied_in_two_processes_gives_the_same_rows_and_hash() -> None:
    found = set()
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
        program = "from tests.engine.test_determinism import digest; print(digest())"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        found.add(done.stdout.strip())
    assert len(found) == 1


def test_a_replica_that_evicts_and_admits_goes_on_alike() -> None:
    for seed in range(10):
        plain = play(seed, 40)
        other = play(seed, 40, evict=True)
        assert other.machine.chain == plain.machine.chain
        for key in list(other.state.hot_keys()):
            other.heat(key)
        assert other.rows() == plain.rows()


def test_rows_that_were_taken_never_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are encoded later, in another thread."""
    taken: list[tuple[Row, bytes]] = []
    entry = Driver.entry

    def noting(driver: Driver, *items: Any) -> list[AnyResult]:
        results = entry(driver, *items)
        for table, key, row, _ in driver.state.take_changes():
            if row is None:
                driver.database.pop((table, key), None)
            else:
                driver.database[table, key] = msgspec.msgpack.encode(row)
                taken.append((row, driver.database[table, key]))
        return results

    monkeypatch.setattr(Driver, "entry", noting)
    for seed in range(20):
        play(seed, 60)
    assert len(taken) > 1_000
    assert [row for row, text in taken if msgspec.msgpack.encode(row) != text] == []


def test_the_chain_depends_on_entries_results_and_rows() -> None:
    chains = {play(seed, 5).machine.chain for seed in range(5)}
    assert len(chains) == 5
