"""No node stands for election because others, or it itself, stand still for a moment, in virtual time.

    python -m tests.simulation.stalls --seconds 600
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass, field

from tests.simulation.cluster import Member
from tests.simulation.failover import Drive, QuietCluster
from tests.simulation.run import repeatable, simulating

STALL_SECONDS = 0.2
# From the end of one stall of a node to the next, on average: two nodes, or all three, often stand still together.
BETWEEN_SECONDS = 1.0


@dataclass
class Stalled:
    """What came of it."""

    stalls: int
    acknowledged: int
    # The term before and after.
    terms: tuple[int, int]
    violations: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def stall(seed: int, seconds: float, *, stall_seconds: float = STALL_SECONDS, verbose: bool = False) -> Stalled:
    """Three nodes under load, each of which stands still again and again. Repeats itself exactly."""
    with simulating(verbose=verbose) as scratch:
        return _stall(QuietCluster(seed, 3, scratch, verbose=verbose), seconds, stall_seconds)


def _stall(cluster: QuietCluster, seconds: float, stall_seconds: float) -> Stalled:
    dice = cluster.dice("stalls")
    stalls = 0

    async def again_and_again(member: Member) -> None:
        nonlocal stalls
        while True:
            await asyncio.sleep(dice.expovariate(1 / BETWEEN_SECONDS))
            member.machine.pause()
            stalls += 1
            await asyncio.sleep(stall_seconds)
            member.machine.resume()

    with repeatable(cluster):
        drive = Drive(cluster)
        callers = drive.started()
        before = max(cluster.watcher.leaders)
        members = cluster.members.values()
        drive.do(lambda: [cluster.loop.create_task(again_and_again(member)) for member in members])
        drive.advance(seconds)
    watcher = cluster.watcher
    terms = (before, max(watcher.leaders))
    return Stalled(stalls, len(callers.moments), terms, watcher.violations, watcher.lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.stalls", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of virtual time (%(default)s)")
    parser.add_argument("--stall", type=float, default=STALL_SECONDS, help="seconds of each stall (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="print the trace")
    options = parser.parse_args()
    found = stall(options.seed, options.seconds, stall_seconds=options.stall, verbose=options.verbose)
    print("\n".join([*found.lines, *found.violations]))
    print(f"{options.seconds:.0f} s, {found.stalls} stalls, {found.acknowledged} acknowledgements; "
          f"term {found.terms[0]} before, {found.terms[1]} after")
    return 0 if found.terms[0] == found.terms[1] and not found.violations else 1


if __name__ == "__main__":
    sys.exit(main())
