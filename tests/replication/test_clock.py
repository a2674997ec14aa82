"""Log time: never back, close to real time, deaf to wall clocks that jump."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from orchestrator.replication.clock import LogClock, lower_median

HOUR_MS = 3_600_000
START_MS = 1_750_000_000_000


@dataclass
class World:
    """Clocks that go on only when told to."""

    seconds: float = 100.0
    wall: int = START_MS
    offsets: dict[str, int] = field(default_factory=dict)

    def monotonic(self) -> float:
        return self.seconds

    def wall_ms(self) -> int:
        return self.wall

    def pass_ms(self, real_ms: float) -> None:
        self.seconds += real_ms / 1000
        self.wall += int(real_ms)

    def clock(self) -> LogClock:
        return LogClock(self, lambda: self.offsets)


def leading(world: World, time_ms: int = START_MS) -> LogClock:
    """A clock that has seen an entry with this time as it was given."""
    clock = world.clock()
    clock.observe(time_ms, live=True)
    return clock


@pytest.mark.parametrize(
    ("values", "middle"), [([5], 5), ([9, 1], 1), ([3, 1, 2], 2), ([4, 1, 3, 2], 2), ([7, 7, 0, 7, 9], 7)]
)
def test_of_an_even_number_the_lower_middle_counts(values: list[int], middle: int) -> None:
    assert lower_median(values) == middle


def test_time_passes_as_it_really_does() -> None:
    world = World()
    clock = leading(world)
    for _ in range(1000):
        world.pass_ms(7)
        clock.next_ms()
    assert clock.peek_ms() == START_MS + 7000


def test_many_entries_within_a_millisecond_lose_no_time() -> None:
    world = World()
    clock = leading(world)
    for _ in range(100_000):
        world.seconds += 0.000_013
        clock.next_ms()
    world.wall = START_MS + 1300
    # Fractions of milliseconds are carried: only the slew towards the wall clock, which stood still, is lost.
    assert 1300 * 0.95 - 1 <= clock.peek_ms() - START_MS <= 1300


@pytest.mark.parametrize("jump_ms", [5 * HOUR_MS, -5 * HOUR_MS])
def test_a_jump_of_the_wall_clock_by_hours_moves_log_time_by_at_most_5_per_cent_of_the_time_that_passed(
    jump_ms: int,
) -> None:
    world = World()
    clock = leading(world)
    world.pass_ms(10_000)
    assert clock.peek_ms() == START_MS + 10_000
    world.wall += jump_ms
    assert clock.peek_ms() == START_MS + 10_000
    world.pass_ms(60_000)
    drawn = clock.next_ms() - START_MS - 70_000
    assert abs(drawn - (3000 if jump_ms > 0 else -3000)) <= 1


def test_a_jump_has_no_say_in_the_time_before_it() -> None:
    world = World()
    clock = leading(world)
    for _ in range(60):
        world.pass_ms(60_000)
        clock.peek_ms()
    before = clock.peek_ms()
    world.wall += 5 * HOUR_MS
    world.pass_ms(1)
    assert clock.peek_ms() - before <= 2


def test_log_time_stops_drawing_near_when_it_has_arrived() -> None:
    world = World(offsets={"b": 40, "c": 40})
    clock = leading(world)
    world.pass_ms(10_000)
    assert clock.next_ms() == START_MS + 10_040
    world.pass_ms(10_000)
    assert clock.next_ms() == START_MS + 20_040


def test_one_wild_clock_of_three_is_not_heard() -> None:
    world = World(offsets={"b": 3, "c": 9 * HOUR_MS})
    clock = leading(world)
    assert clock.median_wall_ms() == START_MS + 3
    assert clock.skew_ms() == -3
    world.offsets = {"b": -9 * HOUR_MS, "c": -9 * HOUR_MS}
    assert clock.skew_ms() == 9 * HOUR_MS


def test_after_a_stop_of_the_whole_cluster_log_time_jumps_forward_once() -> None:
    world = World(wall=START_MS + HOUR_MS)
    clock = world.clock()
    clock.observe(START_MS, live=False)
    assert clock.peek_ms() == START_MS + HOUR_MS
    assert clock.next_ms() == START_MS + HOUR_MS
    world.wall += HOUR_MS
    world.seconds += 1
    assert clock.next_ms() == START_MS + HOUR_MS + 1050


def test_after_replay_log_time_never_jumps_back() -> None:
    world = World(wall=START_MS - HOUR_MS)
    clock = world.clock()
    clock.observe(START_MS, live=False)
    world.pass_ms(1000)
    assert clock.next_ms() == START_MS + 950


def test_who_has_seen_one_entry_as_it_was_given_does_not_jump() -> None:
    world = World(wall=START_MS + HOUR_MS)
    clock = world.clock()
    clock.observe(START_MS - 5, live=False)
    clock.observe(START_MS, live=True)
    clock.observe(START_MS, live=False)
    assert clock.peek_ms() == START_MS


def test_an_older_time_observed_changes_nothing() -> None:
    world = World()
    clock = leading(world)
    world.pass_ms(100)
    clock.next_ms()
    clock.observe(START_MS + 50, live=True)
    world.pass_ms(100)
    assert clock.next_ms() == START_MS + 200


@pytest.mark.parametrize("seed", range(20))
def test_no_answer_is_ever_less_than_one_before_whatever_the_clocks_do(seed: int) -> None:
    rng = random.Random(seed)
    world = World()
    clock = world.clock()
    newest = 0
    for _ in range(2000):
        match rng.randrange(6):
            case 0:
                world.pass_ms(rng.choice([0, 0.01, 1, 50, 60_000]))
            case 1:
                world.wall += rng.randint(-2 * HOUR_MS, 2 * HOUR_MS)
            case 2:
                world.offsets = {name: rng.randint(-HOUR_MS, HOUR_MS) for name in "bcde"[: rng.randrange(5)]}
            case 3:
                clock.observe(newest + rng.randint(-100, 100), live=rng.random() < 0.2)
            case 4:
                peeked = clock.peek_ms()
                assert peeked >= newest
                newest = peeked
            case 5:
                given = clock.next_ms()
                assert given >= newest
                newest = given


def test_log_time_jumps_only_on_the_word_of_a_majority() -> None:
    world = World()
    clock = LogClock(world, lambda: world.offsets, voices_min=2)
    clock.observe(START_MS - HOUR_MS, live=False)
    world.pass_ms(1000)
    alone = clock.next_ms()
    assert alone <= START_MS - HOUR_MS + 1051
    world.offsets = {"b": -3}
    assert clock.next_ms() >= START_MS + 990


def test_the_leaders_word_keeps_a_follower_in_step_while_nothing_is_logged() -> None:
    world = World()
    clock = LogClock(world, lambda: world.offsets, voices_min=2)
    clock.observe(START_MS, live=False)
    world.offsets = {"b": 0}
    clock.observe(START_MS + HOUR_MS, live=True)
    assert clock.next_ms() == START_MS + HOUR_MS
