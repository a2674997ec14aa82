"""The budget of starts that all calls of a client share. The clock is the test's."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from orchestrator_client.throttle import ATTEMPTS_PER_ACCEPTED, OPEN_AFTER_S, StartThrottle

STEP_S = 0.005
ANSWER_S = 0.02


@dataclass
class Cluster:
    """Takes so many starts a second, and refuses what comes beyond; its client would send more than that."""

    room_per_s: float
    delay_s: float = 0.1
    now: float = 50.0
    seed: int = 1
    accepted: int = 0
    refused: int = 0
    room: float = 0.0
    refused_at: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.throttle = StartThrottle(random.Random(self.seed))

    def offered(self, per_s: float, seconds: float) -> tuple[int, int]:
        """How many were accepted and refused of an offer that begins again and again."""
        accepted, refused, due = self.accepted, self.refused, 0.0
        for _ in range(int(seconds / STEP_S)):
            self.now += STEP_S
            self.room = min(self.room + self.room_per_s * STEP_S, 10.0)
            # What is not sent waits, and is sent as soon as it may be.
            due += per_s * STEP_S
            while due >= 1 and self.throttle.take(self.now):
                due -= 1
                self._answer()
        return self.accepted - accepted, self.refused - refused

    def _answer(self) -> None:
        if self.room >= 1:
            self.room -= 1
            self.accepted += 1
            self.throttle.accepted(self.now, ANSWER_S)
        else:
            self.refused += 1
            self.refused_at.append(self.now)
            self.throttle.refused(self.now, ANSWER_S, self.delay_s)


def test_nothing_is_held_back_before_the_first_refusal() -> None:
    cluster = Cluster(room_per_s=1e9)
    cluster.room = 1e9
    assert all(cluster.throttle.take(cluster.now) for _ in range(10_000))
    assert cluster.throttle.is_open


def test_of_three_times_what_there_is_room_for_little_more_than_that_is_sent_and_the_room_is_used() -> None:
    cluster = Cluster(room_per_s=500)
    cluster.offered(1_500, 2)
    accepted, refused = cluster.offered(1_500, 10)
    assert accepted > 0.9 * 5_000
    assert refused < (ATTEMPTS_PER_ACCEPTED - 1) * 1.3 * accepted


def test_where_nothing_is_accepted_each_delay_has_one_attempt() -> None:
    cluster = Cluster(room_per_s=0, delay_s=0.5)
    cluster.offered(5_000, 30)
    # But for those that were sent before the first answer, here none.
    assert 30 / 0.5 * 0.9 < cluster.refused < 30 / 0.5 * 1.1 + 2


def test_clients_that_are_refused_at_one_time_do_not_come_back_at_one_time() -> None:
    second = set()
    for seed in range(20):
        cluster = Cluster(room_per_s=0, delay_s=1, seed=seed)
        cluster.offered(1_000, 5)
        first, again = cluster.refused_at[:2]
        assert 1.0 - STEP_S <= again - first <= 1.5 + STEP_S
        second.add(round(again - first, 2))
    assert len(second) > 10


def test_room_that_comes_back_is_found_soon() -> None:
    cluster = Cluster(room_per_s=0)
    cluster.offered(3_000, 10)
    cluster.room_per_s = 1_000
    cluster.offered(3_000, 3)
    accepted, _ = cluster.offered(3_000, 1)
    assert accepted > 0.8 * 1_000


def test_without_refusals_for_a_while_nothing_is_held_back_any_more() -> None:
    cluster = Cluster(room_per_s=100)
    cluster.offered(1_000, 5)
    assert not cluster.throttle.is_open
    cluster.offered(50, OPEN_AFTER_S + 1)
    assert cluster.throttle.is_open


def test_who_was_refused_and_then_asks_nothing_may_ask_later() -> None:
    cluster = Cluster(room_per_s=0)
    cluster.offered(1_000, 1)
    cluster.now += 100
    assert cluster.throttle.take(cluster.now)
    assert cluster.throttle.is_open


def test_it_is_known_when_the_next_may_be_sent() -> None:
    throttle = StartThrottle(random.Random(1))
    throttle.refused(10.0, ANSWER_S, 2.0)
    assert not throttle.take(10.0)
    when = 10.0 + throttle.next_s(10.0)
    assert not throttle.take(when - 0.01)
    assert throttle.take(when + 0.01)
