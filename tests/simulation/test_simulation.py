"""A sweep of many short seeds, and that a seed decides everything."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.run import Trouble, run_seed

ROOT = Path(__file__).parents[2]
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "200"))
# Short, so that there are many: each has two or three faults, at its beginning as well as in the midst of work.
TROUBLE_SECONDS = 3.0
_HASH = "import sys; from tests.simulation.run import Trouble, run_seed; print(run_seed(3, Trouble(5.0)).trace_hash)"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_breaks_and_everything_comes_to_an_end(seed: int) -> None:
    result = run_seed(seed, Trouble(TROUBLE_SECONDS))
    replay = f"python -m tests.simulation --seed {seed} --trouble {TROUBLE_SECONDS:g}"
    assert not result.violations, "\n".join([*result.violations[:5], f"replay: {replay}"])
    assert result.operations > 0
    assert result.entries > 0


def test_a_seed_decides_everything() -> None:
    """In the same process again, and in others whose strings have other hashes."""
    here = run_seed(3, Trouble(5.0)).trace_hash
    assert run_seed(3, Trouble(5.0)).trace_hash == here
    for salt in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": os.pathsep.join(sys.path)}
        told = subprocess.run(
            [sys.executable, "-c", _HASH], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
        )
        assert told.stdout.strip() == here


def test_another_seed_is_another_story() -> None:
    assert run_seed(3, Trouble(2.0)).trace_hash != run_seed(4, Trouble(2.0)).trace_hash


def test_a_run_leaves_nothing_behind() -> None:
    """A long sweep would grow, and slow down with it."""
    gc.collect()  # what other tests have left
    run_seed(3, Trouble(2.0))
    assert gc.collect() < 1_000
