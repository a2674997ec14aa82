"""Schedules over the wire: put, read, steered and run by hand, and what is wrong is named by its path."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from orchestrator.engine import commands
from orchestrator.engine.triggers.rows import RunState
from orchestrator_api.v1 import schedules_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, ReadOptions, RequestIdentity
from tests.engine.driver import START_MS, simple, workflow
from tests.engine.triggers.making import MINUTE, arm, document, row
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of
from tests.rpc.test_definitions import failure


async def put(stubs: Stubs, **fields: Any) -> None:
    await stubs.schedules.PutSchedule(pb.PutScheduleRequest(schedule_json=json.dumps(document(**fields)).encode()))


async def get(stubs: Stubs, name: str = "s") -> Any:
    return await stubs.schedules.GetSchedule(pb.GetScheduleRequest(name=name))


@pytest.fixture(autouse=True)
def report(bench: Bench) -> None:
    bench.driver.register(workflow("report", simple("a")))


async def test_a_schedule_is_read_back_with_how_far_it_has_come(bench: Bench, stubs: Stubs) -> None:
    await put(stubs, overlapPolicy="SKIP")
    arm(bench.driver, MINUTE, 2 * MINUTE, exhausted=True)
    bench.driver.wait(MINUTE)
    schedule = (await get(stubs)).schedule
    assert json.loads(schedule.schedule_json) == document(overlapPolicy="SKIP")
    assert (schedule.name, schedule.paused, schedule.ended) == ("s", False, False)
    assert schedule.create_time.ToMilliseconds() == schedule.update_time.ToMilliseconds() == START_MS
    assert schedule.next_time.ToMilliseconds() == START_MS + 2 * MINUTE
    assert schedule.running_workflow_id == row(bench.driver).running
    bench.driver.wait(MINUTE)
    schedule = (await get(stubs)).schedule
    assert schedule.ended and not schedule.HasField("next_time")


async def test_runs_are_listed_the_newest_first(bench: Bench, stubs: Stubs) -> None:
    await put(stubs, overlapPolicy="SKIP")
    arm(bench.driver, MINUTE, 2 * MINUTE, 3 * MINUTE)
    bench.driver.wait(3 * MINUTE)
    runs = (await stubs.schedules.ListScheduleRuns(pb.ListScheduleRunsRequest(name="s"))).runs
    skipped, started = runs
    assert (skipped.state, skipped.count) == (pb.SCHEDULE_RUN_STATE_SKIPPED, 2)
    assert skipped.reason == "the run before has not ended"
    assert (started.state, started.cron) == (pb.SCHEDULE_RUN_STATE_STARTED, "0 * * * * * UTC")
    assert started.workflow_id and started.execution_id
    assert started.scheduled_time.ToMilliseconds() == started.executed_time.ToMilliseconds() == START_MS + MINUTE


async def test_a_schedule_is_paused_resumed_and_deleted(bench: Bench, stubs: Stubs) -> None:
    await put(stubs)
    await stubs.schedules.PauseSchedule(pb.PauseScheduleRequest(name="s", reason="why"))
    schedule = (await get(stubs)).schedule
    assert (schedule.paused, schedule.paused_reason) == (True, "why")
    await stubs.schedules.ResumeSchedule(pb.ResumeScheduleRequest(name="s"))
    assert not (await get(stubs)).schedule.paused
    session = bench.apply(commands.OpenClientSession("default")).session_id  # type: ignore[union-attr]
    identity = RequestIdentity(session={"id": session, "sequence": 1})
    for _ in range(2):
        await stubs.schedules.DeleteSchedule(pb.DeleteScheduleRequest(name="s", request=identity))
    assert info_of(await failure(get(stubs))).reason == "SCHEDULE_NOT_FOUND"


async def test_all_are_paused_and_resumed(stubs: Stubs) -> None:
    await put(stubs)
    await stubs.schedules.PauseAllSchedules(pb.PauseAllSchedulesRequest(reason="maintenance"))
    listed = await stubs.schedules.ListSchedules(pb.ListSchedulesRequest())
    assert (listed.all_paused, listed.all_paused_reason) == (True, "maintenance")
    assert (await get(stubs)).all_paused and not (await get(stubs)).schedule.paused
    await stubs.schedules.ResumeAllSchedules(pb.ResumeAllSchedulesRequest())
    assert not (await get(stubs)).all_paused


async def test_they_are_listed_by_name_and_by_the_page(stubs: Stubs) -> None:
    for name in ("b", "a", "c"):
        await put(stubs, name=name)
    first = await stubs.schedules.ListSchedules(pb.ListSchedulesRequest(page=PageRequest(size=2)))
    second = await stubs.schedules.ListSchedules(
        pb.ListSchedulesRequest(page=PageRequest(size=2, token=first.next_token), read=ReadOptions(stale_ok=True))
    )
    assert [each.name for each in first.schedules] == ["a", "b"]
    assert ([each.name for each in second.schedules], second.next_token) == (["c"], "")
    other = await stubs.schedules.ListSchedules(pb.ListSchedulesRequest(namespace="other"))
    assert list(other.schedules) == []


async def test_a_schedule_is_run_by_hand(bench: Bench, stubs: Stubs) -> None:
    await put(stubs, overlapPolicy="BUFFER_ONE")
    ran = await stubs.schedules.RunSchedule(pb.RunScheduleRequest(name="s"))
    assert ran.state == pb.SCHEDULE_RUN_STATE_STARTED
    assert bench.driver.header(ran.workflow_id).name == "report"
    ran = await stubs.schedules.RunSchedule(pb.RunScheduleRequest(name="s"))
    assert (ran.state, ran.workflow_id) == (pb.SCHEDULE_RUN_STATE_BUFFERED, "")
    error = await failure(stubs.schedules.RunSchedule(pb.RunScheduleRequest(name="s")))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SCHEDULE_STILL_RUNS")
    assert {RunState(number) for number in (1, 2, 3, 4, 5)} == set(RunState)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"cronExpression": "61 * * * * *"}, "cronExpression"),
        ({"zoneId": "Mars"}, "zoneId"),
        ({"cronSchedules": [{"cronExpression": "* * * * *"}, {"cronExpression": "x"}]},
         "cronSchedules[1].cronExpression"),
        ({"cronSchedules": [{"cronExpression": "* * * * *", "zoneId": "x"}, {"cronExpression": "* * * * *"}]},
         "cronSchedules[0].zoneId"),
        ({"overlapPolicy": "x"}, "overlapPolicy"),
    ],
)
async def test_what_is_wrong_is_named_by_its_path_and_costs_no_log_entry(
    bench: Bench, stubs: Stubs, fields: Any, path: str
) -> None:
    error = await failure(put(stubs, **fields))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SCHEDULE_INVALID")
    assert info_of(error).metadata["path"] == path and path in (error.details() or "")
    assert bench.submitted == []


async def test_what_is_not_built_is_refused(stubs: Stubs) -> None:
    error = await failure(put(stubs, startWorkflowRequest={"name": "a", "externalInputPayloadStoragePath": "k"}))
    assert info_of(error).reason == "DEFINITION_UNIMPLEMENTED"


async def test_the_next_times_are_told_of_a_schedule_and_of_an_idea(bench: Bench, stubs: Stubs) -> None:
    await put(stubs, zoneId="Asia/Tokyo", paused=True)
    told = (await stubs.schedules.ListFireTimes(pb.ListFireTimesRequest(name="s"))).times
    first = START_MS + 40_000
    assert [each.time.ToMilliseconds() for each in told] == [first + number * MINUTE for number in range(5)]
    assert told[0].cron == "0 * * * * * Asia/Tokyo"
    # They are those after now, however long ago the last entry of the log was made.
    bench.driver.now_ms += MINUTE
    told = (await stubs.schedules.ListFireTimes(pb.ListFireTimesRequest(name="s", count=1))).times
    assert told[0].time.ToMilliseconds() == first + MINUTE
    idea = json.dumps(document(cronExpression="0 0 0 1 1 *", scheduleEndTime=START_MS + 10**11)).encode()
    told = (await stubs.schedules.ListFireTimes(pb.ListFireTimesRequest(schedule_json=idea, count=100))).times
    assert [each.time.ToDatetime().year for each in told] == [2024, 2025, 2026, 2027]
    assert len(bench.submitted) == 1
    for request, field in (
        (pb.ListFireTimesRequest(name="s", count=101), "count"),
        (pb.ListFireTimesRequest(), "name"),
        (pb.ListFireTimesRequest(name="s", schedule_json=idea), "name"),
        (pb.ListFireTimesRequest(schedule_json=b"{}"), "schedule_json"),
    ):
        assert info_of(await failure(stubs.schedules.ListFireTimes(request))).metadata["field"] == field


async def test_what_is_not_there_is_not_found(stubs: Stubs) -> None:
    for method in ("GetSchedule", "DeleteSchedule", "PauseSchedule", "ResumeSchedule", "RunSchedule",
                   "ListScheduleRuns", "ListFireTimes"):
        request = getattr(pb, f"{method}Request")(name="no")
        error = await failure(getattr(stubs.schedules, method)(request))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "SCHEDULE_NOT_FOUND"), method
        error = await failure(getattr(stubs.schedules, method)(getattr(pb, f"{method}Request")()))
        assert info_of(error).metadata["field"] == "name"
