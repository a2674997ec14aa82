"""What both buses promise of an event: who hears of it, how often, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator_client import EventRun, EventRunState
from tests.cluster.workload import eventually
from tests.conformance.buses import Bus, action, event_task, wait_task

MANY = 12


async def test_an_event_of_a_workflow_reaches_each_active_handler_once(bus: Bus) -> None:
    first = await bus.collect("sold", name="first")
    second = await bus.collect("sold", name="second")
    idle = await bus.collect("sold", name="idle", active=False)
    run = await bus.start(event_task("sells", bus.sink("sold"), n="${workflow.input.n}"), input={"n": 7})
    assert (await run.wait()).status == "COMPLETED"
    assert (await first.all(), await second.all(), await idle.now()) == ([7], [7], [])


async def test_an_event_says_whose_it_is(bus: Bus) -> None:
    seen = await bus.collect("sold", "${workflowInstanceId}/${workflowType}/${correlationId}")
    await bus.client.start(
        {"name": bus.workflow, "tasks": [event_task("sells", bus.sink("sold"))]},
        id=bus.named("seller"), correlation_id="order-7")
    assert await seen.until(f"{bus.named('seller')}/{bus.workflow}/order-7")


async def test_the_order_of_a_workflow_is_kept(bus: Bus) -> None:
    seen = await bus.collect("counted")
    numbers = list(range(MANY))
    await bus.start(*[event_task(f"count_{n}", bus.sink("counted"), n=n) for n in numbers])
    assert await seen.until(numbers[-1]) == numbers


async def test_events_from_outside_are_handled_in_their_order(bus: Bus) -> None:
    seen = await bus.collect("counted")
    for n in range(MANY):
        await bus.publish("counted", {"n": n})
    assert await seen.all() == list(range(MANY))


async def test_an_event_that_comes_again_does_nothing(bus: Bus) -> None:
    seen = await bus.collect("paid")
    for n, event_id in enumerate(("a", "b", "a", "c", "b", "a")):
        await bus.publish("paid", {"n": n}, event_id)
    assert await seen.all() == [0, 1, 3]


async def test_the_same_id_of_another_event_is_another(bus: Bus) -> None:
    paid, sent = await bus.collect("paid"), await bus.collect("sent")
    await bus.publish("paid", {"n": 1}, "a")
    await bus.publish("sent", {"n": 2}, "a")
    assert (await paid.all(), await sent.all()) == ([1], [2])


async def test_a_condition_decides_whether_a_handler_acts(bus: Bus) -> None:
    large = await bus.collect("paid", condition="$.amount > 100")
    for n, amount in enumerate((100, 101, 5, 900)):
        await bus.publish("paid", {"n": n, "amount": amount}, f"event-{n}")

    async def decided() -> list[EventRun]:
        runs = await bus.runs("paid")
        return runs if len(runs) >= 4 else []

    runs = await eventually(decided, "four conditions to be evaluated")
    assert sorted((run.message_id, run.state) for run in runs) == [
        ("event-0", EventRunState.SKIPPED), ("event-1", EventRunState.COMPLETED),
        ("event-2", EventRunState.SKIPPED), ("event-3", EventRunState.COMPLETED)]
    # They are evaluated side by side.
    assert sorted(await large.now()) == [1, 3]


async def test_a_condition_that_can_not_be_evaluated_is_a_failure(bus: Bus) -> None:
    await bus.collect("paid", condition="$.customer.vip.since > 0")
    await bus.publish("paid", {"n": 1})
    [reason] = await bus.failures("paid", 1)
    assert reason


@pytest.mark.parametrize(("value", "found"), [
    ("${order.lines[1].sku}", "b"),
    ("${order.total}", 12.5),
    ("${order.lines}", [{"sku": "a"}, {"sku": "b"}]),
    ("order ${order.id} of ${order.total}", "order o-1 of 12.5"),
    ("${order.missing}", None),
    ("${order.gift}", False),
], ids=["element", "number", "list", "text", "nothing", "flag"])
async def test_parameters_are_filled_from_the_payload(bus: Bus, value: str, found: Any) -> None:
    order = {"id": "o-1", "total": 12.5, "gift": False, "lines": [{"sku": "a"}, {"sku": "b"}]}
    seen = await bus.collect("ordered", value)
    await bus.publish("ordered", {"order": order})
    assert await seen.until(found) == [found]


async def test_a_handler_that_was_deleted_does_nothing_more(bus: Bus) -> None:
    stays, goes = await bus.collect("paid", name="stays"), await bus.collect("paid", name="goes")
    await bus.publish("paid", {"n": 1})
    assert await goes.until(1) == [1]
    await bus.client.events.delete_handler(bus.named("goes"))
    await bus.publish("paid", {"n": 2})
    assert (await stays.all(), await goes.now()) == ([1, 2], [1])


async def test_a_handler_that_is_switched_off_and_on_again_acts_again(bus: Bus) -> None:
    stays, rests = await bus.collect("paid", name="stays"), await bus.collect("paid", name="rests")
    [document] = [each async for each in bus.client.events.handlers(bus.event("paid")) if "rests" in each["name"]]
    for n, active in enumerate((True, False, True)):
        await bus.client.events.put_handler({**document, "active": active})
        await bus.publish("paid", {"n": n})
        await stays.until(n)
    assert (await stays.all(), await rests.all()) == ([0, 1, 2], [0, 2])


async def test_an_action_that_fails_is_told_and_keeps_no_other_from_being_done(bus: Bus) -> None:
    gone = action("terminate_workflow", workflowId="${order}")
    starts = action("start_workflow", name=bus.named("ships"), input={"order": "${order}"})
    await bus.client.register({"name": bus.named("ships"), "tasks": [wait_task("ever", signal="never")]})
    await bus.handler("paid", gone, starts)
    await bus.publish("paid", {"order": "nobody-7"}, "event-7")
    [reason] = await bus.failures("paid", 1)
    assert "nobody-7" in reason
    [shipping] = await bus.started(bus.named("ships"), 1)
    assert shipping.input["order"] == "nobody-7"
    runs = await bus.runs("paid")
    assert {(run.action, run.state) for run in runs} == {
        ("terminate_workflow", EventRunState.FAILED), ("start_workflow", EventRunState.COMPLETED)}
    assert {run.message_id for run in runs} == {"event-7"}


async def test_events_go_to_and_fro_between_workflows(bus: Bus) -> None:
    """One asks, the event starts another, whose event answers the first."""
    answers = {"name": bus.named("answers"), "tasks": [
        event_task("tells", bus.sink("answered"), asker="${workflow.input.asker}", n=42)]}
    await bus.client.register(answers)
    await bus.handler("asked", action("start_workflow", name=answers["name"], input={"asker": "${workflowInstanceId}"}))
    completes = action("complete_task", workflowId="${asker}", taskRefName="waits", output={"n": "${n}"})
    await bus.client.events.put_handler(
        {"name": bus.named("answer"), "event": bus.event("answered", answers["name"]), "active": True,
         "actions": [completes]})
    run = await bus.start(event_task("asks", bus.sink("asked")), wait_task("waits", signal="never"),
                          outputParameters={"n": "${waits.output.n}"})
    execution = await run.wait(60)
    assert (execution.status, execution.output["n"]) == ("COMPLETED", 42)


# --- what is told of workflows and tasks


LISTENER = {"workflowStatusListenerEnabled": True}


async def test_each_status_of_a_workflow_is_told_once_and_in_order(bus: Bus) -> None:
    seen = await bus.collect("status", "${status}")
    run = await bus.start(wait_task("waits", signal="go"), **LISTENER, workflowStatusListenerSink=bus.sink("status"))
    await bus.client.pause(run.workflow_id)
    await bus.client.resume(run.workflow_id)
    await bus.client.signal(run.workflow_id, "go")
    assert await seen.until("COMPLETED") == ["PAUSED", "RUNNING", "COMPLETED"]
    await bus.publish("status", {"status": "end"})
    assert (await seen.until("end"))[3:] == ["end"]


async def test_each_status_of_its_tasks_is_told_once_and_in_order(bus: Bus) -> None:
    seen = await bus.collect("tasks", "${referenceTaskName} ${taskStatus}")
    other = bus.sink("else")
    await bus.start(event_task("one", other), wait_task("two", signal="go"), event_task("three", other),
                    id="told", taskStatusListenerSink=bus.sink("tasks"))
    await bus.client.signal(bus.named("told"), "go")
    told = await seen.until("three COMPLETED")
    assert told == ["one SCHEDULED", "one COMPLETED", "two SCHEDULED", "two IN_PROGRESS", "two COMPLETED",
                    "three SCHEDULED", "three COMPLETED"]


async def test_a_change_of_a_task_is_told_as_its_definition_says(bus: Bus) -> None:
    seen = await bus.collect("changed", "${stateChange} ${by}")
    told = {"onScheduled,onSuccess": [
        {"type": "changed", "sink": bus.sink("changed"), "payload": {"by": "${workflow.input.by}"}}]}
    await bus.start({**wait_task("waits", signal="go"), "onStateChange": told}, id="changes", input={"by": "me"})
    await eventually(seen.now, "the beginning to be told")
    await bus.client.signal(bus.named("changes"), "go")
    assert await seen.until("onSuccess me") == ["onScheduled me", "onSuccess me"]
