"""Conditions of event handlers are evaluated by the leader: each once unless its answer was lost, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from orchestrator.engine.commands import AnyCommand, DecideEvent, DeleteEventHandler, PublishEvent
from orchestrator.engine.evaluations import is_true
from orchestrator.engine.results import AnyResult, Code, Rejected
from orchestrator.engine.triggers import events
from orchestrator.engine.triggers.rows import EventRunState
from orchestrator.integrations.work import Ended, Kind, Outcome, Work
from orchestrator.replication.errors import NotLeader
from orchestrator.services import conditions as module
from orchestrator.services.conditions import Conditions
from tests.engine.driver import Driver
from tests.engine.triggers.making import action, busy_driver, event_runs, put_handler
from tests.replication.cluster import wait_until
from tests.requirements.elements import TRUTHS

START = action("start_workflow", name="report")


class Scripts:
    """Compares `$.n`; what the test wants may happen first."""

    def __init__(self) -> None:
        self.asked: list[Work] = []
        self.outcomes: list[Outcome] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = self.most = 0

    async def execute(self, work: Work) -> Outcome:
        self.asked.append(work)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        if self.outcomes:
            return self.outcomes.pop(0)
        limit = int(msgspec.json.decode(work.parameters)["expression"].removeprefix("$.n > "))
        holds = msgspec.json.decode(work.input)["n"] > limit
        return Outcome(ended=Ended.COMPLETED, output=msgspec.json.encode({"result": holds}))

    async def close(self) -> None:
        pass


class Bench:
    def __init__(self) -> None:
        self.driver: Driver = busy_driver()
        self.scripts = Scripts()
        self.submitted: list[AnyCommand] = []
        self.before: Callable[[AnyCommand], None] = lambda command: None
        self.refusals = 0
        self.service: Conditions | None = None

    async def submit(self, command: AnyCommand) -> AnyResult:
        await asyncio.sleep(0)
        self.before(command)
        self.submitted.append(command)
        if self.refusals:
            self.refusals -= 1
            return Rejected(Code.INTERNAL, "INTERNAL", "broken")
        return self.do(command)

    def do(self, command: AnyCommand) -> AnyResult:
        result = self.driver.do(command)
        if self.service is not None:
            self.service.entry_applied()
        return result

    def publish(self, n: int) -> None:
        self.do(PublishEvent("default", "paid", "", msgspec.json.encode({"n": n})))

    @asynccontextmanager
    async def leading(self, *, scripts: bool = True) -> AsyncIterator[None]:
        self.service = Conditions(self.submit, lambda: self.driver.machine, self.scripts if scripts else None)
        running = asyncio.create_task(self.service.run())
        try:
            yield
            assert not running.done(), "the service has ended by itself"
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            self.service = None

    async def until_decided(self) -> None:
        await wait_until("the verdicts", lambda: not self.driver.state.triggers.undecided)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_condition_sees_what_json_in_strings_says(bench: Bench) -> None:
    put_handler(bench.driver, START, condition="$.n > 1")
    async with bench.leading():
        bench.do(PublishEvent("default", "paid", "", b'{"n":7,"inner":"{\\"a\\":1}"}'))
        await bench.until_decided()
    assert msgspec.json.decode(bench.scripts.asked[0].input) == {"n": 7, "inner": {"a": 1}}


async def test_a_condition_decides_whether_the_handler_acts(bench: Bench) -> None:
    put_handler(bench.driver, START, condition="$.n > 1")
    async with bench.leading():
        for n in (1, 2):
            bench.publish(n)
        await bench.until_decided()
    assert [run.state for run in event_runs(bench.driver)] == [EventRunState.SKIPPED, EventRunState.COMPLETED]
    [work, _] = bench.scripts.asked
    assert (work.kind, work.input, work.parameters) == (Kind.SCRIPT, b'{"n":1}', b'{"expression":"$.n > 1"}')


async def test_what_waits_when_the_term_begins_is_taken_up(bench: Bench) -> None:
    put_handler(bench.driver, START, condition="$.n > 1")
    put_handler(bench.driver, START, condition="$.n > 2", name="other")
    for n in (1, 3):
        bench.publish(n)
    async with bench.leading():
        await bench.until_decided()
    assert len(bench.scripts.asked) == len(bench.submitted) == 4


async def test_a_script_that_fails_is_recorded(bench: Bench) -> None:
    bench.scripts.outcomes = [Outcome(ended=Ended.FAILED_WITH_TERMINAL_ERROR, reason="x is not defined")]
    put_handler(bench.driver, START, condition="x")
    async with bench.leading():
        bench.publish(1)
        await bench.until_decided()
    [run] = event_runs(bench.driver)
    assert (run.state, run.reason) == (EventRunState.FAILED, "x is not defined")


async def test_for_lack_of_an_evaluator_it_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    bench.scripts.outcomes = [Outcome(ended=Ended.FAILED, reason="busy")] * 3
    put_handler(bench.driver, START, condition="$.n > 1")
    async with bench.leading():
        bench.publish(2)
        await bench.until_decided()
    assert len(bench.scripts.asked) == 4 and event_runs(bench.driver)[0].state is EventRunState.COMPLETED


async def test_a_node_that_can_evaluate_nothing_leaves_it_to_the_next_leader(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    put_handler(bench.driver, START, condition="$.n > 1")
    async with bench.leading(scripts=False):
        bench.publish(2)
        await wait_until("the complaint", lambda: "can evaluate scripts" in caplog.text)
    assert bench.submitted == []
    async with bench.leading():
        await bench.until_decided()


async def test_a_refused_verdict_is_given_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    bench.refusals = 1
    put_handler(bench.driver, START, condition="$.n > 1")
    async with bench.leading():
        bench.publish(2)
        await bench.until_decided()
    assert len(bench.submitted) == 2


@pytest.mark.parametrize("how", ["deleted", "changed", "without condition"])
async def test_a_handler_may_change_while_its_condition_is_evaluated(bench: Bench, how: str) -> None:
    bench.scripts.gate.clear()
    put_handler(bench.driver, START, condition="$.n > 1")
    async with bench.leading():
        bench.publish(5)
        await wait_until("the evaluation", lambda: bench.scripts.asked)
        if how == "deleted":
            bench.do(DeleteEventHandler("default", "h"))
        else:
            put_handler(bench.driver, START, condition="$.n > 9" if how == "changed" else None)
        bench.scripts.gate.set()
        await bench.until_decided()
    [run] = event_runs(bench.driver)
    expected = {"deleted": events.GONE, "changed": events.IS_FALSE, "without condition": ""}
    assert run.reason == expected[how]


async def test_few_are_evaluated_at_a_time(bench: Bench) -> None:
    put_handler(bench.driver, START, condition="$.n > 1")
    for _ in range(50):
        bench.publish(1)
    bench.scripts.gate.clear()
    async with bench.leading():
        await wait_until("the first of them", lambda: bench.scripts.running == module.AT_ONCE)
        bench.scripts.gate.set()
        await bench.until_decided()
    assert bench.scripts.most == module.AT_ONCE and len(event_runs(bench.driver)) == 50


async def test_each_event_is_handled_once_wherever_the_leader_dies(bench: Bench) -> None:
    """The verdict may be in the log although whoever gave it never hears so."""
    put_handler(bench.driver, START, condition="$.n > 1")
    put_handler(bench.driver, START, START, name="other", condition="$.n > 2")

    def die(command: AnyCommand) -> None:
        raise NotLeader(None)

    def die_after(command: AnyCommand) -> None:
        bench.driver.do(command)
        raise NotLeader(None)

    for number in range(6):
        bench.publish(5)
        for death in (die, die_after) if number % 2 else (die_after, die):
            if not bench.driver.state.triggers.undecided:
                break
            bench.before = death
            service = Conditions(bench.submit, lambda: bench.driver.machine, bench.scripts)
            with pytest.raises(NotLeader):
                async with asyncio.timeout(10):
                    await service.run()
            bench.driver = bench.driver.restart()
        bench.before = lambda command: None
        async with bench.leading():
            await bench.until_decided()
        assert len(event_runs(bench.driver)) == 3 * (number + 1)
        assert {run.state for run in event_runs(bench.driver)} == {EventRunState.COMPLETED}
    assert bench.driver.state.hot_count == 18
    assert not any(isinstance(command, DecideEvent) and command.error for command in bench.submitted)


@pytest.mark.parametrize(("value", "expected", "case"), TRUTHS)
def test_true_and_numbers_above_zero_hold(value: bytes, expected: bool, case: str) -> None:
    """CONDUCTOR 1.7: a condition returns a boolean; a number above 0 is true. So it is in a loop."""
    assert is_true(value) is expected
