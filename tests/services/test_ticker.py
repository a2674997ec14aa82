"""Timers fire when log time says so, messages are taken up, and an idle node proposes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.engine.commands import AnyCommand, Continue, FireTimers
from orchestrator.engine.results import AnyResult, Code, Rejected
from orchestrator.services import ticker as ticker_module
from orchestrator.services.ticker import Ticker
from tests.engine.driver import Driver, workflow

DEADLINE_S = 10.0


def nap(seconds: int) -> dict[str, object]:
    return workflow("nap", {"name": "nap", "taskReferenceName": "nap", "type": "WAIT",
                            "inputParameters": {"duration": f"{seconds}s"}})


class Bench:
    def __init__(self) -> None:
        self.driver = Driver()
        self.submitted: list[AnyCommand] = []
        self.changed = asyncio.Event()
        self.refusals = 0
        self.ticker = Ticker(self.submit, lambda: self.driver.machine, lambda: self.driver.now_ms)
        self.running = asyncio.create_task(self.ticker.run())

    async def submit(self, command: AnyCommand) -> AnyResult:
        await asyncio.sleep(0)
        self.submitted.append(command)
        self.changed.set()
        if self.refusals:
            self.refusals -= 1
            return Rejected(Code.INTERNAL, "INTERNAL", "broken")
        result = self.driver.do(command)
        self.ticker.entry_applied()
        return result

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.submitted) < count:
                self.changed.clear()
                await self.changed.wait()
        await self.turns()

    async def turns(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    assert not made.running.done(), "the ticker ended by itself"
    made.running.cancel()


async def test_nothing_is_proposed_while_nothing_is_due(bench: Bench) -> None:
    bench.driver.register(nap(3600))
    bench.driver.start("nap")
    bench.ticker.entry_applied()
    await bench.turns()
    assert bench.submitted == []


async def test_a_timer_fires_once_it_is_due_and_not_before(bench: Bench) -> None:
    bench.driver.register(nap(3600))
    bench.driver.start("nap")
    bench.driver.now_ms += 3_599_999
    bench.ticker.entry_applied()
    await bench.turns()
    assert bench.submitted == []
    bench.driver.now_ms += 1
    # Real time has not passed: it is the entry that makes the ticker look again.
    bench.ticker.entry_applied()
    await bench.wait(1)
    assert bench.submitted == [FireTimers()]
    assert bench.driver.latest("nap").status.name == "COMPLETED"


async def test_it_waits_by_itself_until_the_earliest_timer(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    began, base = loop.time(), bench.driver.now_ms
    bench.driver.register(nap(1))
    bench.driver.start("nap")
    bench.ticker._log_time_ms = lambda: base + 980 + int((loop.time() - began) * 1000)
    bench.ticker.entry_applied()
    bench.driver.now_ms += 1000
    await bench.wait(1)
    assert loop.time() - began >= 0.019
    assert bench.submitted == [FireTimers()]


async def test_messages_that_one_entry_did_not_take_up_are_taken_up_by_others(bench: Bench) -> None:
    bench.driver.register(nap(1))
    for number in range(3):
        bench.driver.start("nap", f"w{number}")
    bench.driver.now_ms += 1000
    machine = bench.driver.machine
    machine.begin_entry(bench.driver.index + 1, 1, bench.driver.now_ms)
    machine.apply(FireTimers())
    machine.end_entry(b"x" * 16)
    bench.driver.index += 1
    assert machine.next_message() is not None
    bench.ticker.entry_applied()
    await bench.wait(1)
    assert set(bench.submitted) == {Continue()}
    assert machine.next_message() is None


async def test_a_refusal_is_not_repeated_in_a_tight_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker_module, "REFUSED_PAUSE_SECONDS", 0.01)
    bench.refusals = 1
    bench.driver.register(nap(1))
    bench.driver.start("nap")
    bench.driver.now_ms += 1000
    bench.ticker.entry_applied()
    await bench.wait(1)
    assert len(bench.submitted) == 1
    await bench.wait(2)
    assert bench.driver.latest("nap").status.name == "COMPLETED"

