"""python -m tests.fuzz --seconds 60 [--seed 7]"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.fuzz.session import Fuzz, FuzzedCluster


async def main(seconds: float, seed: int) -> None:
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="orchestrator-fuzz-") as directory:
        async with FuzzedCluster(Path(directory), nodes=1) as cluster:
            fuzz = Fuzz(cluster, seed)
            await fuzz.run(seconds)
            print(", ".join(f"{code} {count}" for code, count in fuzz.answers.most_common()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.seconds, given.seed)))
