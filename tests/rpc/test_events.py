"""Event handlers and events over the wire."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from orchestrator.engine import commands, limits
from orchestrator.engine.commands import DecideEvent
from orchestrator_api.v1 import events_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, Payload, RequestIdentity
from tests.engine.driver import START_MS, simple, workflow
from tests.engine.triggers.making import action, handler
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of
from tests.rpc.test_definitions import failure

START = action("start_workflow", name="report")


@pytest.fixture(autouse=True)
def report(bench: Bench) -> None:
    bench.driver.register(workflow("report", simple("a")))


async def put(stubs: Stubs, *actions: Any, **fields: Any) -> None:
    text = json.dumps(handler(*actions, **fields)).encode()
    await stubs.events.PutEventHandler(pb.PutEventHandlerRequest(handler_json=text))


async def publish(stubs: Stubs, **fields: Any) -> Any:
    return await stubs.events.PublishEvent(pb.PublishEventRequest(**{"event": "paid", **fields}))


async def runs(stubs: Stubs, **fields: Any) -> list[Any]:
    return list((await stubs.events.ListEventRuns(pb.ListEventRunsRequest(**fields))).runs)


async def test_an_event_is_published_handled_and_recorded(bench: Bench, stubs: Stubs) -> None:
    await put(stubs, START, action("complete_task", workflowId="gone", taskRefName="x"))
    reply = await publish(stubs, message_id="m", payload=Payload(inline=b'{"a":1}'))
    assert (reply.event_number, reply.handlers, reply.repeated_message) == (1, 1, False)
    failed, started = await runs(stubs)
    assert (started.state, started.action, started.position) == (pb.EVENT_RUN_STATE_COMPLETED, "start_workflow", 0)
    assert (started.event, started.event_number, started.message_id, started.handler) == ("paid", 1, "m", "h")
    assert bench.driver.header(started.workflow_id).name == "report"
    assert started.publish_time.ToMilliseconds() == started.end_time.ToMilliseconds() == START_MS
    assert (failed.state, failed.reason) == (pb.EVENT_RUN_STATE_FAILED, "no workflow has the id 'gone'")


async def test_a_message_takes_effect_once_whoever_publishes_it(stubs: Stubs) -> None:
    await put(stubs, START)
    replies = [await publish(stubs, message_id="m") for _ in range(3)]
    assert [(reply.repeated_message, reply.event_number) for reply in replies] == [(False, 1), (True, 1), (True, 1)]
    assert len(await runs(stubs)) == 1


async def test_a_request_that_comes_again_takes_effect_once(bench: Bench, stubs: Stubs) -> None:
    await put(stubs, START)
    session = bench.apply(commands.OpenClientSession("default")).session_id  # type: ignore[union-attr]
    identity = RequestIdentity(session={"id": session, "sequence": 1})
    assert [(await publish(stubs, request=identity)).event_number for _ in range(2)] == [1, 1]
    assert len(await runs(stubs)) == 1


async def test_records_are_filtered_and_come_by_the_page(stubs: Stubs) -> None:
    await put(stubs, START)
    await put(stubs, START, name="other", event="shipped")
    for event in ("paid", "shipped", "paid"):
        await publish(stubs, event=event)
    assert [run.event for run in await runs(stubs)] == ["paid", "shipped", "paid"]
    assert [run.event_number for run in await runs(stubs, event="paid")] == [3, 1]
    assert [run.handler for run in await runs(stubs, handler="other")] == ["other"]
    assert await runs(stubs, namespace="other") == []
    seen = []
    token = ""
    while True:
        page = await stubs.events.ListEventRuns(pb.ListEventRunsRequest(page=PageRequest(size=2, token=token)))
        seen += [run.event_number for run in page.runs]
        token = page.next_token
        if not token:
            break
    assert seen == [3, 2, 1]


async def test_what_waits_for_its_condition_is_listed(bench: Bench, stubs: Stubs) -> None:
    await put(stubs, START, condition="$.n > 1")
    for _ in range(3):
        await publish(stubs, message_id="")
    listed = await stubs.events.ListPendingEvents(pb.ListPendingEventsRequest(page=PageRequest(size=2)))
    assert [each.event_number for each in listed.events] == [1, 2] and listed.next_token
    [first, _] = listed.events
    assert (first.event, list(first.undecided_handlers), first.under_way) == ("paid", ["h"], 0)
    assert first.publish_time.ToMilliseconds() == START_MS
    for number in (1, 2, 3):
        bench.apply(DecideEvent(number, "h", 1, False))
    assert list((await stubs.events.ListPendingEvents(pb.ListPendingEventsRequest())).events) == []
    assert {run.state for run in await runs(stubs)} == {pb.EVENT_RUN_STATE_SKIPPED}


async def test_handlers_are_read_listed_and_deleted(stubs: Stubs) -> None:
    await put(stubs, START)
    await put(stubs, START, name="g", event="other", active=False)
    reply = await stubs.events.GetEventHandler(pb.GetEventHandlerRequest(name="h"))
    assert json.loads(reply.handler_json) == handler(START)

    async def names(**fields: Any) -> list[str]:
        listed = await stubs.events.ListEventHandlers(pb.ListEventHandlersRequest(**fields))
        return [json.loads(each)["name"] for each in listed.handler_json]

    assert (await names(), await names(event="other"), await names(namespace="x")) == (["g", "h"], ["g"], [])
    await stubs.events.DeleteEventHandler(pb.DeleteEventHandlerRequest(name="h"))
    assert await names() == ["g"]
    for method in ("GetEventHandler", "DeleteEventHandler"):
        error = await failure(getattr(stubs.events, method)(getattr(pb, f"{method}Request")(name="h")))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "EVENT_HANDLER_NOT_FOUND")


@pytest.mark.parametrize(
    ("fields", "reason", "path"),
    [
        ({"event": ""}, "EVENT_HANDLER_INVALID", "event"),
        ({"actions": []}, "EVENT_HANDLER_INVALID", "actions"),
        ({"evaluatorType": "python"}, "DEFINITION_UNIMPLEMENTED", "evaluatorType"),
    ],
)
async def test_what_is_wrong_is_named_by_its_path_and_costs_no_log_entry(
    bench: Bench, stubs: Stubs, fields: Any, reason: str, path: str
) -> None:
    error = await failure(put(stubs, START, **fields))
    assert (info_of(error).reason, info_of(error).metadata["path"]) == (reason, path)
    assert bench.submitted == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"event": ""}, "event"),
        ({"event": "x" * 201}, "event"),
        ({"message_id": "x" * 201}, "message_id"),
        ({"payload": Payload(inline=b"[]")}, "payload"),
        ({"payload": Payload(inline=b"{}" + b" " * limits.PAYLOAD_BYTES)}, "payload"),
    ],
)
async def test_a_request_that_breaks_a_rule_is_refused(stubs: Stubs, fields: Any, field: str) -> None:
    assert info_of(await failure(publish(stubs, **fields))).metadata["field"] == field
