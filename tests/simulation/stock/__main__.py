"""Runs the same seeds with stock PySyncObj and with our replicated log in its place, and says what each showed.

    python -m tests.simulation.stock --seeds 40
    python -m tests.simulation.stock --seed 7           the whole trace of one
    python -m tests.simulation.stock --seed 7 --ours
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from tests.simulation.stock.run import Result, run_seed

NOTED = ", only noted"
BUGS = {
    "B1": "takes entries for committed that it did not compare with its leader's",
    "B2": "starts from its dump and clears the journal after it",
    "B4": "never catches up, while its leader goes to and fro",
    "B7": "does not start, or reads what nobody wrote, after a torn write",
    "B10": "goes on without a dump that it could not read",
    "B11": "cuts committed entries at a message that was sent again",
    "B13": "has lost at a power failure what it had acknowledged",
    "an older snapshot": "goes back to what it had long ago",
    "unexplained": "breaks a promise, and no probe says why",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.stock", description=__doc__)
    parser.add_argument("--seed", type=int, help="this one only, with its trace")
    parser.add_argument("--ours", action="store_true", help="with --seed: our log instead of the stock one")
    parser.add_argument("--seeds", type=int, default=40, help="so many (default: 40)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        result = run_seed(options.seed, ours=options.ours, verbose=True)
        print("\n".join(result.lines))
        return int(bool(result.findings))
    seeds = range(options.first, options.first + options.seeds)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        stock = list(pool.map(run_seed, seeds))
        ours = list(pool.map(partial(run_seed, ours=True), seeds))
    _print_table(stock, ours)
    return int(any(result.findings for result in ours))


def _print_table(stock: list[Result], ours: list[Result]) -> None:
    first = stock[0].seed
    print("| bug | a node | noted in | a promise broken in | seeds to that | what the first of them saw |")
    print("|---|---|---|---|---|---|")
    known = {name.removesuffix(NOTED) for result in stock for name in result.findings}
    for bug in [*BUGS, *sorted(known - BUGS.keys())]:
        found = [result for result in stock if bug in result.findings]
        noted = sum(bug + NOTED in result.findings for result in stock)
        if found or noted:
            what = found[0].findings[bug].what if found else ""
            to_first = found[0].seed - first + 1 if found else "none"
            print(f"| {bug} | {BUGS.get(bug, '')} | {noted} | {len(found)} | {to_first} | {what} |")
    for name, results in (("stock", stock), ("ours", ours)):
        print(
            f"{name}: {len(results)} seeds, {sum(one.simulated_seconds for one in results):.0f} simulated seconds,"
            f" {sum(one.acknowledged for one in results)} acknowledged commands"
            f" ({sum(one.false_answers for one in results)} of them falsely),"
            f" {sum(one.cpu_seconds for one in results):.0f} s of CPU;"
            f" something broken in {sum(bool(one.findings) for one in results)} seeds"
        )
    for result in ours:
        for bug, finding in result.findings.items():
            print(f"ours, seed {result.seed}: {bug}: at {finding.at_seconds:.3f} s: {finding.what}")


if __name__ == "__main__":
    sys.exit(main())
