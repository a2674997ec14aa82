"""Runs seeds and says what they showed; the last line is one JSON object.

    python -m tests.simulation --seeds 500
    python -m tests.simulation --seconds 60 --from 1000
    python -m tests.simulation --seed 7             the whole trace of one
    python -m tests.simulation --seed 7 --mutant skip_fsync
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.simulation import mutants
from tests.simulation.jobs import job
from tests.simulation.run import TROUBLE_SECONDS, Result

TRACE_LINES = 60
BATCH = 4


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="this one only, with its trace")
    parser.add_argument("--seeds", type=int, help="so many, one after the other")
    parser.add_argument("--seconds", type=float, help="as many as fit into this time")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--trouble", type=float, default=TROUBLE_SECONDS, help="seconds of faults in each run")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), help="plant this mistake")
    parser.add_argument("--twice", action="store_true", help="run each seed twice and compare the traces")
    options = parser.parse_args(arguments)
    if options.mutant:
        os.environ[mutants.VARIABLE] = options.mutant
    results = [_one(options)] if options.seed is not None else list(_many(options))
    if options.seed is None and (broken := next((result for result in results if result.violations), None)):
        print(f"the end of seed {broken.seed}:")
        print("\n".join(job(broken.seed, options.trouble, verbose=True).lines[-TRACE_LINES:]))
    return _report(results)


def _one(options: argparse.Namespace) -> Result:
    result = job(options.seed, options.trouble, twice=options.twice, verbose=True)
    print("\n".join(result.lines))
    return result


def _many(options: argparse.Namespace) -> Iterator[Result]:
    began = time.monotonic()
    seeds = iter(range(options.first, options.first + options.seeds) if options.seeds else _from(options.first))
    # Fresh processes now and then: what a run leaves behind does not add up.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), max_tasks_per_child=50) as pool:
        running = []
        done: list[Result] = []
        for seed in seeds:
            running.append(pool.submit(job, seed, options.trouble, twice=options.twice))
            if len(running) < BATCH * options.jobs:
                continue
            done.append(_finished(running.pop(0).result(), began, len(done)))
            yield done[-1]
            if options.seconds is not None and time.monotonic() - began > options.seconds:
                break
        for future in running:
            if options.seconds is None or not future.cancel():
                done.append(_finished(future.result(), began, len(done)))
                yield done[-1]


def _from(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1


def _finished(result: Result, began: float, before: int) -> Result:
    if result.violations:
        print(f"seed {result.seed}: {result.violations[0][:600]}")
        print(f"replay: python -m tests.simulation --seed {result.seed}{_planted()}")
    elif before % 20 == 19:
        speed = result.simulated_seconds / max(result.cpu_seconds, 1e-9)
        print(f"{before + 1} seeds, {time.monotonic() - began:.0f} s; {speed:.0f} simulated seconds per second of CPU")
    sys.stdout.flush()
    return result


def _planted() -> str:
    mutant = os.environ.get(mutants.VARIABLE)
    return f" --mutant {mutant}" if mutant else ""


def _report(results: list[Result]) -> int:
    failing = [result for result in results if result.violations]
    if len(results) == 1 and failing:
        print(f"seed {failing[0].seed} breaks:")
        for violation in failing[0].violations[:10]:
            print(f"  {violation}")
        print(f"replay: python -m tests.simulation --seed {failing[0].seed}{_planted()}")
    faults: Counter[str] = Counter()
    for result in results:
        faults += result.faults
    cpu_seconds = sum(result.cpu_seconds for result in results)
    simulated_seconds = sum(result.simulated_seconds for result in results)
    checked = sum(result.operations + result.checks for result in results)
    summary = {
        "seeds": len(results),
        "simulated_seconds": round(simulated_seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "simulated_seconds_per_cpu_second": round(simulated_seconds / max(cpu_seconds, 1e-9), 1),
        "faults": dict(sorted(faults.items())),
        "client_operations": sum(result.operations for result in results),
        "entries": sum(result.entries for result in results),
        "snapshots_installed": sum(result.snapshots for result in results),
        "operations_checked": checked,
        "violations": sum(len(result.violations) for result in results),
        "failing_seeds": [result.seed for result in failing][:50],
    }
    print(json.dumps(summary))
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
