"""A stream gets what its session is owed and its worker does not have, and learns when to go away."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from orchestrator.engine.choices import DeadlineKind
from orchestrator.engine.commands import CloseSession, ExpireDeadline
from orchestrator.engine.effects import Cancel
from orchestrator.engine.resident import Lease
from orchestrator.services.dispatcher import Dispatcher
from tests.engine.driver import Driver, simple, workflow


@dataclass
class FakeStream:
    delivered: list[int] = field(default_factory=list)
    cancelled: list[tuple[int, bool]] = field(default_factory=list)
    away: list[str] = field(default_factory=list)

    def deliver(self, lease: Lease) -> None:
        self.delivered.append(lease.token)

    def cancel(self, effect: Cancel) -> None:
        self.cancelled.append((effect.token, effect.fenced))

    def go_away(self, reason: str) -> None:
        self.away.append(reason)


class Bench:
    def __init__(self) -> None:
        self.driver = Driver()
        self.seen: list[str] = []
        self.dispatcher = Dispatcher(lambda: self.driver.machine, self.seen.append)
        self.driver.register(workflow("order", simple("pay")))

    def perform(self) -> None:
        for effect in self.driver.effects:
            self.dispatcher.perform(effect)

    def start(self, workflow_id: str) -> int:
        """Starts an order and answers the token of its attempt."""
        self.driver.start("order", workflow_id)
        self.perform()
        return self.driver.latest("pay", workflow_id).fencing_token


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_is_leased_goes_to_the_stream_of_its_session(bench: Bench) -> None:
    bench.driver.worker("s1", "pay")
    stream = FakeStream()
    bench.dispatcher.attach("s1", stream, set())
    assert bench.seen == ["s1"]
    token = bench.start("w1")
    assert (stream.delivered, stream.cancelled, stream.away) == ([token], [], [])


def test_a_stream_that_attaches_gets_what_is_owed_and_not_held(bench: Bench) -> None:
    bench.driver.worker("s1", "pay", slots=3)
    tokens = [bench.start(f"w{number}") for number in range(3)]
    bench.driver.do(ExpireDeadline(DeadlineKind.RESPONSE, tokens[2]))
    stream = FakeStream()
    bench.dispatcher.attach("s1", stream, {tokens[0]})
    assert stream.delivered == [tokens[1]]
    assert stream.cancelled == [(tokens[2], True)]


def test_nothing_of_another_session_comes_along(bench: Bench) -> None:
    bench.driver.worker("s1", "pay")
    bench.start("w1")
    bench.driver.worker("s2", "pay")
    bench.start("w2")
    stream = FakeStream()
    bench.dispatcher.attach("s2", stream, set())
    assert stream.delivered == [bench.driver.latest("pay", "w2").fencing_token]


def test_a_newer_stream_of_the_session_takes_over(bench: Bench) -> None:
    bench.driver.worker("s1", "pay")
    older, newer = FakeStream(), FakeStream()
    bench.dispatcher.attach("s1", older, set())
    bench.dispatcher.attach("s1", newer, set())
    assert len(older.away) == 1 and newer.away == []
    bench.dispatcher.detach("s1", older)
    token = bench.start("w1")
    assert (older.delivered, newer.delivered) == ([], [token])
    assert bench.dispatcher.stream_count == 1


def test_a_stream_that_has_gone_gets_nothing_and_its_session_lives_on(bench: Bench) -> None:
    bench.driver.worker("s1", "pay")
    stream = FakeStream()
    bench.dispatcher.attach("s1", stream, set())
    bench.dispatcher.detach("s1", stream)
    bench.start("w1")
    assert stream.delivered == [] and bench.dispatcher.stream_count == 0
    assert ("s1",) in bench.driver.state.sessions


def test_an_attempt_that_ends_without_its_worker_is_cancelled(bench: Bench) -> None:
    bench.driver.worker("s1", "pay")
    stream = FakeStream()
    bench.dispatcher.attach("s1", stream, set())
    token = bench.start("w1")
    bench.driver.do(ExpireDeadline(DeadlineKind.RESPONSE, token))
    bench.perform()
    assert stream.cancelled == [(token, True)]


def test_the_end_of_the_session_ends_the_stream(bench: Bench) -> None:
    bench.driver.worker("s1", "pay")
    stream = FakeStream()
    bench.dispatcher.attach("s1", stream, set())
    bench.driver.do(CloseSession("s1"))
    bench.perform()
    assert len(stream.away) == 1 and bench.dispatcher.stream_count == 0


def test_the_end_of_leadership_sends_all_streams_away_once(bench: Bench) -> None:
    streams = [FakeStream(), FakeStream()]
    for number, stream in enumerate(streams):
        bench.driver.worker(f"s{number}", "pay")
        bench.dispatcher.attach(f"s{number}", stream, set())
    bench.dispatcher.end("over")
    bench.dispatcher.end("over")
    assert [stream.away for stream in streams] == [["over"], ["over"]]


def test_generations_grow(bench: Bench) -> None:
    made = [bench.dispatcher.next_generation() for _ in range(3)]
    assert made == sorted(set(made))
