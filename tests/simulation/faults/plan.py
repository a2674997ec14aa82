"""When each fault of a run comes, known before the run begins."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import takewhile


@dataclass(frozen=True, order=True)
class Planned:
    """One occurrence; `at` is in seconds after the first that could be."""

    at: float
    kind: str
    number: int = 0


def plan(
    dice: random.Random, dice_of: Callable[[str], random.Random], kinds: Sequence[str], seconds: float
) -> list[Planned]:
    """Those of the first `seconds`, by time; a longer plan begins with a shorter one."""
    pause_seconds = dice.choice((0.3, 0.7, 1.5, 4.0))
    tracks = [_track(dice_of(f"faults/track {name}"), kinds, pause_seconds) for name in range(dice.randint(1, 2))]
    found = takewhile(lambda planned: planned.at < seconds, merge(*tracks))
    return [Planned(planned.at, planned.kind, number) for number, planned in enumerate(found, start=1)]


def _track(dice: random.Random, kinds: Sequence[str], pause_seconds: float) -> Iterator[Planned]:
    at = 0.0
    while True:
        # What they take by themselves is about a second.
        at += dice.expovariate(1 / pause_seconds) + dice.random()
        yield Planned(at, dice.choice(kinds))
