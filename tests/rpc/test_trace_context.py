"""The trace that a start or an event is a part of: handed on as it was given, and nothing that no header could be."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine import commands
from orchestrator.rpc.errors import RpcFailure
from orchestrator.rpc.trace_context import trace_of, write_trace
from orchestrator_api.v1 import events_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import TraceContext
from tests.engine.driver import simple, workflow
from tests.engine.triggers.making import action
from tests.rpc.attempts import result
from tests.rpc.bench import Bench, Stubs, Worker
from tests.rpc.test_events import put

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WHOLE = TraceContext(traceparent=PARENT, tracestate="vendor=a,other=b", baggage="user=42,shop=eu%20west")


def start(**fields: Any) -> pb.StartWorkflowRequest:
    return pb.StartWorkflowRequest(name="order", trace=TraceContext(**fields))


@pytest.mark.parametrize("given", [
    WHOLE,
    TraceContext(traceparent=PARENT),
    TraceContext(traceparent=PARENT, baggage="user=42"),
    TraceContext(baggage="user=42"),
    TraceContext(traceparent="01" + PARENT[2:] + "-more"),
    TraceContext(traceparent=PARENT, tracestate="x" * 512, baggage="y" * 512),
])
def test_what_was_given_is_handed_on(given: TraceContext) -> None:
    text = trace_of(pb.StartWorkflowRequest(trace=given))
    assert text == trace_of(events_pb2.PublishEventRequest(trace=given))
    message = TraceContext()
    write_trace(message, text)
    assert message == given


def test_without_a_trace_there_is_nothing() -> None:
    assert trace_of(pb.StartWorkflowRequest()) == trace_of(pb.StartWorkflowRequest(trace=TraceContext())) == ""


@pytest.mark.parametrize(("fields", "field", "limit"), [
    ({"traceparent": PARENT + "-" + "x" * 20}, "trace.traceparent", "64"),
    ({"traceparent": "ff" + PARENT[2:]}, "trace.traceparent", None),
    ({"traceparent": PARENT.upper()}, "trace.traceparent", None),
    ({"traceparent": "00-" + "0" * 32 + PARENT[35:]}, "trace.traceparent", None),
    ({"traceparent": PARENT[:36] + "0" * 16 + "-01"}, "trace.traceparent", None),
    ({"traceparent": PARENT + "\r\nx: y"}, "trace.traceparent", None),
    ({"tracestate": "x" * 513}, "trace.tracestate", "512"),
    ({"tracestate": "a=b\r\nauthorization: me"}, "trace.tracestate", None),
    ({"baggage": "x" * 513}, "trace.baggage", "512"),
    ({"baggage": "name=ü"}, "trace.baggage", None),
])
def test_what_could_not_be_a_header_is_refused_with_the_field(
    fields: dict[str, str], field: str, limit: str | None
) -> None:
    with pytest.raises(RpcFailure) as refused:
        trace_of(start(**fields))
    assert refused.value.code.name == "INVALID_ARGUMENT"
    assert refused.value.metadata == {"field": field} | ({"limit": limit} if limit else {})


async def test_each_attempt_of_a_workflow_and_of_its_parts_is_handed_out_with_it(bench: Bench, stubs: Stubs) -> None:
    part = {"name": "part", "taskReferenceName": "part", "type": "SUB_WORKFLOW"}
    bench.driver.register(
        workflow("part", simple("ship")),
        workflow("order", simple("pay"), {**part, "subWorkflowParam": {"name": "part"}}),
    )
    worker = Worker(stubs)
    await worker.hello("pay", "ship")
    await stubs.workflows.StartWorkflow(pb.StartWorkflowRequest(name="order", trace=WHOLE))
    (paying,) = await worker.assigned()
    await worker.give(result(paying))
    (shipping,) = await worker.assigned()
    assert [(one.name, one.trace) for one in (paying, shipping)] == [("pay", WHOLE), ("ship", WHOLE)]


async def test_without_one_an_attempt_says_nothing_of_it(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello("pay")
    await stubs.workflows.StartWorkflow(pb.StartWorkflowRequest(name="order"))
    (paying,) = await worker.assigned()
    assert not paying.HasField("trace")


async def test_what_an_event_starts_is_a_part_of_its_trace(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    await put(stubs, action("start_workflow", name="order"))
    worker = Worker(stubs)
    await worker.hello("pay")
    await stubs.events.PublishEvent(events_pb2.PublishEventRequest(event="paid", trace=WHOLE))
    (paying,) = await worker.assigned()
    assert paying.trace == WHOLE
    [command] = bench.submitted_of(commands.PublishEvent)
    assert command.trace.split("\n")[0] == PARENT
