"""The circuit breaker: when it opens, who is let through, and when it closes again."""

from __future__ import annotations

from orchestrator.engine.services import CircuitBreaker
from orchestrator.integrations.service_registry.breaker import Breaker, Circuit

RULE = CircuitBreaker(failures=3, window_ms=10_000, open_ms=30_000, half_open_calls=2)


class Bench:
    def __init__(self, rule: CircuitBreaker = RULE) -> None:
        self.now = 1_000.0
        self.breaker = Breaker(rule, lambda: self.now)

    def call(self, healthy: bool | None) -> bool:
        """Whether it was made."""
        admitted = self.breaker.admit()
        if admitted is not None:
            self.breaker.finished(admitted, healthy)
        return admitted is not None

    def open(self) -> None:
        for _ in range(3):
            assert self.call(False)
        assert self.breaker.circuit is Circuit.OPEN


def test_so_many_failures_within_the_window_open_it() -> None:
    bench = Bench()
    assert [bench.call(healthy) for healthy in (False, True, False, None, False)] == [True] * 5
    assert bench.breaker.circuit is Circuit.OPEN
    assert not bench.call(True)
    assert bench.breaker.open_for_s == 30


def test_failures_further_apart_than_the_window_do_not() -> None:
    bench = Bench()
    for _ in range(20):
        assert bench.call(False)
        bench.now += 5.1
    assert bench.breaker.circuit is Circuit.CLOSED


def test_after_its_time_a_few_calls_are_let_through() -> None:
    bench = Bench()
    bench.open()
    bench.now += 29.9
    assert bench.breaker.admit() is None
    bench.now += 0.2
    first, second = bench.breaker.admit(), bench.breaker.admit()
    assert first is not None and second is not None
    assert bench.breaker.circuit is Circuit.HALF_OPEN
    assert bench.breaker.admit() is None and bench.breaker.open_for_s == 0
    bench.breaker.finished(first, True)
    assert bench.breaker.admit() is None, "the other one has to end well, too"
    bench.breaker.finished(second, True)
    assert bench.breaker.circuit is Circuit.CLOSED


def test_one_of_them_that_fails_opens_it_again() -> None:
    bench = Bench()
    bench.open()
    bench.now += 30
    first, second = bench.breaker.admit(), bench.breaker.admit()
    assert first is not None and second is not None
    bench.breaker.finished(first, False)
    assert (bench.breaker.circuit, bench.breaker.open_for_s) == (Circuit.OPEN, 30)
    bench.breaker.finished(second, True)
    assert bench.breaker.circuit is Circuit.OPEN, "what began before has no say"


def test_one_that_says_nothing_gives_its_place_back() -> None:
    bench = Bench()
    bench.open()
    bench.now += 30
    for _ in range(5):
        assert bench.call(None)
    assert bench.breaker.circuit is Circuit.HALF_OPEN
    assert bench.call(True) and bench.call(True)
    assert bench.breaker.circuit is Circuit.CLOSED


def test_calls_from_before_it_opened_count_no_more() -> None:
    bench = Bench()
    old = [bench.breaker.admit() for _ in range(4)]
    bench.open()
    bench.now += 30
    assert bench.call(True)
    for admitted in old:
        assert admitted is not None
        bench.breaker.finished(admitted, False)
    assert bench.call(True)
    assert bench.breaker.circuit is Circuit.CLOSED


def test_after_it_closed_failures_are_counted_anew() -> None:
    bench = Bench()
    bench.open()
    bench.now += 30
    assert bench.call(True) and bench.call(True)
    assert bench.call(False) and bench.call(False)
    assert bench.breaker.circuit is Circuit.CLOSED
    assert bench.call(False)
    assert bench.breaker.circuit is Circuit.OPEN
