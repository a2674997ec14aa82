"""Faults between a cluster and its Redis, one round after the other; the last line is one JSON object.

    python -m tests.cluster.bus_faults --rounds 30 --seed 7
    python -m tests.cluster.bus_faults --minutes 10
    python -m tests.cluster.bus_faults --faults kill_redis,turn_back

A seed decides the order of the faults and their parameters; when exactly they strike is the machine's chance. Exit code
1: something was lost, doubled or out of order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from orchestrator.cli.local_cluster import LocalClusterError
from tests.cluster.bus_faults.kinds import FAULTS
from tests.cluster.bus_faults.session import Session


def main() -> int:
    options = _options()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    say(f"seed {seed}")
    keep = options.keep or Path(tempfile.mkdtemp(prefix="bus-faults-"))
    return asyncio.run(_run(keep, random.Random(seed), options))


async def _run(directory: Path, dice: random.Random, options: argparse.Namespace) -> int:
    began = time.monotonic()
    rounds: Counter[str] = Counter()
    violation = ""
    async with Session(directory, dice) as session:
        names = _order(options.faults, dice)
        try:
            while not _is_over(options, rounds.total(), time.monotonic() - began):
                name = next(names)
                round_began = time.monotonic()
                await FAULTS[name](session)
                await session.cluster.wait_ready()
                await session.crowd.progress(5)
                await session.verify()
                rounds[name] += 1
                say(f"{rounds.total()} {name}: {time.monotonic() - round_began:.1f} s; {await told(session)}")
            await session.verify(at_last=True)
        except (AssertionError, LocalClusterError) as error:
            violation = str(error)
            say(f"after {rounds.total()} rounds: {violation}\n{session.tails()}\nthe files are in {directory}")
        counts = await session.judge.counts()
    print(json.dumps({"rounds": dict(sorted(rounds.items())), **counts, "seconds": round(time.monotonic() - began),
                      "violation": violation}), flush=True)
    return 1 if violation else 0


def _order(only: list[str] | None, dice: random.Random) -> Iterator[str]:
    """Those that were named, as they were, again and again; or each fault once, then once again in another order."""
    while True:
        yield from only or dice.sample(list(FAULTS), len(FAULTS))


def _is_over(options: argparse.Namespace, rounds: int, seconds: float) -> bool:
    if options.minutes:
        return seconds > options.minutes * 60
    return rounds >= (options.rounds or len(options.faults or FAULTS))


async def told(session: Session) -> str:
    return ", ".join(f"{value} {name}" for name, value in (await session.judge.counts()).items())


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.bus_faults", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="faults (default: each once)")
    parser.add_argument("--minutes", type=float, help="as many as fit into this time")
    parser.add_argument("--seed", type=int, help="repeats the order and the parameters")
    parser.add_argument("--faults", type=lambda text: text.split(","), help=f"these only: {','.join(FAULTS)}")
    parser.add_argument("--keep", type=Path, help="where the files stay")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
