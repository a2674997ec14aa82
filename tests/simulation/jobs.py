"""One seed as a job for whatever process it is given to."""

from __future__ import annotations

import os

from tests.simulation import mutants
from tests.simulation.run import Result, run_seed


def job(seed: int, trouble_seconds: float, *, twice: bool = False, verbose: bool = False) -> Result:
    """Runs it, with the planted mistake if there is one."""
    with mutants.planted(os.environ.get(mutants.VARIABLE, "")):
        result = run_seed(seed, verbose=verbose, trouble_seconds=trouble_seconds)
        if twice:
            again = run_seed(seed, trouble_seconds=trouble_seconds)
            if again.trace_hash != result.trace_hash:
                result.violations.append(f"the same seed ran differently: {again.trace_hash}, {result.trace_hash}")
    return result
