"""What a client may take, measured on a clock of the test's own."""

from __future__ import annotations

import pytest

from orchestrator.access.limits import Rate, Streams


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_client_has_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    rate = Rate(10, 5, clock)
    assert [rate.take("a") for _ in range(5)] == [0.0] * 5
    assert rate.take("a") == pytest.approx(0.1)
    clock.now += 0.05
    assert rate.take("a") == pytest.approx(0.05)
    clock.now += 0.06
    assert rate.take("a") == 0.0 and rate.take("a") > 0


def test_what_is_not_used_gathers_up_to_the_burst() -> None:
    clock = Clock()
    rate = Rate(10, 5, clock)
    rate.take("a")
    clock.now += 1_000
    assert [rate.take("a") == 0.0 for _ in range(6)] == [True] * 5 + [False]


def test_clients_do_not_take_from_each_other() -> None:
    clock = Clock()
    rate = Rate(1, 1, clock)
    assert rate.take("a") == 0.0 and rate.take("b") == 0.0
    assert rate.take("a") > 0 and rate.is_empty("a") and not rate.is_empty("c")


def test_clients_that_come_and_go_do_not_fill_the_memory() -> None:
    clock = Clock()
    rate = Rate(1, 2, clock)
    for number in range(25_000):
        rate.take(number)
    assert len(rate._buckets) <= 10_000


def test_streams_are_given_back() -> None:
    streams = Streams(2)
    assert streams.open("a") and streams.open("a") and not streams.open("a") and streams.open("b")
    streams.close("a")
    assert streams.open("a")
    streams.close("b")
    assert "b" not in streams._open


def test_streams_without_a_limit_are_counted_all_the_same() -> None:
    streams = Streams(0)
    assert all(streams.open("a") for _ in range(5_000))
