"""How the nodes of one run are configured: drawn by its seed, alike for stock nodes and ours."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """Sizes are small, as everything is in a run: batches, chunks and logs in the proportions of real ones."""

    size: int
    compacts: bool
    forks: bool
    compaction_entries: int
    chunk_bytes: int
    batch_bytes: int
    waits_for_batches: bool
    # Machines that can lose what is not synced.
    power_fails: bool
    latency_seconds: float
    payload_bytes: int
    election_seconds: tuple[float, float]
    retry_seconds: float = 1.0


def draw(dice: random.Random) -> Profile:
    return Profile(
        size=3 if dice.random() < 0.75 else 5,
        compacts=dice.random() < 0.6,
        forks=dice.random() < 0.8,
        compaction_entries=dice.choice((10, 30, 100)),
        chunk_bytes=dice.choice((512, 4096)),
        batch_bytes=dice.choice((1024, 2048)),
        waits_for_batches=dice.random() < 0.5,
        power_fails=dice.random() < 0.15,
        latency_seconds=dice.choice((0.0005, 0.002, 0.01, 0.03)),
        payload_bytes=dice.choice((100, 400)),
        election_seconds=dice.choice(((0.4, 1.4), (0.35, 0.7))),
    )
