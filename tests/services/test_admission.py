"""Starts are refused when something runs short, with its name, and with a delay that grows with the refusals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from orchestrator.replication.errors import Overloaded
from orchestrator.replication.sequencer import CommandsApplied
from orchestrator.services.admission import SAME_WORDS_S, Admission, AdmissionLimits, AdmissionReadings, RetryDelay
from orchestrator.services.start_limit import INTERVAL_S, LEAST
from orchestrator.telemetry.metrics import SHORT_OF

LIMITS = AdmissionLimits(
    queue_age_ms_max=100, pending_starts_max=100, start_delay_ms=50, live_executions_max=50, dirty_bytes_max=1000,
    free_disk_bytes_min=500,
)
FINE = {
    "live_executions": 46, "dirty_bytes": 1000, "free_disk_bytes": 500, "majority_free_disk_bytes": 500,
    "pending_events": 9_999,
}


@dataclass(frozen=True)
class Queue:
    is_open: bool = True
    queue_age_ms: float = 100
    pending_starts: int = 2
    starts_under_way: int = 3


@dataclass
class Bench:
    queue: Queue = field(default_factory=Queue)
    readings: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    now: float = 10.0

    def __post_init__(self) -> None:
        values = FINE | self.readings
        functions: dict[str, Any] = {name: lambda value=value: value for name, value in values.items()}
        self.admission = Admission(
            LIMITS, AdmissionReadings(queue=self.queue, **functions), monotonic=lambda: self.now,
            on_refused=self.refused.append,
        )


def test_at_the_limits_starts_are_taken() -> None:
    bench = Bench()
    bench.admission.check()
    assert bench.admission.refusal() is None
    assert bench.refused == []


@pytest.mark.parametrize(
    ("queue", "reading", "name", "value"),
    [
        (Queue(queue_age_ms=101), {}, "queue_age", 101),
        (Queue(pending_starts=100), {}, "pending_starts", 100),
        (Queue(), {"live_executions": 50}, "live_executions", 53),
        (Queue(), {"dirty_bytes": 1001}, "dirty_bytes", 1001),
        (Queue(), {"free_disk_bytes": 499}, "free_disk", 499),
        (Queue(), {"majority_free_disk_bytes": 499}, "majority_free_disk", 499),
        (Queue(), {"pending_events": 10_000}, "pending_events", 10_000),
    ],
)
def test_beyond_one_limit_they_are_refused_and_the_limit_is_named(
    queue: Queue, reading: dict[str, int], name: str, value: int
) -> None:
    bench = Bench(queue, reading)
    with pytest.raises(Overloaded, match=rf"{name} is {value}, the limit is \d+"):
        bench.admission.check()
    assert bench.refused == [name] and name in SHORT_OF


def test_what_is_on_its_way_will_be_live() -> None:
    assert Bench(Queue(starts_under_way=3)).admission.refusal() is None
    assert "live_executions" in str(Bench(Queue(starts_under_way=4)).admission.refusal())


def test_who_takes_no_commands_at_all_refuses_none_for_want_of_room() -> None:
    assert Bench(Queue(is_open=False, queue_age_ms=10_000)).admission.refusal() is None


def test_while_commands_are_late_no_more_than_a_few_starts_are_under_way() -> None:
    bench = Bench(Queue(starts_under_way=LEAST), {"live_executions": 0})
    assert bench.admission.refusal() is None
    for _ in range(30):
        bench.now += INTERVAL_S
        bench.admission.start_limit.applied(CommandsApplied(1.0, has_others=True, starts_under_way=LEAST))
        bench.admission.start_limit.applied(CommandsApplied(0.001, has_others=False, starts_under_way=LEAST))
    assert f"starts_under_way is {LEAST}, the limit is {LEAST}" in str(bench.admission.refusal())
    assert bench.refused == ["starts_under_way"]


def test_a_flood_is_refused_in_the_same_words_for_a_moment_and_all_are_counted() -> None:
    bench = Bench(replace(Queue(), queue_age_ms=200))
    first = bench.admission.refusal()
    assert first is not None
    assert bench.admission.refusal() is first
    bench.now += 2 * SAME_WORDS_S
    assert bench.admission.refusal() is not first
    assert bench.refused == ["queue_age"] * 3


def test_a_refusal_that_is_raised_twice_gathers_no_traceback() -> None:
    bench = Bench(replace(Queue(), queue_age_ms=200))
    lengths = []
    for _ in range(3):
        with pytest.raises(Overloaded) as caught:
            bench.admission.check()
        lengths.append(len(caught.traceback))
    assert len(set(lengths)) == 1


# --- when to ask again


@dataclass
class Refusing:
    now: float = 0.0

    def __post_init__(self) -> None:
        self.delay = RetryDelay(lambda: self.now)

    def at(self, per_s: float, seconds: float) -> None:
        for _ in range(int(per_s * seconds)):
            self.now += 1 / per_s
            self.delay.refused()


def test_few_refusals_are_cheap() -> None:
    refusing = Refusing()
    refusing.at(RetryDelay.REFUSED_PER_S * 0.9, 5)
    assert refusing.delay.ms == RetryDelay.FIRST_MS


def test_the_more_are_refused_the_later_they_may_come_again() -> None:
    refusing = Refusing()
    refusing.at(RetryDelay.REFUSED_PER_S * 4, 0.6)
    assert refusing.delay.ms == 4 * RetryDelay.FIRST_MS
    refusing.at(RetryDelay.REFUSED_PER_S * 4, 5)
    assert refusing.delay.ms == RetryDelay.MAX_MS


def test_the_delay_stays_while_about_as_many_are_refused_as_is_cheap_and_falls_when_few_are() -> None:
    refusing = Refusing()
    refusing.at(RetryDelay.REFUSED_PER_S * 4, 0.6)
    refusing.at(RetryDelay.REFUSED_PER_S * 0.5, 1)
    before = refusing.delay.ms
    refusing.at(RetryDelay.REFUSED_PER_S * 0.5, 5)
    assert refusing.delay.ms == before > RetryDelay.FIRST_MS
    refusing.at(RetryDelay.REFUSED_PER_S * 0.1, 2)
    assert refusing.delay.ms == RetryDelay.FIRST_MS


def test_after_a_time_without_refusals_it_begins_anew() -> None:
    refusing = Refusing()
    refusing.at(RetryDelay.REFUSED_PER_S * 4, 5)
    refusing.now += 60
    refusing.delay.refused()
    assert refusing.delay.ms == RetryDelay.FIRST_MS
