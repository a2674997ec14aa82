"""Services by name: who is called next, what is tried again, and what a changed record forgets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from orchestrator.engine.services import Protocol
from orchestrator.integrations.service_registry import registry
from orchestrator.integrations.service_registry.registry import Called, NotCallable, Registry
from orchestrator.integrations.service_registry.rotation import DOWN_SECONDS, Rotation
from orchestrator.integrations.work import Ended, Outcome
from tests.integrations.works import Clock, Services

DONE = Called(Outcome(ended=Ended.COMPLETED), reached=True, healthy=True)
DOWN = Called(Outcome(ended=Ended.FAILED, error_code="DOWN"), reached=False, healthy=False)
BROKEN = Called(Outcome(ended=Ended.FAILED, error_code="BROKEN"), reached=True, healthy=False)
OUR_FAULT = Called(Outcome(ended=Ended.FAILED, error_code="OURS"), reached=False, healthy=None)


class Bench:
    def __init__(self) -> None:
        self.services = Services()
        self.clock = Clock()
        self.registry = Registry(self.services, self.clock)
        self.called: list[str] = []
        self.answers: dict[str, Called] = {}

    async def call(self, name: str = "s", patience_s: float = 60) -> str:
        """What became of it: a code, or "" for success."""

        async def once(endpoint: str) -> Called:
            self.called.append(endpoint)
            return self.answers.get(endpoint, DONE)

        return await self.call_by(once, name, patience_s)

    async def call_by(
        self, once: Callable[[str], Awaitable[Called]], name: str = "s", patience_s: float = 60
    ) -> str:
        service = self.registry.find("default", name, Protocol.HTTP)
        return (await service.call(once, self.clock() + patience_s)).error_code


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.services.put("s", endpoints=["http://a", "http://b", "http://c"], retry={"delayMs": 0})
    return made


async def test_endpoints_take_turns(bench: Bench) -> None:
    for _ in range(6):
        assert await bench.call() == ""
    assert bench.called == ["http://a", "http://b", "http://c"] * 2


async def test_an_endpoint_that_is_down_is_passed_over_and_left_for_last(bench: Bench) -> None:
    bench.answers["http://a"] = DOWN
    for _ in range(3):
        assert await bench.call() == ""
    assert bench.called == ["http://a", "http://b", "http://c", "http://b"]
    bench.clock.ahead_s += DOWN_SECONDS
    bench.called.clear()
    bench.answers.clear()
    for _ in range(3):
        await bench.call()
    assert sorted(bench.called) == ["http://a", "http://b", "http://c"]


async def test_each_endpoint_is_tried_once_by_default(bench: Bench) -> None:
    bench.answers = dict.fromkeys(("http://a", "http://b", "http://c"), DOWN)
    assert await bench.call() == "DOWN"
    assert bench.called == ["http://a", "http://b", "http://c"]


async def test_what_reached_the_service_is_never_sent_again(bench: Bench) -> None:
    bench.answers["http://a"] = BROKEN
    assert await bench.call() == "BROKEN"
    assert bench.called == ["http://a"]


async def test_what_is_this_nodes_own_fault_is_not_tried_elsewhere(bench: Bench) -> None:
    bench.answers["http://a"] = OUR_FAULT
    assert await bench.call() == "OURS"
    assert bench.called == ["http://a"]


async def test_a_record_may_want_more_attempts_and_a_pause_between_rounds(bench: Bench) -> None:
    bench.services.put("s", endpoints=["http://a", "http://b"], retry={"attempts": 5, "delayMs": 30})
    bench.answers = dict.fromkeys(("http://a", "http://b"), DOWN)
    began = time.monotonic()
    assert await bench.call() == "DOWN"
    assert bench.called == ["http://a", "http://b", "http://a", "http://b", "http://a"]
    assert time.monotonic() - began >= 0.09


async def test_after_its_deadline_nothing_is_tried_again(bench: Bench) -> None:
    bench.services.put("s", endpoints=["http://a"], retry={"attempts": 100, "delayMs": 3_600_000})
    bench.answers["http://a"] = DOWN
    assert await bench.call(patience_s=0.05) == "DOWN"
    assert len(bench.called) == 2


async def test_an_open_circuit_makes_no_call(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    breaker = {"failureThreshold": 2, "openSeconds": 30}
    bench.services.put("s", endpoints=["http://a"], circuitBreaker=breaker)
    bench.answers["http://a"] = BROKEN
    assert [await bench.call() for _ in range(4)] == ["BROKEN", "BROKEN", "CIRCUIT_OPEN", "CIRCUIT_OPEN"]
    assert len(bench.called) == 2
    bench.answers.clear()
    bench.clock.ahead_s += 30
    assert [await bench.call() for _ in range(2)] == ["", ""]
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", "the circuit of a service is open"),
        ("INFO", "the circuit of a service is half open"),
        ("INFO", "the circuit of a service is closed"),
    ]


async def test_a_replaced_record_begins_anew(bench: Bench) -> None:
    bench.services.put("s", endpoints=["http://a"], circuitBreaker={"failureThreshold": 1})
    bench.answers["http://a"] = BROKEN
    assert [await bench.call() for _ in range(2)] == ["BROKEN", "CIRCUIT_OPEN"]
    bench.services.put("s", endpoints=["http://b"], circuitBreaker={"failureThreshold": 1})
    assert await bench.call() == ""
    assert bench.called == ["http://a", "http://b"]


async def test_a_cancelled_call_says_nothing_and_gives_its_place_back(bench: Bench) -> None:
    bench.services.put("s", endpoints=["http://a"], circuitBreaker={"failureThreshold": 1, "openSeconds": 1})
    bench.answers["http://a"] = BROKEN
    await bench.call()
    bench.clock.ahead_s += 1

    async def for_ever(endpoint: str) -> Called:
        await asyncio.Event().wait()
        return DONE

    under_way = asyncio.create_task(bench.call_by(for_ever))
    await asyncio.sleep(0)
    assert await bench.call() == "CIRCUIT_OPEN", "the one that may be is under way"
    under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await under_way
    bench.answers.clear()
    assert await bench.call() == ""


@pytest.mark.parametrize(("name", "code"), [("nobody", "SERVICE_NOT_FOUND"), ("g", "SERVICE_PROTOCOL"),
                                            ("newer", "SERVICE_INVALID")])
def test_what_can_not_be_called_says_why(bench: Bench, name: str, code: str) -> None:
    bench.services.put("g", protocol="GRPC", endpoints=["a:1"])
    bench.services.put("newer", endpoints=["http://a"], field_of_a_newer_version=1)
    with pytest.raises(NotCallable) as refused:
        bench.registry.find("default", name, Protocol.HTTP)
    assert (refused.value.outcome.error_code, refused.value.outcome.ended) == (code, Ended.FAILED)
    assert not refused.value.outcome.outcome_unknown


async def test_services_that_are_gone_are_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "SERVICES_MAX", 2)
    for name in ("s", "t", "u"):
        bench.services.put(name, endpoints=["http://a"])
        await bench.call(name)
    assert len(bench.registry._services) == 2
    bench.services.records.clear()
    for name in ("t", "u"):
        with pytest.raises(NotCallable):
            await bench.call(name)
    assert not bench.registry._services


def test_all_endpoints_down_take_turns_as_ever() -> None:
    rotation = Rotation(["a", "b"], lambda: 0.0)
    for endpoint in ("a", "b"):
        rotation.down(endpoint)
    assert [rotation.next({}) for _ in range(4)] == ["a", "b", "a", "b"]
    rotation.up("b")
    assert [rotation.next({}) for _ in range(2)] == ["b", "b"]
