"""Schedules: each time runs once, in the order of time, and what overlaps, is late or is paused goes by the rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits
from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import (
    AnyCommand,
    ArmSchedule,
    DeleteSchedule,
    FireTimers,
    PauseSchedule,
    PauseScheduling,
    RerunWorkflow,
    RestartWorkflow,
    ResumeSchedule,
    ResumeScheduling,
    RetryWorkflow,
    RunSchedule,
    TerminateWorkflow,
)
from orchestrator.engine.model import Table, WorkflowStatus
from orchestrator.engine.results import Code, Done, Rejected, ScheduleRan
from orchestrator.engine.triggers import schedules
from orchestrator.engine.triggers.rows import RunState
from tests.engine.driver import START_MS, Driver
from tests.engine.triggers.making import (
    MINUTE,
    arm,
    busy_driver,
    end,
    input_of,
    put,
    row,
    run_now,
    runs,
    started,
    states,
)


@pytest.fixture
def driver() -> Driver:
    return busy_driver()


# --- times


def test_a_time_runs_when_it_has_come_and_not_before(driver: Driver) -> None:
    put(driver)
    arm(driver, MINUTE)
    driver.wait(MINUTE - 1)
    assert runs(driver) == []
    driver.wait(1)
    [run] = runs(driver)
    assert (run.state, run.scheduled_ms, run.executed_ms) == (RunState.STARTED, START_MS + MINUTE, START_MS + MINUTE)
    assert driver.header(run.workflow_id).status is WorkflowStatus.RUNNING


def test_the_input_says_which_run_it_is(driver: Driver) -> None:
    """CONDUCTOR 1.7: the scheduler adds five fields to the input; the cron expression is followed by its zone."""
    put(driver, zoneId="Europe/Berlin", jitterMs=1000)
    arm(driver, MINUTE)
    driver.wait(MINUTE + 1000)
    [run] = runs(driver)
    assert input_of(driver, run.workflow_id) == {
        "given": 1,
        "_startedByScheduler": "s",
        "_scheduledTime": START_MS + MINUTE,
        "_executedTime": run.executed_ms,
        "_executionId": run.execution_id,
        "_schedulerCron": "0 * * * * * Europe/Berlin",
    }
    assert run.cron == "0 * * * * * Europe/Berlin"
    assert 0 <= run.executed_ms - run.scheduled_ms <= 1000


def test_everything_that_a_start_can_say_is_said(driver: Driver) -> None:
    request = {"name": "report", "version": 1, "correlationId": "c", "priority": 7, "taskToDomain": {"a": "d"}}
    put(driver, startWorkflowRequest=request, createdBy="me")
    arm(driver, MINUTE)
    driver.wait(MINUTE)
    header = driver.header(runs(driver)[0].workflow_id)
    assert (header.version, header.correlation_id, header.priority) == (1, "c", 7)
    assert (header.task_to_domain, header.created_by) == ((("a", "d"),), "me")


def test_of_several_expressions_the_one_is_told_whose_time_it_is(driver: Driver) -> None:
    crons = [{"cronExpression": "0 0 9 * * *"}, {"cronExpression": "0 0 17 * * *", "zoneId": "Asia/Tokyo"}]
    put(driver, cronExpression=None, cronSchedules=crons)
    kept = row(driver)
    times = ((START_MS + MINUTE, 1), (START_MS + 2 * MINUTE, 0))
    driver.ok(ArmSchedule("default", "s", kept.revision, kept.covered_ms, times))
    driver.wait(2 * MINUTE)
    assert [run.cron for run in runs(driver)] == ["0 0 17 * * * Asia/Tokyo", "0 0 9 * * * UTC"]


def test_a_jitter_moves_the_run_and_not_its_time_and_each_run_by_another_amount(driver: Driver) -> None:
    put(driver, jitterMs=30_000)
    arm(driver, *[number * MINUTE for number in range(1, 6)])
    driver.wait(6 * MINUTE)
    assert [run.scheduled_ms for run in runs(driver)] == [START_MS + number * MINUTE for number in range(1, 6)]
    late = [run.executed_ms - run.scheduled_ms for run in runs(driver)]
    assert all(0 <= each <= 30_000 for each in late) and len(set(late)) > 1


def test_times_for_what_the_schedule_was_before_mean_nothing(driver: Driver) -> None:
    put(driver)
    before = row(driver)
    put(driver, cronExpression="0 0 * * * *")
    for command in (
        ArmSchedule("default", "s", before.revision, before.covered_ms, ((START_MS + MINUTE, 0),)),
        ArmSchedule("default", "s", row(driver).revision, before.covered_ms - 1, ((START_MS + MINUTE, 0),)),
        ArmSchedule("default", "gone", 1, 0, ((START_MS + MINUTE, 0),)),
    ):
        assert driver.do(command) == Done()
    assert row(driver).due == ()


def test_the_same_times_twice_are_armed_once(driver: Driver) -> None:
    """Two leaders may have computed them, each not knowing of the other."""
    put(driver)
    kept = row(driver)
    command = ArmSchedule("default", "s", kept.revision, kept.covered_ms, ((START_MS + MINUTE, 0),))
    driver.ok(command)
    after = driver.rows()
    driver.ok(command)
    assert driver.rows() == after
    driver.wait(MINUTE)
    driver.ok(command)
    driver.wait(MINUTE)
    assert len(runs(driver)) == 1


@pytest.mark.parametrize(
    ("times", "more"),
    [
        (((START_MS + 2, 0), (START_MS + 1, 0)), {}),
        (((START_MS + 1, 0), (START_MS + 1, 0)), {}),
        (((START_MS, 0),), {}),
        (((START_MS + 1, 1),), {}),
        (tuple((START_MS + 1 + number, 0) for number in range(limits.SCHEDULE_TIMES + 1)), {}),
        ((), {}),
    ],
)
def test_wrong_times_never_come_true(driver: Driver, times: Any, more: Any) -> None:
    put(driver)
    driver.check = False
    kept = row(driver)
    result = driver.do(ArmSchedule("default", "s", kept.revision, kept.covered_ms, times, **more))
    assert isinstance(result, Rejected) and result.code is Code.INTERNAL
    assert row(driver) == kept


def test_more_times_are_asked_for_before_the_last_one_has_come(driver: Driver) -> None:
    put(driver)
    assert driver.state.triggers.wanting == {("default", "s"): None}
    arm(driver, MINUTE, 2 * MINUTE, 3 * MINUTE, refill_below=2)
    assert driver.state.triggers.wanting == {}
    driver.wait(2 * MINUTE)
    assert len(row(driver).due) == 1 and driver.state.triggers.wanting
    arm(driver, 2 * MINUTE)
    assert [time_ms - START_MS for time_ms, _ in row(driver).due] == [3 * MINUTE, 4 * MINUTE]
    driver.wait(2 * MINUTE)
    assert len(started(driver)) == 4 and driver.state.triggers.wanting


def test_after_its_last_time_nothing_is_asked_for(driver: Driver) -> None:
    put(driver)
    arm(driver, MINUTE, exhausted=True)
    driver.wait(MINUTE)
    assert len(runs(driver)) == 1
    assert (driver.state.triggers.wanting, driver.state.timers) == ({}, {})


def test_a_time_that_is_far_away_is_looked_at_again(driver: Driver) -> None:
    put(driver)
    arm(driver, look_again_ms=START_MS + 10 * MINUTE)
    assert driver.state.triggers.wanting == {}
    driver.wait(10 * MINUTE - 1)
    assert driver.state.triggers.wanting == {}
    driver.wait(1)
    assert driver.state.triggers.wanting and runs(driver) == []
    arm(driver, MINUTE)
    driver.wait(MINUTE)
    assert len(runs(driver)) == 1


# --- times that were missed


def be_away(driver: Driver, ms: int) -> None:
    """Nobody leads for so long: time passes, and no timer fires. Then one fires after the other."""
    driver.now_ms += ms
    driver.ok(FireTimers())
    driver.wait(0)


def test_a_time_that_comes_late_is_run_and_those_missed_behind_it_are_not(driver: Driver) -> None:
    """As in Conductor: what was due is run however late, then the next time is one of the future."""
    put(driver)
    arm(driver, *[number * MINUTE for number in range(1, 6)])
    be_away(driver, 4 * MINUTE + 1)
    first, skipped = runs(driver)
    assert (first.state, first.scheduled_ms) == (RunState.STARTED, START_MS + MINUTE)
    assert (skipped.state, skipped.count, skipped.scheduled_ms) == (RunState.SKIPPED, 3, START_MS + 4 * MINUTE)
    assert skipped.reason == schedules.MISSED
    driver.wait(MINUTE)
    assert states(driver) == [RunState.STARTED, RunState.SKIPPED, RunState.STARTED]


def test_a_schedule_that_catches_up_runs_what_it_has_missed(driver: Driver) -> None:
    put(driver, runCatchupScheduleInstances=True)
    arm(driver, *[number * MINUTE for number in range(1, 6)])
    be_away(driver, 4 * MINUTE + 1)
    assert [run.scheduled_ms - START_MS for run in runs(driver)] == [number * MINUTE for number in range(1, 5)]
    assert set(states(driver)) == {RunState.STARTED}


def test_what_the_leader_says_was_missed_is_recorded_once_for_all(driver: Driver) -> None:
    put(driver)
    arm(driver, MINUTE, skipped=7, skipped_ms=START_MS - 5)
    [skipped] = runs(driver)
    assert (skipped.state, skipped.count, skipped.scheduled_ms) == (RunState.SKIPPED, 7, START_MS - 5)


# --- runs that overlap


def test_runs_may_overlap_by_default(driver: Driver) -> None:
    put(driver)
    arm(driver, MINUTE, 2 * MINUTE)
    driver.wait(2 * MINUTE)
    assert states(driver) == [RunState.STARTED] * 2
    assert driver.state.resident[Table.SCHEDULED] == {}


def test_with_skip_a_time_is_left_out_while_the_run_before_goes_on(driver: Driver) -> None:
    put(driver, overlapPolicy="SKIP")
    arm(driver, *[number * MINUTE for number in range(1, 6)])
    driver.wait(3 * MINUTE)
    assert states(driver) == [RunState.STARTED, RunState.SKIPPED]
    assert (runs(driver)[1].count, runs(driver)[1].reason) == (2, schedules.OVERLAPS)
    end(driver, started(driver)[0])
    driver.wait(MINUTE)
    assert states(driver) == [RunState.STARTED, RunState.SKIPPED, RunState.STARTED]


@pytest.mark.parametrize("how", ["completed", "terminated", "failed"])
def test_with_buffer_one_run_waits_for_the_end_however_it_comes(driver: Driver, how: str) -> None:
    put(driver, overlapPolicy="BUFFER_ONE")
    arm(driver, *[number * MINUTE for number in range(1, 4)])
    driver.wait(3 * MINUTE)
    assert states(driver) == [RunState.STARTED, RunState.BUFFERED, RunState.SKIPPED]
    first = started(driver)[0]
    if how == "completed":
        end(driver, first)
    elif how == "terminated":
        driver.ok(TerminateWorkflow("default", first, "enough", TerminateCompensation.SKIP))
    else:
        driver.register_task(name="a", retryCount=0)
        driver.worker("w", "a")
        driver.fail("a", workflow_id=first)
        driver.wait(1_000_000)
        while driver.header(first).status is WorkflowStatus.RUNNING:
            driver.fail("a", workflow_id=first)
            driver.wait(100_000)
    assert driver.header(first).status is not WorkflowStatus.RUNNING
    _, second, _ = runs(driver)
    assert second.state is RunState.STARTED
    assert second.scheduled_ms == START_MS + 2 * MINUTE < second.executed_ms
    assert input_of(driver, second.workflow_id)["_executedTime"] == second.executed_ms
    assert row(driver).buffered == 0


def test_with_terminate_the_run_before_gives_way_and_what_it_owes_is_undone(driver: Driver) -> None:
    put(driver, overlapPolicy="TERMINATE_RUNNING")
    driver.worker("w", "a", "undo_a", slots=9)
    arm(driver, MINUTE, 2 * MINUTE)
    driver.wait(MINUTE)
    [first] = started(driver)
    driver.give("a", workflow_id=first)
    driver.wait(MINUTE)
    first, second = started(driver)
    assert driver.header(first).status is WorkflowStatus.COMPENSATING
    assert driver.header(second).status is WorkflowStatus.RUNNING
    driver.give(driver.undoing("a", first), workflow_id=first)
    assert driver.header(first).status is WorkflowStatus.TERMINATED
    assert driver.header(first).reason == "terminated for the next run of schedule s"
    # The end of the first is none of the second's.
    assert row(driver).running == second


def test_a_run_that_waits_is_remembered_longer_than_others(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SCHEDULE_RUNS_KEPT", 3)
    put(driver, overlapPolicy="BUFFER_ONE")
    arm(driver, MINUTE, 2 * MINUTE)
    driver.wait(2 * MINUTE)
    first = started(driver)[0]
    for number in range(4):
        # Two reasons by turns, so that they are records of their own.
        arm(driver, MINUTE, skipped=1, skipped_ms=driver.now_ms)
        driver.wait(MINUTE)
        assert number < 1 or runs(driver)[0].number == 2
    assert states(driver)[0] is RunState.BUFFERED and len(runs(driver)) == 4
    end(driver, first)
    assert RunState.BUFFERED not in states(driver) and len(runs(driver)) == 3
    assert driver.header(row(driver).running).status is WorkflowStatus.RUNNING


AGAIN = (RetryWorkflow, RestartWorkflow, RerunWorkflow)


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("again", AGAIN)
def test_a_run_that_runs_again_on_an_operators_word_overlaps_too(
    driver: Driver, again: Callable[[str, str], AnyCommand], by_hand: bool
) -> None:
    put(driver, overlapPolicy="SKIP")
    if by_hand:
        run_now(driver)
    else:
        arm(driver, MINUTE)
        driver.wait(MINUTE)
    [first] = started(driver)
    driver.ok(TerminateWorkflow("default", first, "enough", TerminateCompensation.SKIP))
    assert row(driver).running == ""
    driver.ok(again("default", first))
    driver = driver.restart()
    assert row(driver).running == first
    arm(driver, MINUTE, 2 * MINUTE)
    driver.wait(MINUTE)
    assert states(driver) == [RunState.STARTED, RunState.SKIPPED]
    end(driver, first)
    assert row(driver).running == ""
    driver.wait(MINUTE)
    assert states(driver)[2] is RunState.STARTED


def test_an_older_run_that_runs_again_beside_a_newer_one_is_waited_for_too(driver: Driver) -> None:
    put(driver, overlapPolicy="BUFFER_ONE")
    arm(driver, MINUTE, 2 * MINUTE, 3 * MINUTE)
    driver.wait(MINUTE)
    [first] = started(driver)
    driver.ok(TerminateWorkflow("default", first, "enough", TerminateCompensation.SKIP))
    driver.wait(MINUTE)
    _, second = started(driver)
    driver.ok(RestartWorkflow("default", first))
    assert row(driver).running == second
    driver.wait(MINUTE)
    end(driver, second)
    driver = driver.restart()
    assert row(driver).running == first
    assert states(driver)[2] is RunState.BUFFERED
    end(driver, first)
    assert states(driver) == [RunState.STARTED] * 3
    assert row(driver).running == started(driver)[2]


def test_with_terminate_whatever_runs_again_gives_way_as_well(driver: Driver) -> None:
    put(driver, overlapPolicy="TERMINATE_RUNNING")
    arm(driver, MINUTE, 2 * MINUTE, 3 * MINUTE)
    driver.wait(2 * MINUTE)
    first, second = started(driver)
    driver.ok(RestartWorkflow("default", first))
    driver.wait(MINUTE)
    assert [driver.header(one).status for one in (first, second)] == [WorkflowStatus.TERMINATED] * 2
    assert driver.header(started(driver)[2]).status is WorkflowStatus.RUNNING


def test_what_has_overlapped_by_its_policy_is_not_waited_for_when_it_runs_again(driver: Driver) -> None:
    put(driver)
    arm(driver, MINUTE)
    driver.wait(MINUTE)
    [first] = started(driver)
    driver.ok(TerminateWorkflow("default", first, "enough", TerminateCompensation.SKIP))
    driver.ok(RestartWorkflow("default", first))
    assert driver.state.resident[Table.SCHEDULED] == {}


def test_only_the_newest_runs_are_kept(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCHEDULE_RUNS_KEPT", 3)
    put(driver)
    arm(driver, *[number * MINUTE for number in range(1, 7)])
    driver.wait(6 * MINUTE)
    assert [run.number for run in runs(driver)] == [4, 5, 6]


# --- what can't be started


def test_a_start_that_is_refused_is_recorded_and_the_schedule_goes_on(driver: Driver) -> None:
    put(driver, startWorkflowRequest={"name": "later"}, overlapPolicy="SKIP")
    arm(driver, MINUTE, 2 * MINUTE)
    driver.wait(MINUTE)
    [run] = runs(driver)
    assert (run.state, run.reason) == (RunState.FAILED, "no workflow definition is called later")
    assert (row(driver).running, driver.state.resident[Table.SCHEDULED]) == ("", {})
    put(driver, overlapPolicy="SKIP")
    driver.wait(MINUTE)
    assert states(driver) == [RunState.FAILED, RunState.STARTED]


def test_a_run_that_waited_and_is_refused_leaves_the_way_free(driver: Driver) -> None:
    put(driver, overlapPolicy="BUFFER_ONE")
    arm(driver, MINUTE, 2 * MINUTE, 3 * MINUTE)
    driver.wait(2 * MINUTE)
    put(driver, overlapPolicy="BUFFER_ONE", startWorkflowRequest={"name": "later"})
    end(driver, started(driver)[0])
    assert states(driver) == [RunState.STARTED, RunState.FAILED]
    put(driver, overlapPolicy="BUFFER_ONE")
    driver.wait(MINUTE)
    assert states(driver)[2] is RunState.STARTED


# --- pausing


def test_a_paused_schedule_runs_nothing_and_resumed_goes_on_from_then(driver: Driver) -> None:
    put(driver)
    arm(driver, MINUTE, 2 * MINUTE)
    driver.ok(PauseSchedule("default", "s", "holiday"))
    assert (row(driver).paused, row(driver).paused_reason) == (True, "holiday")
    assert driver.state.timers == {} and driver.state.triggers.wanting == {}
    driver.wait(5 * MINUTE)
    driver.ok(ResumeSchedule("default", "s"))
    assert runs(driver) == []
    # The leader is asked for times after now, so nothing that was missed is among them.
    assert row(driver).covered_ms == driver.now_ms and driver.state.triggers.wanting


def test_one_that_catches_up_is_owed_the_times_of_its_pause(driver: Driver) -> None:
    put(driver, runCatchupScheduleInstances=True)
    arm(driver, MINUTE)
    driver.wait(MINUTE)
    driver.ok(PauseSchedule("default", "s", ""))
    driver.wait(5 * MINUTE)
    driver.ok(ResumeSchedule("default", "s"))
    assert row(driver).covered_ms == START_MS + MINUTE and driver.state.triggers.wanting


def test_pausing_and_resuming_twice_is_the_same_as_once(driver: Driver) -> None:
    put(driver)
    arm(driver, MINUTE)
    driver.ok(ResumeSchedule("default", "s"))
    assert row(driver).due
    driver.ok(PauseSchedule("default", "s", "one"))
    driver.ok(PauseSchedule("default", "s", "two"))
    assert row(driver).paused_reason == "two"


def test_times_that_were_computed_before_the_pause_mean_nothing_after_it(driver: Driver) -> None:
    put(driver)
    kept = row(driver)
    command = ArmSchedule("default", "s", kept.revision, kept.covered_ms, ((START_MS + MINUTE, 0),))
    driver.ok(PauseSchedule("default", "s", ""))
    driver.ok(command)
    assert row(driver).due == ()
    driver.ok(ResumeSchedule("default", "s"))
    driver.ok(command)
    assert row(driver).due == ()


def test_all_schedules_are_paused_at_once_and_go_on_at_once(driver: Driver) -> None:
    put(driver)
    put(driver, name="other")
    for name in ("s", "other"):
        arm(driver, MINUTE, 10 * MINUTE, name=name)
    driver.ok(PauseScheduling("maintenance"))
    assert schedules.scheduling(driver.state).reason == "maintenance"
    driver.wait(2 * MINUTE)
    assert runs(driver) == runs(driver, "other") == []
    # What had come is not covered: the leader says what becomes of it.
    assert row(driver).covered_ms == START_MS and row(driver).due == ()
    driver.ok(ResumeScheduling())
    assert schedules.scheduling(driver.state) == schedules.Scheduling(False, "", driver.now_ms)
    assert sorted(driver.state.triggers.wanting) == [("default", "other"), ("default", "s")]


def test_a_pause_of_all_that_is_over_before_a_time_comes_changes_nothing(driver: Driver) -> None:
    put(driver)
    arm(driver, MINUTE)
    driver.ok(PauseScheduling(""))
    driver.ok(ResumeScheduling())
    driver.wait(MINUTE)
    assert states(driver) == [RunState.STARTED]


def test_a_document_may_pause_its_schedule(driver: Driver) -> None:
    put(driver, paused=True, pausedReason="not yet")
    assert (row(driver).paused, row(driver).paused_reason) == (True, "not yet")
    put(driver)
    assert not row(driver).paused and driver.state.triggers.wanting
    arm(driver, MINUTE)
    put(driver, paused=True)
    driver.wait(2 * MINUTE)
    assert runs(driver) == []


# --- by hand


@pytest.mark.parametrize("paused", [False, True])
def test_a_schedule_can_be_run_now_whatever_its_times_are(driver: Driver, paused: bool) -> None:
    put(driver, paused=paused)
    ran = run_now(driver)
    [run] = runs(driver)
    assert ran == ScheduleRan(run.execution_id, RunState.STARTED, run.workflow_id)
    assert (run.state, run.scheduled_ms, run.cron) == (RunState.STARTED, START_MS, "")
    given = input_of(driver, run.workflow_id)
    assert (given["_executionId"], given["_schedulerCron"], given["given"]) == (run.execution_id, "", 1)


def test_a_run_by_hand_that_can_not_start_is_refused_and_leaves_no_record(driver: Driver) -> None:
    put(driver, startWorkflowRequest={"name": "later"})
    result = run_now(driver)
    assert isinstance(result, Rejected) and result.reason == "WORKFLOW_DEFINITION_NOT_FOUND"
    assert runs(driver) == []


# --- idempotency keys


def keyed(strategy: str) -> dict[str, Any]:
    return {"name": "report", "idempotencyKey": "k", "idempotencyStrategy": strategy}


def test_with_return_existing_there_is_one_execution_and_further_times_are_skipped(driver: Driver) -> None:
    """The record names the execution there is; the next time does not wait for it."""
    put(driver, startWorkflowRequest=keyed("RETURN_EXISTING"), overlapPolicy="BUFFER_ONE")
    first = run_now(driver)
    end(driver, first.workflow_id)
    arm(driver, MINUTE, 2 * MINUTE)
    driver.wait(2 * MINUTE)
    assert states(driver) == [RunState.STARTED, RunState.SKIPPED, RunState.SKIPPED]
    assert [run.workflow_id for run in runs(driver)] == [first.workflow_id] * 3
    assert runs(driver)[1].reason == schedules.THERE
    assert (row(driver).running, driver.state.resident[Table.SCHEDULED]) == ("", {})
    again = run_now(driver)
    assert (again.state, again.workflow_id) == (RunState.SKIPPED, first.workflow_id)


def test_with_fail_on_running_a_time_fails_while_an_execution_of_the_key_runs(driver: Driver) -> None:
    """Whoever has started it; when it has ended, the next time starts another."""
    assert not isinstance(driver.start("report", "mine", idempotency_key="k"), Rejected)
    put(driver, startWorkflowRequest=keyed("FAIL_ON_RUNNING"))
    arm(driver, MINUTE, 2 * MINUTE)
    driver.wait(MINUTE)
    assert states(driver) == [RunState.FAILED]
    assert "'mine'" in runs(driver)[0].reason
    refused = run_now(driver)
    assert isinstance(refused, Rejected) and refused.reason == "IDEMPOTENCY_KEY_TAKEN"
    end(driver, "mine")
    driver.wait(MINUTE)
    assert states(driver) == [RunState.FAILED, RunState.STARTED]
    assert driver.header(runs(driver)[1].workflow_id).idempotency_key == "k"


def test_the_overlap_policy_holds_for_runs_by_hand(driver: Driver) -> None:
    for policy in ("SKIP", "BUFFER_ONE", "TERMINATE_RUNNING"):
        put(driver, name=policy, overlapPolicy=policy)
        run_now(driver, policy)
    refused = run_now(driver, "SKIP")
    assert isinstance(refused, Rejected) and refused.reason == "SCHEDULE_STILL_RUNS"
    waits = run_now(driver, "BUFFER_ONE")
    assert (waits.state, waits.workflow_id) == (RunState.BUFFERED, "")
    refused = run_now(driver, "BUFFER_ONE")
    assert isinstance(refused, Rejected) and refused.reason == "SCHEDULE_STILL_RUNS"
    second = run_now(driver, "TERMINATE_RUNNING")
    first = runs(driver, "TERMINATE_RUNNING")[0].workflow_id
    assert driver.header(first).status is WorkflowStatus.TERMINATED
    assert row(driver, "TERMINATE_RUNNING").running == second.workflow_id


# --- changes


def test_a_change_of_the_times_counts_from_now_and_any_other_leaves_them(driver: Driver) -> None:
    put(driver)
    arm(driver, MINUTE)
    before = row(driver)
    driver.wait(1000)
    put(driver, startWorkflowRequest={"name": "report", "input": {"given": 2}})
    after = row(driver)
    assert (after.due, after.timer, after.revision) == (before.due, before.timer, before.revision)
    assert (after.created_ms, after.updated_ms) == (START_MS, START_MS + 1000)
    for timing in ({"zoneId": "Asia/Tokyo"}, {"scheduleStartTime": START_MS}, {"scheduleEndTime": START_MS * 2}):
        put(driver, **timing)
        assert (row(driver).due, row(driver).timer, row(driver).covered_ms) == ((), 0, driver.now_ms)
        arm(driver, MINUTE)


def test_a_deleted_schedule_leaves_nothing_but_its_executions(driver: Driver) -> None:
    put(driver, overlapPolicy="BUFFER_ONE")
    arm(driver, MINUTE, 2 * MINUTE, 3 * MINUTE)
    driver.wait(2 * MINUTE)
    [first] = started(driver)
    assert driver.do(DeleteSchedule("default", "s")) == Done()
    assert (runs(driver), driver.state.timers, driver.state.triggers.wanting) == ([], {}, {})
    end(driver, first)
    assert driver.header(first).status is WorkflowStatus.COMPLETED
    assert driver.state.resident[Table.SCHEDULED] == driver.state.resident[Table.SCHEDULE] == {}


def test_a_new_schedule_of_the_same_name_does_not_wait_for_the_old_ones_run(driver: Driver) -> None:
    put(driver, overlapPolicy="SKIP")
    first = run_now(driver).workflow_id
    driver.ok(DeleteSchedule("default", "s"))
    put(driver, overlapPolicy="SKIP")
    second = run_now(driver).workflow_id
    end(driver, first)
    assert row(driver).running == second


@pytest.mark.parametrize(
    "command", [DeleteSchedule("default", "no"), PauseSchedule("default", "no", ""), ResumeSchedule("other", "s")]
)
def test_what_is_not_there_is_not_found(driver: Driver, command: Any) -> None:
    put(driver)
    result = driver.do(command)
    assert isinstance(result, Rejected) and result.reason == "SCHEDULE_NOT_FOUND"


def test_there_may_be_so_many_schedules(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCHEDULES", 1)
    put(driver)
    assert put(driver) == Done()
    result = put(driver, name="other")
    assert isinstance(result, Rejected) and result.reason == "SCHEDULES_FULL"


# --- what must not happen


@pytest.mark.patches_engine
def test_a_schedule_that_breaks_stands_still_and_all_others_go_on(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.check = False
    plain = schedules.run

    def broken(step: Any, kept: Any, *more: Any) -> Any:
        if kept.name == "bad":
            raise LookupError("words that may differ between nodes")
        return plain(step, kept, *more)

    for name in ("bad", "s"):
        put(driver, name=name)
        arm(driver, MINUTE, 2 * MINUTE, name=name)
    with monkeypatch.context() as patched:
        patched.setattr(schedules, "run", broken)
        driver.wait(MINUTE)
    assert row(driver, "bad").paused and "LookupError" in row(driver, "bad").paused_reason
    assert "words" not in row(driver, "bad").paused_reason
    driver.wait(MINUTE)
    assert (states(driver), runs(driver, "bad")) == ([RunState.STARTED] * 2, [])
    # It goes on when somebody says so.
    driver.ok(ResumeSchedule("default", "bad"))
    arm(driver, MINUTE, name="bad")
    driver.wait(MINUTE)
    assert states(driver, "bad") == [RunState.STARTED]


def test_a_timer_that_has_fired_means_nothing_once_the_schedule_is_paused(driver: Driver) -> None:
    put(driver)
    arm(driver, MINUTE)
    driver.now_ms += MINUTE
    assert driver.entry(FireTimers(), PauseSchedule("default", "s", "")) == [Done(), Done()]
    assert runs(driver) == [] and row(driver).covered_ms == START_MS


def test_a_run_that_waits_is_run_after_one_by_hand_that_came_in_between(driver: Driver) -> None:
    put(driver, overlapPolicy="BUFFER_ONE")
    run_now(driver)
    run_now(driver)
    [first] = started(driver)
    terminate = TerminateWorkflow("default", first, "", TerminateCompensation.SKIP)
    # In one entry: nothing that the end has sent for is taken up in between.
    driver.entry(terminate, RunSchedule("default", "s"))
    assert states(driver) == [RunState.STARTED, RunState.BUFFERED, RunState.STARTED]
    end(driver, row(driver).running)
    assert states(driver) == [RunState.STARTED] * 3


# --- replicas


def test_a_replica_that_restored_its_rows_goes_on_alike(driver: Driver) -> None:
    driver.register_task(name="a", retryCount=0)
    put(driver, overlapPolicy="BUFFER_ONE", jitterMs=500)
    arm(driver, *[number * MINUTE for number in range(1, 5)], refill_below=2)
    driver.wait(2 * MINUTE + 500)
    twin = driver.restart()
    for each in (driver, twin):
        end(each, started(each)[0])
        each.wait(2 * MINUTE)
    assert twin.machine.chain == driver.machine.chain
    assert twin.rows() == driver.rows()
    assert twin.state.triggers.wanting == driver.state.triggers.wanting
    assert len(started(driver)) > 1
    assert msgspec.json.encode(row(driver)) == msgspec.json.encode(row(twin))


def test_an_execution_that_went_cold_tells_its_schedule_too(driver: Driver) -> None:
    driver.check = False
    driver.evict = True
    put(driver, overlapPolicy="BUFFER_ONE")
    arm(driver, MINUTE, 2 * MINUTE)
    driver.wait(2 * MINUTE)
    end(driver, started(driver)[0])
    assert states(driver) == [RunState.STARTED] * 2
