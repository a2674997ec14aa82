"""Messages and bytes at random against a real node; `make fuzz SECONDS=600` is the longer form."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fuzz.session import Fuzz, FuzzedCluster

SECONDS = 8


async def test_nothing_that_is_said_to_a_node_breaks_it(tmp_path: Path, chance: random.Random) -> None:
    async with FuzzedCluster(tmp_path / "fuzzed", nodes=1) as cluster:
        fuzz = Fuzz(cluster, chance.randrange(1 << 32))
        await fuzz.run(SECONDS)
        # Much of it was understood, and much refused with a reason.
        assert fuzz.answers["OK"] and fuzz.answers["INVALID_ARGUMENT"] and fuzz.answers["NOT_FOUND"]
