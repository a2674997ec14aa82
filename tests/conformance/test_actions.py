"""What both buses promise of what an event does: each action takes effect, on whom the event names."""

from __future__ import annotations

from orchestrator_client import TrailEntry, TrailEntryKind
from tests.cluster.workload import eventually
from tests.conformance.buses import Bus, action, wait_task

PATIENCE_S = 60


async def test_an_event_starts_a_workflow(bus: Bus) -> None:
    name = bus.named("ships")
    await bus.client.register({"name": name, "tasks": [wait_task("ever", signal="never")]})
    await bus.handler("paid", action(
        "start_workflow", name=name, correlationId="${order}", priority=3, input={"order": "${order}", "kind": "new"}))
    await bus.publish("paid", {"order": "o-1"}, "event-1")
    [started] = await bus.started(name, 1)
    assert (started.input["order"], started.input["kind"]) == ("o-1", "new")
    assert (started.correlation_id, started.priority) == ("o-1", 3)
    assert started.input["conductor.event.messageId"] == "event-1"
    assert started.input["conductor.event.name"] == bus.event("paid")


async def test_an_event_completes_a_task(bus: Bus) -> None:
    await bus.handler("paid", action(
        "complete_task", workflowId="${workflow}", taskRefName="waits", output={"by": "${by}"}))
    run = await bus.start(wait_task("waits", signal="never"), outputParameters={"by": "${waits.output.by}"})
    await bus.publish("paid", {"workflow": run.workflow_id, "by": "card"})
    execution = await run.wait(PATIENCE_S)
    assert (execution.status, execution.output["by"]) == ("COMPLETED", "card")


async def test_an_event_fails_a_task(bus: Bus) -> None:
    await bus.handler("refused", action(
        "fail_task", workflowId="${workflow}", taskRefName="waits", reasonForIncompletion="the bank said ${why}"))
    run = await bus.start(wait_task("waits", signal="never"))
    await bus.publish("refused", {"workflow": run.workflow_id, "why": "no"})
    execution = await run.wait(PATIENCE_S)
    assert execution.status == "FAILED" and "the bank said no" in execution.reason


async def test_an_event_terminates_a_workflow(bus: Bus) -> None:
    await bus.handler("cancelled", action(
        "terminate_workflow", workflowId="${workflow}", terminationReason="${who} has cancelled"))
    run = await bus.start(wait_task("waits", signal="never"))
    await bus.publish("cancelled", {"workflow": run.workflow_id, "who": "Ann"})
    execution = await run.wait(PATIENCE_S)
    assert (execution.status, execution.reason) == ("TERMINATED", "Ann has cancelled")


async def test_an_event_updates_variables_and_another_signals(bus: Bus) -> None:
    await bus.handler("changed", action(
        "update_workflow_variables", workflowId="${workflow}", variables={"address": "${address}"}))
    await bus.handler("go", action(
        "signal", workflowId="${workflow}", signal="go", payload={"by": "${by}"}))
    run = await bus.start(
        wait_task("waits", signal="go"),
        outputParameters={"by": "${waits.output.by}", "to": "${workflow.variables.address}"})
    seen = await bus.collect("changed")
    await bus.publish("changed", {"workflow": run.workflow_id, "address": {"city": "Bern"}, "n": 1})
    assert await seen.until(1)
    await bus.publish("go", {"workflow": run.workflow_id, "by": "Ann"})
    execution = await run.wait(PATIENCE_S)
    assert execution.output == {"by": "Ann", "to": {"city": "Bern"}}


async def test_a_signal_that_comes_first_is_not_lost(bus: Bus) -> None:
    await bus.handler("go", action("signal", workflowId="${workflow}", signal="go", payload={"by": "${by}"}))
    run = await bus.start(wait_task("first", signal="first"), wait_task("waits", signal="go"),
                          outputParameters={"by": "${waits.output.by}"})
    seen = await bus.collect("go")
    await bus.publish("go", {"workflow": run.workflow_id, "by": "Ann", "n": 1})
    assert await seen.until(1)
    await bus.client.signal(run.workflow_id, "first")
    assert (await run.wait(PATIENCE_S)).output["by"] == "Ann"


async def test_an_event_between_others_is_recorded(bus: Bus) -> None:
    """Nothing else becomes of it, but that whoever follows the correlation id sees it, and what it has led to."""
    name, order = bus.named("ships"), bus.named("order")
    await bus.client.register({"name": name, "tasks": [wait_task("goes", duration="0s")]})
    await bus.handler("packed", action("record", correlationId="${order}", service="${by}", event="packed"))
    await bus.handler("paid", action("start_workflow", name=name, correlationId="${order}"))
    await bus.publish("packed", {"order": order, "by": "warehouse"}, "event-1")
    await bus.publish("paid", {"order": order}, "event-2")

    async def ended() -> list[TrailEntry]:
        found = [entry async for entry in bus.client.events.trail(order)]
        return found if any(entry.kind is TrailEntryKind.WORKFLOW_ENDED for entry in found) else []

    trail = await eventually(ended, f"the end of the workflow in the trail of {order}")
    came = [entry for entry in trail if entry.kind is TrailEntryKind.EVENT_IN]
    [recorded] = [entry for entry in came if entry.event == bus.event("packed")]
    assert (recorded.event_label, recorded.source, recorded.event_id) == ("packed", "warehouse", "event-1")
    assert sum(entry.kind is TrailEntryKind.WORKFLOW_STARTED for entry in trail) == 1


async def test_all_actions_of_a_handler_are_done(bus: Bus) -> None:
    first = await bus.start(wait_task("waits", signal="never"))
    second = await bus.start(wait_task("waits", signal="never"))
    await bus.handler(
        "over",
        action("complete_task", workflowId="${first}", taskRefName="waits"),
        action("terminate_workflow", workflowId="${second}"))
    await bus.publish("over", {"first": first.workflow_id, "second": second.workflow_id})
    assert (await first.wait(PATIENCE_S)).status == "COMPLETED"
    assert (await second.wait(PATIENCE_S)).status == "TERMINATED"


async def test_text_that_is_json_counts_as_what_it_says(bus: Bus) -> None:
    run = await bus.start(wait_task("waits", signal="never"), outputParameters={"sku": "${waits.output.sku}"})
    output = {"sku": "${order.lines[0].sku}"}
    completes = action("complete_task", workflowId="${workflow}", taskRefName="waits", output=output)
    await bus.handler("paid", {**completes, "expandInlineJSON": True})
    await bus.publish("paid", {"workflow": run.workflow_id, "order": '{"lines":[{"sku":"a"}]}'})
    assert (await run.wait(PATIENCE_S)).output["sku"] == "a"
