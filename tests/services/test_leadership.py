"""All services begin and end together; a lost proposal ends none of them, an error ends the node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import get_args

import pytest

from orchestrator.engine.commands import AnyCommand, FireTimers
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.results import AnyResult
from orchestrator.replication.errors import NotLeader, OutcomeUnknown
from orchestrator.services import leadership as leadership_module
from orchestrator.services.gauges import Gauges
from orchestrator.services.leadership import Leadership
from orchestrator.telemetry.metrics import Metrics
from tests.engine.driver import Driver, simple, workflow
from tests.replication.cluster import wait_until
from tests.services.test_dispatcher import FakeStream
from tests.services.test_ticker import nap

DEADLINE_S = 10.0


class Bench:
    def __init__(self) -> None:
        self.driver = Driver()
        self.now = 1000.0
        self.submitted: list[AnyCommand] = []
        self.raises: list[Exception] = []
        self.fatal: list[BaseException] = []
        self.leadership = Leadership(
            submit=self.submit,
            machine=lambda: self.driver.machine,
            log_time_ms=lambda: self.driver.now_ms,
            monotonic=lambda: self.now,
            on_fatal=self.fatal.append,
        )

    async def submit(self, command: AnyCommand) -> AnyResult:
        self.submitted.append(command)
        await asyncio.sleep(0)
        if self.raises:
            raise self.raises.pop(0)
        result = self.driver.do(command)
        self.leadership.entry_applied(self.driver.effects)
        return result

    async def until_ended(self, workflow_id: str = "w") -> None:
        await wait_until(f"the end of {workflow_id}", lambda: self.driver.header(workflow_id).status.name != "RUNNING")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    made.leadership.end("the test is over")


@pytest.mark.parametrize("error", [NotLeader(None), OutcomeUnknown()], ids=["refused", "unknown"])
async def test_a_lost_proposal_does_not_end_a_service_of_a_node_that_goes_on_leading(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(leadership_module, "RESUME_SECONDS", 0.001)
    bench.driver.register(nap(1))
    bench.driver.start("nap")
    bench.raises = [error, error]
    bench.driver.now_ms += 1000
    bench.leadership.begin(3)
    await bench.until_ended()
    assert bench.submitted == [FireTimers()] * 3
    assert bench.fatal == []


async def test_an_unexpected_error_of_a_service_stops_the_node(bench: Bench) -> None:
    bench.driver.register(nap(1))
    bench.driver.start("nap")
    bench.raises = [ValueError("broken")]
    bench.driver.now_ms += 1000
    bench.leadership.begin(3)
    await wait_until("the node to be stopped", lambda: bench.fatal)
    assert [str(error) for error in bench.fatal] == ["broken"]


async def test_only_a_leader_performs_effects(bench: Bench) -> None:
    bench.driver.register(workflow("order", simple("pay")))
    bench.driver.worker("s1", "pay", slots=2)
    stream = FakeStream()
    bench.leadership.dispatcher.attach("s1", stream, set())
    bench.driver.start("order", "w1")
    bench.leadership.entry_applied(bench.driver.effects)
    assert stream.delivered == []
    bench.leadership.begin(3)
    assert bench.leadership.leading
    bench.driver.start("order", "w2")
    bench.leadership.entry_applied(bench.driver.effects)
    assert len(stream.delivered) == 1


async def test_at_the_end_streams_go_away_waiters_wake_and_no_service_runs(bench: Bench) -> None:
    bench.driver.worker("s1", "pay")
    bench.leadership.begin(3)
    stream = FakeStream()
    bench.leadership.dispatcher.attach("s1", stream, set())
    services = [task for task in asyncio.all_tasks() if task.get_name() in ("Ticker", "Liveness", "Checkpointer")]
    assert len(services) == 3
    async with bench.leadership.notifier.execution("default", "w") as event:
        bench.leadership.end("over")
        assert event.is_set()
    assert stream.away == ["over"] and not bench.leadership.leading
    done, _ = await asyncio.wait(services, timeout=DEADLINE_S)
    assert len(done) == 3


async def test_a_second_term_begins_afresh(bench: Bench) -> None:
    bench.driver.worker("s1", "pay")
    bench.leadership.begin(3)
    bench.now += 9
    bench.leadership.end("over")
    bench.leadership.begin(5)
    bench.now += 9
    assert bench.leadership.liveness.expired() == []


async def test_every_effect_is_performed_by_somebody(bench: Bench) -> None:
    leadership = bench.leadership
    gauges = Gauges(Metrics(node="n1", version="0"), lambda: 0, lambda state: 0, lambda: bench.driver.state)
    parts = (leadership.liveness, leadership.dispatcher, leadership.notifier, gauges)
    assert {kind for part in parts for kind in part.performs} == set(get_args(AnyEffect))
