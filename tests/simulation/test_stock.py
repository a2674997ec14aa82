"""The simulation is worth its time: it finds what is known to be broken in stock PySyncObj, and nothing in our log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.stock.probe import CUT, FALSE_ACK, LIVELOCK, WIPE
from tests.simulation.stock.run import Result, run_seed

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
# Each of the four is found within so many seeds.
SEEDS = 40
_HASH = "from tests.simulation.stock.run import run_seed; print(run_seed(2, trouble_seconds=4.0).trace_hash)"


@pytest.fixture(scope="module")
def found() -> dict[str, Result]:
    """The first seed of each bug, as far as needed to have all four."""
    firsts: dict[str, Result] = {}
    for seed in range(SEEDS):
        result = run_seed(seed)
        for bug in result.findings:
            firsts.setdefault(bug, result)
        if {FALSE_ACK, WIPE, LIVELOCK, CUT} <= firsts.keys():
            break
    return firsts


@pytest.mark.parametrize("bug", [FALSE_ACK, WIPE, LIVELOCK, CUT])
def test_a_known_bug_of_the_library_is_found(found: dict[str, Result], bug: str) -> None:
    """A promise is broken, and this bug alone explains it."""
    assert bug in found, f"not within {SEEDS} seeds"


def test_our_log_passes_the_seeds_that_break_the_library(found: dict[str, Result]) -> None:
    """The same faults, clients and sizes."""
    for seed in sorted({result.seed for result in found.values()}):
        ours = run_seed(seed, ours=True)
        assert not ours.findings, f"python -m tests.simulation.stock --seed {seed} --ours"
        assert not ours.violations
        assert ours.acknowledged > 100


def test_a_seed_decides_everything() -> None:
    """In the same process again, and in another one whose strings have other hashes."""
    here = run_seed(2, trouble_seconds=4.0).trace_hash
    assert run_seed(2, trouble_seconds=4.0).trace_hash == here
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-c", _HASH], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    assert told.stdout.strip() == here
