"""A leader whose clock is off hands over: without hurry, and only to a member whose clock is clearly better."""

from __future__ import annotations

from collections.abc import Container

import pytest

from orchestrator.replication.clock import LogClock
from orchestrator.replication.skew import PAUSE_SECONDS, SkewWatch

LIMIT_MS = 1_000
STEP_SECONDS = 0.2


class World:
    """A leader, its clock, those of its peers, and whom it handed over to, with the time."""

    def __init__(self, **offsets: int) -> None:
        self.seconds = 50.0
        self.offsets = offsets
        self.asked: list[tuple[float, list[str]]] = []
        self.watch = SkewWatch(LogClock(self, lambda: self.offsets), self, self.hand_over, LIMIT_MS)

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return 1_750_000_000_000

    async def hand_over(self, among: Container[str]) -> bool:
        self.asked.append((self.seconds, [name for name in self.offsets if name in among]))
        return False

    async def passes(self, seconds: float, *, leading: bool = True) -> None:
        for _ in range(round(seconds / STEP_SECONDS)):
            await self.watch.look(leading=leading)
            self.seconds += STEP_SECONDS


@pytest.mark.parametrize(
    ("offsets", "to"),
    [
        ({"b": -3_000, "c": 3_000}, None),  # it is the median
        ({"b": 900, "c": 900}, None),
        ({"b": 3_000, "c": 3_000}, ["b", "c"]),
        ({"b": 3_000, "c": 6_000}, ["b"]),
        ({"b": 3_000, "c": 3_600}, ["b"]),  # what is measured is not exact: c could take itself for one that is off
        ({"b": -3_000, "c": -3_000, "d": 50, "e": -3_000}, ["b", "c", "e"]),
        ({"b": -3_000}, None),  # of two nobody knows which is right
        ({"b": 3_000}, None),
        ({}, None),
    ],
)
async def test_who_takes_over_is_clearly_nearer_to_the_median(offsets: dict[str, int], to: list[str] | None) -> None:
    world = World(**offsets)
    await world.passes(PAUSE_SECONDS * 1.5)
    assert [names for _, names in world.asked] == ([] if to is None else [to])


@pytest.mark.parametrize(("own_is_off", "others"), [(True, -3_000), (False, 0)])
async def test_what_three_clocks_told_is_remembered_by_two(own_is_off: bool, others: int) -> None:
    world = World(b=others, c=others)
    await world.passes(STEP_SECONDS, leading=False)
    # c is gone, and b says something else now: one of the two is wrong, and nobody can tell which.
    world.offsets = {"b": -3_000 - others}
    await world.passes(STEP_SECONDS, leading=False)
    assert world.watch.is_off is own_is_off
    await world.passes(PAUSE_SECONDS * 1.5)
    assert [names for _, names in world.asked] == ([["b"]] if own_is_off else [])
    world.offsets = {"b": 0, "c": 0}
    await world.passes(STEP_SECONDS, leading=False)
    assert not world.watch.is_off


async def test_each_lead_and_each_attempt_lasts_for_a_while() -> None:
    world = World(b=3_000, c=3_000)
    await world.passes(PAUSE_SECONDS - 1)
    assert not world.asked
    await world.passes(1, leading=False)
    began = world.seconds
    await world.passes(2.5 * PAUSE_SECONDS)
    first, second = (at for at, _ in world.asked)
    assert first - began >= PAUSE_SECONDS
    assert second - first >= PAUSE_SECONDS


async def test_who_does_not_lead_hands_nothing_over() -> None:
    world = World(b=3_000, c=3_000)
    await world.passes(3 * PAUSE_SECONDS, leading=False)
    assert not world.asked
