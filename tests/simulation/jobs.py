"""Seeds as jobs: one in whatever process it is given to, or many on all cores."""

from __future__ import annotations

import os
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from tests.simulation import mutants
from tests.simulation.run import TROUBLE_SECONDS, Result, Trouble, run_seed

# Fresh processes now and then: what a run leaves behind does not add up.
SEEDS_PER_PROCESS = 50
WAITING_PER_PROCESS = 4


@dataclass(frozen=True)
class Terms:
    """Under which every seed of a sweep is run."""

    trouble_seconds: float = TROUBLE_SECONDS
    at_least_seconds: float = 0.0
    twice: bool = False
    # Of the faults that a seed has those numbers; all if None.
    only: frozenset[int] | None = None
    # The nodes make calls for the workflows.
    calls: bool = False

    def run(self, seed: int, *, verbose: bool = False) -> Result:
        trouble = Trouble(self.trouble_seconds, self.at_least_seconds, self.only)
        return run_seed(seed, trouble, verbose=verbose, calls=self.calls)


def job(seed: int, terms: Terms, *, verbose: bool = False) -> Result:
    """Runs it, with the planted mistake if there is one; what the run itself breaks by is a violation, too."""
    with mutants.planted(os.environ.get(mutants.VARIABLE, "")):
        try:
            result = terms.run(seed, verbose=verbose)
            if terms.twice and (again := terms.run(seed)).trace_hash != result.trace_hash:
                result.violations.append(f"the same seed ran differently: {again.trace_hash}, {result.trace_hash}")
        except Exception as error:  # noqa: BLE001 - thousands of other seeds go on
            broken = f"the run itself broke: {error!r}"
            return Result(seed, violations=[broken], lines=traceback.format_exc().splitlines())
    return result


def sweep(
    seeds: Iterable[int], terms: Terms, processes: int, *, enough: Callable[[], bool] = lambda: False
) -> Iterator[Result]:
    """Their results in order. What has begun when it is enough, or when this is closed, is finished."""
    waiting: deque[Future[Result]] = deque()
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=SEEDS_PER_PROCESS) as pool:
        try:
            for seed in seeds:
                if enough():
                    break
                waiting.append(pool.submit(job, seed, terms))
                if len(waiting) >= WAITING_PER_PROCESS * processes:
                    yield waiting.popleft().result()
            while waiting:
                future = waiting.popleft()
                if not (enough() and future.cancel()):
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
