"""How many starts may be under way, by what a leader sees of its own pace. The clock is the test's."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.replication.sequencer import CommandsApplied
from orchestrator.services.start_limit import (
    BEST_S,
    CALM_S,
    INTERVAL_S,
    LATE_INTERVALS,
    LEAST,
    SLOWER,
    StartLimit,
)

MOST = 10_000
TARGET_S = 0.05
QUICK, LATE = 0.01, 0.2


@dataclass
class Leader:
    now: float = 100.0
    under_way: int = 400
    has_others: bool = True

    def __post_init__(self) -> None:
        self.limit = StartLimit(monotonic=lambda: self.now, target_s=TARGET_S, most=MOST)

    def interval(self, *seconds: float) -> int:
        """One interval, in which entries took so long; answers the limit after it."""
        for each in seconds:
            self.now += INTERVAL_S / len(seconds)
            self.limit.applied(CommandsApplied(each, self.has_others, min(self.under_way, self.limit.value)))
        return self.limit.value

    def late(self, intervals: int) -> None:
        self.interval(QUICK)
        for _ in range(intervals):
            self.interval(LATE)


def test_there_is_no_limit_while_commands_are_quick() -> None:
    leader = Leader()
    assert {leader.interval(QUICK, TARGET_S) for _ in range(50)} == {MOST}


def test_a_burst_is_no_overload() -> None:
    leader = Leader()
    for _ in range(50):
        for _ in range(LATE_INTERVALS - 1):
            leader.interval(LATE)
        assert leader.interval(LATE, QUICK, LATE) == MOST


def test_when_even_the_quickest_are_late_fewer_than_are_under_way_may_be() -> None:
    leader = Leader()
    leader.late(LATE_INTERVALS)
    assert leader.limit.value < leader.under_way
    before = leader.limit.value
    assert leader.interval(LATE) < before


def test_some_starts_always_go_on() -> None:
    leader = Leader()
    leader.late(100)
    assert leader.limit.value == LEAST


def test_starts_that_only_wait_for_each_other_are_not_limited() -> None:
    leader = Leader(has_others=False)
    leader.late(100)
    assert leader.limit.value == MOST


def test_it_rises_by_small_steps_while_it_is_reached_and_is_not_late() -> None:
    leader = Leader()
    leader.late(100)
    values = []
    for _ in range(10):
        leader.limit.reached()
        values.append(leader.interval(QUICK))
    assert values == sorted(set(values))
    assert values[-1] < 4 * LEAST


def test_in_between_it_stays() -> None:
    """Not late for one interval, nor long enough: neither fall nor rise."""
    leader = Leader()
    leader.late(5)
    leader.limit.reached()
    leader.interval(QUICK)
    value = leader.limit.value
    assert [leader.interval(LATE), leader.interval(QUICK), leader.interval(LATE)] == [value] * 3


def test_when_nobody_was_refused_for_a_while_it_is_gone() -> None:
    leader = Leader()
    leader.late(100)
    leader.limit.reached()
    for _ in range(int(CALM_S / INTERVAL_S) - 1):
        leader.interval(QUICK)
    assert leader.limit.value < MOST
    for _ in range(3):
        leader.interval(QUICK)
    assert leader.limit.value == MOST


def test_on_slow_disks_what_is_slow_is_not_late() -> None:
    leader = Leader()
    leader.interval(LATE)
    for _ in range(100):
        assert leader.interval(LATE * SLOWER * 0.9) == MOST
    for _ in range(LATE_INTERVALS):
        leader.interval(LATE * SLOWER * 1.1)
    assert leader.limit.value < MOST


def test_what_was_best_long_ago_is_forgotten_but_not_for_an_overload() -> None:
    leader = Leader()
    leader.late(1)
    for _ in range(int(2.5 * BEST_S / INTERVAL_S)):
        leader.interval(LATE)
    assert leader.limit.target_s == TARGET_S
    moved = Leader()
    moved.interval(QUICK)
    slower = TARGET_S / 2  # as on other disks
    for _ in range(int(2.5 * BEST_S / INTERVAL_S)):
        moved.interval(slower)
    assert moved.limit.target_s == SLOWER * slower
