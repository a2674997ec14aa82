"""Schedules are given their times: those that are near, what was missed by the rules, and again by each new leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.engine.commands import (
    AnyCommand,
    ArmSchedule,
    FireTimers,
    PauseSchedule,
    PauseScheduling,
    ResumeSchedule,
    ResumeScheduling,
)
from orchestrator.engine.results import AnyResult, Code, Rejected
from orchestrator.engine.triggers import schedules
from orchestrator.engine.triggers.rows import RunState
from orchestrator.replication.errors import NotLeader
from orchestrator.services import scheduler as module
from orchestrator.services.scheduler import Scheduler
from orchestrator.services.ticker import Ticker
from tests.engine.driver import START_MS, Driver
from tests.engine.triggers.making import MINUTE, busy_driver, end, put, row, run_now, runs, started, states
from tests.replication.cluster import wait_until

HOUR = 60 * MINUTE
DAY = 24 * HOUR
# 2023-11-14 22:13:20 UTC
FIRST_MINUTE = START_MS + 40_000


class Dead(Exception):
    """The leader has died: nothing of what it was about to propose is in the log."""


class Bench:
    """A cluster, as far as its log goes: a leader's services come and go, the log stays."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.now = 1000.0
        self.submitted: list[AnyCommand] = []
        self.proposals_left = -1  # after so many the leader dies; never if negative
        self.answers_left = -1
        self.refusals = 0
        self.services: list[Any] = []

    async def submit(self, command: AnyCommand) -> AnyResult:
        await asyncio.sleep(0)
        if self.proposals_left == 0:
            raise NotLeader(None)
        self.proposals_left -= 1
        self.submitted.append(command)
        if self.refusals:
            self.refusals -= 1
            return Rejected(Code.INTERNAL, "INTERNAL", "broken")
        result = self.driver.do(command)
        if self.proposals_left == 0:
            # In the log, and applied by whoever leads next; the one who proposed it never hears of it.
            raise NotLeader(None)
        self.poke()
        return result

    def poke(self) -> None:
        for service in self.services:
            service.entry_applied()

    @asynccontextmanager
    async def leading(self, *, ticker: bool = False) -> AsyncIterator[None]:
        machine = lambda: self.driver.machine  # noqa: E731 - both services want it
        clock = lambda: self.driver.now_ms  # noqa: E731 - both services want it
        self.services = [Scheduler(self.submit, machine, clock, lambda: self.now)]
        if ticker:
            self.services.append(Ticker(self.submit, machine, clock))
        tasks = [asyncio.create_task(service.run()) for service in self.services]
        yield
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError | NotLeader):
                raise AssertionError(f"a service has ended by {outcome!r}")
        self.services = []

    async def settled(self) -> None:
        """Nothing more is proposed."""
        count = -1
        while count != len(self.submitted):
            count = len(self.submitted)
            for _ in range(300):
                await asyncio.sleep(0)

    def armed(self) -> list[ArmSchedule]:
        return [command for command in self.submitted if isinstance(command, ArmSchedule)]


@pytest.fixture
def bench() -> Bench:
    return Bench(busy_driver())


def due(bench: Bench, name: str = "s") -> list[str]:
    times = [datetime.fromtimestamp(time_ms / 1000, UTC) for time_ms, _ in row(bench.driver, name).due]
    return [time.strftime("%d. %H:%M:%S") for time in times]


async def test_a_schedule_gets_its_next_times(bench: Bench) -> None:
    put(bench.driver)
    async with bench.leading():
        await bench.settled()
        assert due(bench)[:2] == ["14. 22:14:00", "14. 22:15:00"] and len(due(bench)) == module.TIMES_ARMED
        assert len(bench.armed()) == 1


async def test_it_gets_more_before_they_are_used_up(bench: Bench) -> None:
    put(bench.driver)
    async with bench.leading():
        await bench.settled()
        for number in range(40):
            bench.driver.wait(MINUTE)
            bench.poke()
            await bench.settled()
            assert len(row(bench.driver).due) >= module.REFILL_BELOW, number
    assert len(bench.armed()) == 3
    assert row(bench.driver).covered_ms == FIRST_MINUTE + 39 * MINUTE
    assert row(bench.driver).next_run == 41


async def test_several_expressions_in_their_zones_are_one_schedule(bench: Bench) -> None:
    crons = [
        {"cronExpression": "0 0 9 * * *", "zoneId": "Europe/Berlin"},
        {"cronExpression": "0 30 8 * * *", "zoneId": "UTC"},
    ]
    put(bench.driver, cronSchedules=crons)
    async with bench.leading():
        await bench.settled()
    assert due(bench) == ["15. 08:00:00", "15. 08:30:00", "16. 08:00:00", "16. 08:30:00"]
    assert [number for _, number in row(bench.driver).due] == [0, 1, 0, 1]


async def test_a_far_time_is_armed_when_it_is_near(bench: Bench) -> None:
    """Tables of time zones may change until then."""
    put(bench.driver, cronExpression="0 0 0 1 1 *")
    async with bench.leading():
        await bench.settled()
        assert due(bench) == [] and row(bench.driver).timer
        looked = 0
        while not row(bench.driver).due:
            bench.driver.wait(DAY)
            bench.poke()
            await bench.settled()
            looked += 1
            assert looked < 50
        assert due(bench) == ["01. 00:00:00"]
        assert len(bench.armed()) == looked + 1
        bench.driver.wait(2 * DAY)
    assert len(runs(bench.driver)) == 1


async def test_bounds_are_kept_and_then_it_is_over(bench: Bench) -> None:
    put(bench.driver, scheduleStartTime=FIRST_MINUTE + 2 * MINUTE, scheduleEndTime=FIRST_MINUTE + 4 * MINUTE + 1)
    async with bench.leading():
        await bench.settled()
        assert due(bench) == ["14. 22:16:00", "14. 22:17:00", "14. 22:18:00"]
        bench.driver.wait(DAY)
        bench.poke()
        await bench.settled()
    assert len(runs(bench.driver)) == 3 and row(bench.driver).exhausted
    assert bench.driver.state.timers == {}


async def test_what_never_comes_is_over_at_once(bench: Bench) -> None:
    put(bench.driver, cronExpression="0 0 0 31 2 MON")
    async with bench.leading():
        await bench.settled()
    assert row(bench.driver).exhausted and len(bench.armed()) == 1


async def test_thousands_are_given_their_times_a_few_at_a_time(bench: Bench) -> None:
    for number in range(150):
        put(bench.driver, name=f"s{number}")
    async with bench.leading():
        await bench.settled()
    assert len(bench.armed()) == 150
    assert bench.driver.state.triggers.wanting == {}


# --- what was missed


@pytest.mark.parametrize("armed", [False, True], ids=["never armed", "armed"])
async def test_of_what_came_while_nobody_led_the_first_is_run_late(bench: Bench, armed: bool) -> None:
    """As in Conductor. It must not matter whether the leader before had armed it."""
    put(bench.driver)
    if armed:
        async with bench.leading():
            await bench.settled()
    bench.driver.now_ms = FIRST_MINUTE + 200 * MINUTE + 1
    async with bench.leading(ticker=True):
        await bench.settled()
        [late] = [run for run in runs(bench.driver) if run.state is RunState.STARTED]
        [skipped] = [run for run in runs(bench.driver) if run.state is RunState.SKIPPED]
        assert late.scheduled_ms == FIRST_MINUTE
        # Of those that were not armed only the leader knows.
        assert skipped.count == (module.TIMES_ARMED - 1 if armed else 200)
        assert due(bench)[0] == "15. 01:35:00"


async def test_a_schedule_that_catches_up_runs_the_newest_of_what_it_has_missed(bench: Bench) -> None:
    put(bench.driver, runCatchupScheduleInstances=True)
    bench.driver.now_ms = FIRST_MINUTE + 149 * MINUTE + 1
    async with bench.leading(ticker=True):
        await bench.settled()
    kept = row(bench.driver)
    assert kept.next_run == 1 + 1 + module.CATCH_UP_TIMES  # 50 were skipped, in one record
    assert kept.covered_ms == FIRST_MINUTE + 149 * MINUTE
    assert {run.state for run in runs(bench.driver)} == {RunState.STARTED}
    arm = bench.armed()[0]
    assert (arm.skipped, arm.skipped_ms) == (50, FIRST_MINUTE + 49 * MINUTE)
    assert arm.times[0][0] == FIRST_MINUTE + 50 * MINUTE


@pytest.mark.parametrize("catch_up", [False, True])
@pytest.mark.parametrize("everything", [False, True])
async def test_what_came_in_a_pause_is_run_only_by_a_schedule_that_catches_up(
    bench: Bench, catch_up: bool, everything: bool
) -> None:
    put(bench.driver, runCatchupScheduleInstances=catch_up)
    async with bench.leading(ticker=True):
        await bench.settled()
        bench.driver.wait(41_000)
        bench.driver.ok(PauseScheduling("") if everything else PauseSchedule("default", "s", ""))
        bench.driver.wait(5 * MINUTE)
        bench.poke()
        await bench.settled()
        assert len(runs(bench.driver)) == 1
        bench.driver.ok(ResumeScheduling() if everything else ResumeSchedule("default", "s"))
        bench.poke()
        await bench.settled()
        assert len(runs(bench.driver)) == (6 if catch_up else 1)
        bench.driver.wait(MINUTE)
        assert len(runs(bench.driver)) == (7 if catch_up else 2)


async def test_nothing_is_armed_while_all_schedules_are_paused(bench: Bench) -> None:
    put(bench.driver)
    bench.driver.ok(PauseScheduling(""))
    async with bench.leading():
        bench.poke()
        await bench.settled()
        assert bench.armed() == []


# --- what goes wrong


async def test_a_zone_that_is_unknown_here_holds_up_nobody_else(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    put(bench.driver, name="bad", zoneId="Mars/Olympus")
    put(bench.driver, name="good")
    async with bench.leading():
        await bench.settled()
        bench.poke()
        await bench.settled()
        assert due(bench, "good") and not due(bench, "bad")
        assert len([record for record in caplog.records if "can't be computed" in record.message]) == 1
        put(bench.driver, name="bad")
        bench.poke()
        await bench.settled()
        assert due(bench, "bad")


async def test_refused_times_are_proposed_again_after_a_while_only(bench: Bench) -> None:
    put(bench.driver)
    bench.refusals = 1
    async with bench.leading():
        bench.poke()
        await bench.settled()
        assert len(bench.armed()) == 1 and not due(bench)
        bench.now += module.HELD_SECONDS
        bench.poke()
        await bench.settled()
        assert len(bench.armed()) == 2 and due(bench)


async def test_a_held_schedule_is_tried_again_without_anything_else_happening(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_SECONDS", 0.01)
    put(bench.driver)
    bench.refusals = 1
    async with bench.leading():
        await wait_until("the refusal", bench.armed)
        bench.now += 1
        await wait_until("the second proposal", lambda: due(bench))


# --- changes of the leader


@pytest.mark.parametrize("policy", ["ALLOW", "BUFFER_ONE"])
async def test_each_time_is_run_once_wherever_the_leader_dies(policy: str) -> None:
    """The leader dies after any number of its proposals; the next one goes on from the log. Every time runs once."""
    times = 20
    deaths = 0
    for last in range(1, 30):
        bench = Bench(busy_driver())
        put(bench.driver, overlapPolicy=policy)
        bench.proposals_left = last
        async with bench.leading(ticker=True):
            await bench.settled()
            for _ in range(times):
                bench.driver.now_ms += MINUTE
                bench.poke()
                for service in bench.services:
                    service._poked.set()
                await bench.settled()
                if bench.proposals_left == 0:
                    # Nobody leads; the next one begins with nothing but the rows.
                    break
                await end_all(bench)
        deaths += bench.proposals_left == 0
        bench.driver = bench.driver.restart()
        bench.proposals_left = -1
        async with bench.leading(ticker=True):
            await bench.settled()
            await end_all(bench)
            while bench.driver.now_ms < START_MS + times * MINUTE:
                bench.driver.now_ms += MINUTE
                for service in bench.services:
                    service._poked.set()
                await bench.settled()
                await end_all(bench)
        scheduled = [run.scheduled_ms for run in runs(bench.driver)]
        assert scheduled == [FIRST_MINUTE + number * MINUTE for number in range(times)], f"after {last} proposals"
        assert set(states(bench.driver)) == {RunState.STARTED}
        assert len(set(started(bench.driver))) == times
        keys = [key for key in bench.driver.state.hot_keys() if key[1] in started(bench.driver)]
        assert len(keys) == times == bench.driver.state.hot_count
    assert deaths > 20


async def end_all(bench: Bench) -> None:
    driver = bench.driver
    for workflow_id in started(driver):
        if driver.header(workflow_id).status.name == "RUNNING":
            end(driver, workflow_id)
    bench.poke()
    await bench.settled()


async def test_a_run_by_hand_does_not_disturb_the_times(bench: Bench) -> None:
    put(bench.driver)
    async with bench.leading(ticker=True):
        await bench.settled()
        bench.driver.wait(MINUTE)
        run_now(bench.driver)
        bench.driver.wait(MINUTE)
    assert [run.cron for run in runs(bench.driver)] == ["0 * * * * * UTC", "", "0 * * * * * UTC"]
    assert not schedules.scheduling(bench.driver.state).paused
    bench.driver.ok(FireTimers())
