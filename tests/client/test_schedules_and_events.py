"""Schedules and events by the SDK, against a real node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import (
    Client,
    EventRunState,
    InvalidRequest,
    NotFound,
    Schedule,
    ScheduleRunState,
    SyncClient,
    TrailEntry,
    TrailEntryKind,
    Workflow,
    WorkflowStatus,
    WrongState,
)

PATIENCE_S = 60
EVERY_SECOND = {
    "name": "beat",
    "cronExpression": "* * * * * *",
    "zoneId": "Europe/Berlin",
    "startWorkflowRequest": {"name": "note", "input": {"by": "clock"}},
}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path, nodes=1) as made:
        yield made
    print(made.nodes["a"].log_tail())


@pytest.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with Client(cluster.endpoints) as made:
        note = Workflow("note")
        note.set_variables(noted=True)
        waits = Workflow("waits")
        waits.returns(by=waits.wait(signal="never").by)
        await made.register(note, waits)
        yield made


async def until(what: str, asked: Callable[[], Any]) -> Any:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if found := await asked():
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise AssertionError(f"waited {PATIENCE_S} s for {what}") from error


async def test_a_schedule_runs_each_second_once_until_it_is_paused(client: Client) -> None:
    await client.schedules.put(EVERY_SECOND)

    async def three() -> Any:
        runs = await client.schedules.runs("beat")
        return runs if len(runs) >= 3 and all(run.state == ScheduleRunState.STARTED for run in runs) else None

    runs = await until("three runs", three)
    times = [run.scheduled_time for run in runs]
    assert times == sorted(times, reverse=True) and all(time.microsecond == 0 for time in times)
    assert times[0] - times[-1] >= timedelta(seconds=len(times) - 1)
    execution = await client.wait(runs[-1].workflow_id, PATIENCE_S)
    assert execution.status == "COMPLETED"
    assert (execution.input["by"], execution.input["_startedByScheduler"]) == ("clock", "beat")
    assert execution.input["_executionId"] == runs[-1].execution_id
    assert execution.input["_schedulerCron"] == runs[-1].cron == "* * * * * * Europe/Berlin"
    await client.schedules.pause("beat", "enough")
    schedule = await client.schedules.get("beat")
    assert (schedule.paused, schedule.paused_reason, schedule.next_time) == (True, "enough", None)
    assert schedule.document == EVERY_SECOND
    started = {execution.workflow_id async for execution in client.search(name="note")}
    runs = await client.schedules.runs("beat")
    assert started == {run.workflow_id for run in runs}


async def test_a_schedule_is_run_by_hand_and_steered(client: Client) -> None:
    waits = {"name": "s", "cronExpression": "0 0 0 1 1 *", "overlapPolicy": "SKIP",
             "startWorkflowRequest": {"name": "waits"}}
    await client.schedules.put(waits)
    ran = await client.schedules.run("s")
    assert ran.state == ScheduleRunState.STARTED
    assert (await client.get(ran.workflow_id)).status == "RUNNING"
    assert (await client.schedules.get("s")).running_workflow_id == ran.workflow_id
    with pytest.raises(WrongState) as caught:
        await client.schedules.run("s")
    assert caught.value.reason == "SCHEDULE_STILL_RUNS"
    await client.schedules.pause("s")
    await client.schedules.resume("s")
    await client.schedules.pause_all("maintenance")
    assert await client.schedules.all_paused()
    await client.schedules.resume_all()
    assert not await client.schedules.all_paused()
    await client.schedules.put({**waits, "name": "t"})
    found: list[Schedule] = [schedule async for schedule in client.schedules.list(page_size=1)]
    assert [schedule.name for schedule in found] == ["s", "t"]
    await client.schedules.delete("s")
    for call in (client.schedules.get("s"), client.schedules.runs("s"), client.schedules.delete("s")):
        with pytest.raises(NotFound):
            await call


async def test_the_next_times_are_told_and_what_is_wrong_is_refused(client: Client) -> None:
    times = await client.schedules.fire_times({**EVERY_SECOND, "cronExpression": "0 0 9 ? * MON"}, 3)
    assert [each.time.weekday() for each in times] == [0, 0, 0]
    assert times[2].time - times[1].time == times[1].time - times[0].time == timedelta(days=7)
    with pytest.raises(InvalidRequest, match="cronExpression: the field of the hour is wrong"):
        await client.schedules.put({**EVERY_SECOND, "cronExpression": "0 0 25 * * *"})
    with pytest.raises(InvalidRequest, match="zoneId: there is no time zone"):
        await client.schedules.put({**EVERY_SECOND, "zoneId": "Mars"})


START = {"action": "start_workflow", "start_workflow": {"name": "note", "input": {"order": "${order.id}"}}}
PAID = {
    "action": "complete_task",
    "complete_task": {"workflowId": "${workflow}", "taskRefName": "wait_never", "output": {"by": "${order.by}"}},
}


async def test_an_event_starts_a_workflow_and_completes_a_task(client: Client) -> None:
    run = await client.start("waits", id="w")
    [waiting] = (await run.get(tasks=True)).tasks
    paid = {**PAID, "complete_task": {**PAID["complete_task"], "taskRefName": waiting.reference}}
    await client.events.put_handler({"name": "h", "event": "paid", "active": True, "actions": [START, paid]})
    payload = {"order": {"id": 7, "by": "card"}, "workflow": "w"}
    first = await client.events.publish("paid", payload, message_id="m")
    again = await client.events.publish("paid", payload, message_id="m")
    assert (first.number, first.handlers, first.repeated) == (1, 1, False)
    assert (again.number, again.repeated) == (1, True)
    assert (await run.result(PATIENCE_S)).by == "card"
    runs = [each async for each in client.events.runs(event="paid", page_size=1)]
    assert {(each.action, each.state, each.message_id) for each in runs} == {
        ("complete_task", EventRunState.COMPLETED, "m"), ("start_workflow", EventRunState.COMPLETED, "m"),
    }
    [started] = [each.workflow_id for each in runs if each.action == "start_workflow"]
    assert (await client.wait(started, PATIENCE_S)).input["order"] == 7


async def test_a_trail_tells_events_and_workflows(client: Client) -> None:
    await client.events.put_handler({"name": "h", "event": "paid", "active": True, "actions": [START]})
    await client.events.publish("paid", {"order": {"id": 7}}, message_id="m", correlation_id="c-7", source="shop")

    async def told() -> list[TrailEntry]:
        return [entry async for entry in client.events.trail("c-7", page_size=2)]

    async def has_ended() -> bool:
        return (await told())[-1].kind is TrailEntryKind.WORKFLOW_ENDED

    await until("the end of the workflow", has_ended)
    came, done, began, ended = await told()
    assert (came.kind, came.event, came.event_id, came.source) == (TrailEntryKind.EVENT_IN, "paid", "m", "shop")
    assert (done.kind, done.action, done.handler, done.caused_by) == ("ACTION", "start_workflow", "h", came.number)
    assert (began.kind, began.workflow, began.caused_by) == ("WORKFLOW_STARTED", "note", done.number)
    assert ended.workflow_id == began.workflow_id == done.workflow_id
    assert ended.workflow_status is WorkflowStatus.COMPLETED
    assert began.time and ended.time and began.time <= ended.time
    execution = await client.get(done.workflow_id)
    assert execution.correlation_id == "c-7"


async def test_an_event_finds_the_workflow_that_waits_for_it_also_if_it_comes_first(client: Client) -> None:
    awaits = Workflow("awaits", input=dict[str, str])
    awaits.returns(by=awaits.wait(event="paid", correlation_key=awaits.input["order"]).by)
    await client.register(awaits)
    correlate = {"correlationKey": "${order.id}", "output": {"by": "${order.by}"}}
    actions = [{"action": "correlate", "correlate": correlate}]
    await client.events.put_handler({"name": "h", "event": "paid", "active": True, "actions": actions})
    await client.events.publish("paid", {"order": {"id": "early", "by": "card"}})
    waiting = await client.start("awaits", {"order": "late"})
    early = await client.start("awaits", {"order": "early"})
    assert (await early.result(PATIENCE_S)).by == "card"
    [why] = await client.explain(waiting.workflow_id)
    assert why.waits_for == "the event 'paid' with the key 'late', or an update of the task"
    await client.events.publish("paid", {"order": {"id": "late", "by": "cash"}})
    assert (await waiting.result(PATIENCE_S)).by == "cash"
    runs = [(run.workflow_id, run.action, run.state) async for run in client.events.runs()]
    assert sorted(runs) == [("", "correlate", "COMPLETED"), (waiting.workflow_id, "correlate", "COMPLETED")]


async def test_a_condition_is_evaluated_where_no_workflow_can_be_hurt(client: Client) -> None:
    handler = {"event": "paid", "active": True, "actions": [START]}
    for name, condition in (("yes", "$.order.amount > 10"), ("no", "$.order.amount > 100"),
                            ("many", "$.order.amount"), ("broken", "$.order.nothing.here")):
        await client.events.put_handler({**handler, "name": name, "condition": condition})
    await client.events.publish("paid", {"order": {"id": 1, "amount": 50}})

    async def decided() -> bool:
        return not [event async for event in client.events.pending()]

    await until("the verdicts", decided)
    states = {run.handler: run.state async for run in client.events.runs()}
    assert states == {"yes": "COMPLETED", "no": "SKIPPED", "many": "COMPLETED", "broken": "FAILED"}
    with pytest.raises(InvalidRequest, match="condition: SyntaxError"):
        await client.events.put_handler({**handler, "name": "worse", "condition": "nonsense("})


async def test_handlers_are_read_listed_and_deleted(client: Client) -> None:
    document = {"name": "h", "event": "paid", "active": True, "actions": [START]}
    await client.events.put_handler(document)
    assert await client.events.handler("h") == document
    assert [each["name"] async for each in client.events.handlers("paid")] == ["h"]
    assert [each["name"] async for each in client.events.handlers("other")] == []
    await client.events.delete_handler("h")
    for call in (client.events.handler("h"), client.events.delete_handler("h")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(InvalidRequest, match=r"actions\[0\]\.action"):
        await client.events.put_handler({**document, "actions": [{"action": "dance"}]})


async def test_the_blocking_face_has_the_same_methods(cluster: LocalCluster, client: Client) -> None:
    def use() -> None:
        with SyncClient(cluster.endpoints) as blocking:
            blocking.schedules.put({**EVERY_SECOND, "paused": True})
            assert [schedule.name for schedule in blocking.schedules.list()] == ["beat"]
            ran = blocking.schedules.run("beat")
            assert [run.workflow_id for run in blocking.schedules.runs("beat")] == [ran.workflow_id]
            blocking.events.put_handler({"name": "h", "event": "e", "active": True, "actions": [START]})
            assert blocking.events.publish("e", {"a": 1}).handlers == 1
            assert [run.handler for run in blocking.events.runs()] == ["h"]
            for part in ("schedules", "events"):
                ours = {name for name in dir(getattr(client, part)) if not name.startswith("_")}
                assert ours <= set(dir(getattr(blocking, part)))

    await asyncio.to_thread(use)
