"""Runs seeds and says what they showed; the last line is one JSON object.

    python -m tests.simulation --seeds 500
    python -m tests.simulation --seconds 60 --from 1000
    python -m tests.simulation --seed 7             the whole trace of one
    python -m tests.simulation --seed 7 --shrink    which of its faults are needed to break it
    python -m tests.simulation --seed 7 --only-faults 3,9
    python -m tests.simulation --seed 7 --mutant skip_fsync
    python -m tests.simulation --mutants --seeds 40  how soon each planted mistake is found
    python -m tests.simulation --seeds 3000 --at-least 60 --table tests/simulation/runs.md
    python -m tests.simulation --totals --table tests/simulation/runs.md
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.simulation import mutants
from tests.simulation.hunt import hunt_all
from tests.simulation.jobs import Terms, job, sweep
from tests.simulation.progress import Progress
from tests.simulation.run import TROUBLE_SECONDS, Result
from tests.simulation.shrink import RUNS_MAX, SECONDS_MAX, shrink
from tests.simulation.table import Table, record

TRACE_LINES = 60
HUNTED_SEEDS = 40


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.totals:
        print(json.dumps(Table(options.table).totals()))
        return 0
    if options.mutants:
        return _hunt(options)
    if options.mutant:
        os.environ[mutants.VARIABLE] = options.mutant
    terms = Terms(options.trouble, options.at_least, options.twice, options.only_faults, options.calls)
    if options.shrink:
        return _shrink(options, terms)
    if options.seed is not None:
        return _one(options.seed, terms)
    return _many(options, terms)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, help="this one only, with its trace")
    parser.add_argument("--seeds", type=int, help="so many, one after the other")
    parser.add_argument("--seconds", type=float, help="as many as fit into this time")
    parser.add_argument("--from", dest="first", type=int, help="the first seed (default: after the table's last, or 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--trouble", type=float, default=TROUBLE_SECONDS, help="seconds of faults in each run")
    parser.add_argument("--at-least", type=float, default=0.0, help="no run is shorter: its trouble lasts longer")
    parser.add_argument("--calls", action="store_true", help="the nodes make calls for the workflows")
    parser.add_argument("--mutant", choices=sorted(mutants.MUTANTS), help="plant this mistake")
    parser.add_argument("--mutants", action="store_true", help="look for each, one seed after the other (default: 40)")
    parser.add_argument("--only-faults", type=_numbers, help="with --seed: of its faults those numbers only, or `none`")
    parser.add_argument("--shrink", action="store_true", help="with --seed: leave out every fault that is not needed")
    parser.add_argument("--shrink-runs", type=int, default=RUNS_MAX, help="at most so many runs (default: %(default)s)")
    parser.add_argument(
        "--shrink-seconds", type=float, default=SECONDS_MAX, help="at most so many seconds (default: %(default)s)"
    )
    parser.add_argument("--twice", action="store_true", help="run each seed twice and compare the traces")
    parser.add_argument("--table", type=Path, help="a page to which a row is added after each chunk of seeds")
    parser.add_argument("--chunk", type=int, default=50, help="how many seeds are a row of the table")
    parser.add_argument("--totals", action="store_true", help="what all rows of the table come to")
    return parser


def _hunt(options: argparse.Namespace) -> int:
    """Rows of the page's table; 1 if any mistake was not found."""
    names = [options.mutant] if options.mutant else list(mutants.MUTANTS)
    terms = Terms(options.trouble, options.at_least)
    missed = 0
    for found in hunt_all(names, options.first or 0, options.seeds or HUNTED_SEEDS, terms, options.jobs):
        print(found, flush=True)
        missed += not found.violation
    return 1 if missed else 0


def _one(seed: int, terms: Terms) -> int:
    result = job(seed, terms, verbose=True)
    print("\n".join(result.lines))
    if result.violations:
        print(f"seed {seed} breaks:")
        for violation in result.violations[:10]:
            print(f"  {violation}")
        _print_faults(result)
        print(f"replay: {_replay(seed, terms)}")
    return _report([result])


def _shrink(options: argparse.Namespace, terms: Terms) -> int:
    whole = job(options.seed, terms)
    if not whole.violations:
        print(f"nothing is violated by seed {options.seed}: there is nothing to shrink")
        return 0

    def terms_of(trouble_seconds: float, only: frozenset[int]) -> Terms:
        return Terms(trouble_seconds, only=only, calls=options.calls)

    shrunk = shrink(
        lambda *changed: job(options.seed, terms_of(*changed)),
        whole,
        runs_max=options.shrink_runs,
        seconds_max=options.shrink_seconds,
    )
    needed = "each is needed" if shrunk.is_minimal else "perhaps not all are needed, but time or runs are up"
    print(shrunk.result.violations[0][:600])
    print(f"{len(shrunk.numbers)} faults are left after {shrunk.runs} runs; {needed}")
    _print_faults(shrunk.result)
    print(f"replay: {_replay(options.seed, terms_of(shrunk.trouble_seconds, frozenset(shrunk.numbers)))}")
    return 1


def _print_faults(result: Result) -> None:
    for happened in result.happened:
        print(happened.line)


def _numbers(text: str) -> frozenset[int]:
    return frozenset() if text == "none" else frozenset(int(number) for number in text.split(","))


def _many(options: argparse.Namespace, terms: Terms) -> int:
    table = Table(options.table) if options.table is not None else None
    first = options.first if options.first is not None else table.next_seed if table is not None else 0
    seeds = range(first, first + options.seeds) if options.seeds else itertools.count(first)
    progress = Progress(options.seeds, options.seconds)
    results = _watched(sweep(seeds, terms, options.jobs, enough=progress.is_late), terms, progress)
    if table is not None:
        results = record(table, results, options.chunk)
    every: list[Result] = []
    try:
        every.extend(results)
    except KeyboardInterrupt:
        print("cut off")
    if broken := next((result for result in every if result.violations), None):
        print(f"the end of seed {broken.seed}:")
        print("\n".join(job(broken.seed, terms, verbose=True).lines[-TRACE_LINES:]))
    return _report(every)


def _watched(results: Iterable[Result], terms: Terms, progress: Progress) -> Iterator[Result]:
    for result in results:
        if result.violations:
            print(f"seed {result.seed}: {result.violations[0][:600]}")
            _print_faults(result)
            command = _replay(result.seed, terms)
            print(f"replay: {command}\nshrink: {command} --shrink", flush=True)
        if line := progress.after(result):
            print(line, flush=True)
        yield result


def _replay(seed: int, terms: Terms) -> str:
    command = f"python -m tests.simulation --seed {seed}"
    if terms.trouble_seconds != TROUBLE_SECONDS:
        command += f" --trouble {terms.trouble_seconds:g}"
    if terms.at_least_seconds:
        command += f" --at-least {terms.at_least_seconds:g}"
    if terms.only is not None:
        command += " --only-faults " + (",".join(map(str, sorted(terms.only))) or "none")
    if terms.calls:
        command += " --calls"
    mutant = os.environ.get(mutants.VARIABLE)
    return f"{command} --mutant {mutant}" if mutant else command


def _report(results: list[Result]) -> int:
    failing = [result for result in results if result.violations]
    print(json.dumps(summary(results)))
    return 1 if failing else 0


def summary(results: list[Result]) -> dict[str, Any]:
    """What the last line says."""
    faults: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    for result in results:
        faults += result.faults
        changes += result.changes
    cpu_seconds = sum(result.cpu_seconds for result in results)
    simulated_seconds = sum(result.simulated_seconds for result in results)
    checked = sum(result.checked for result in results)
    return {
        "seeds": len(results),
        "simulated_seconds": round(simulated_seconds, 1),
        "faults": faults.total(),
        "operations_checked": checked,
        "violations": sum(len(result.violations) for result in results),
        "failing_seeds": [result.seed for result in results if result.violations][:50],
        "cpu_seconds": round(cpu_seconds, 1),
        "simulated_seconds_per_cpu_second": round(simulated_seconds / max(cpu_seconds, 1e-9), 1),
        "operations_checked_per_cpu_second": round(checked / max(cpu_seconds, 1e-9), 1),
        "client_operations": sum(result.operations for result in results),
        "entries": sum(result.entries for result in results),
        "snapshots_installed": sum(result.snapshots for result in results),
        "faults_by_kind": dict(sorted(faults.items())),
        "changes_of_members": dict(sorted(changes.items())),
    }


if __name__ == "__main__":
    sys.exit(main())
