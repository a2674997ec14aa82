"""One trace from the caller through the cluster and its workers, whatever fails on the way; none without the API."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, TraceState

from orchestrator.testing import Cluster
from orchestrator_api.v1 import workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_client import SyncClient, TaskContext, TerminalError, Workflow, WorkflowFailed, task, tracing
from orchestrator_client.sync import LoopThread
from tests.client.fake_cluster import FakeCluster

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("a test"))
    yield exporter
    provider.shutdown()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(nodes=3, seed=5) as made:
        yield made


seen: list[dict[str, str]] = []


@task
async def pack(item: str, ctx: TaskContext) -> dict[str, str]:
    if item == "egg" and ctx.attempt == 1:
        raise ValueError("broken egg")
    headers: dict[str, str] = {}
    propagate.inject(headers)  # as an instrumented HTTP client does
    seen.append(headers)
    return {"box": item}


@task
async def ship(box: str) -> dict[str, str]:
    return {"parcel": box}


@pack.compensation
async def recall(item: str) -> None:
    return None


@task
async def refuse() -> None:
    raise TerminalError("NO_TRUCKS", "none left")


def part() -> Workflow:
    built = Workflow("part")
    built.returns(parcel=built.step(ship, box=built.input.box).parcel)
    return built


def order() -> dict[str, Any]:
    """Two tasks of a worker, and a sub-workflow with a third."""
    return {
        "name": "order",
        "tasks": [
            {"name": "pack", "taskReferenceName": "pack", "type": "SIMPLE",
             "inputParameters": {"item": "${workflow.input.item}"}},
            {"name": "ship", "taskReferenceName": "ship", "type": "SIMPLE",
             "inputParameters": {"box": "${pack.output.box}"}},
            {"name": "part", "taskReferenceName": "part", "type": "SUB_WORKFLOW",
             "subWorkflowParam": {"name": "part"}, "inputParameters": {"box": "${pack.output.box}"}},
        ],
    }


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_caller_its_workers_and_a_sub_workflow_are_one_trace(cluster: Cluster, spans: InMemorySpanExporter) -> None:
    seen.clear()

    async def main() -> None:
        cluster.serve(pack, ship)
        await cluster.client.register(part())
        with tracing._tracer.start_as_current_span("checkout"):
            run = await cluster.client.start(order(), {"item": "chair"}, id="w", correlation_id="c")
        await run.result()

    cluster.run(main())
    [checkout], [start] = named(spans, "checkout"), named(spans, "start order")
    assert start.parent == checkout.context and start.kind is SpanKind.PRODUCER
    assert facts(start)["orchestrator.workflow.id"] == "w"
    [packing], shipping = named(spans, "process pack"), named(spans, "process ship")
    attempts = [packing, *shipping]
    assert [facts(span)["orchestrator.workflow.name"] for span in attempts] == ["order", "order", "part"]
    for span in attempts:
        assert span.kind is SpanKind.CONSUMER and span.status.status_code is StatusCode.UNSET
        assert span.context.trace_id == checkout.context.trace_id
        assert span.parent is not None and span.parent.span_id == start.context.span_id and span.parent.is_remote
        assert [link.context.span_id for link in span.links] == [start.context.span_id]
        assert [event.name for event in span.events] == ["scheduled"]
    # What the function called continued its attempt's span.
    [headers] = seen
    own = trace.get_current_span(propagate.extract(headers)).get_span_context()
    assert (own.trace_id, own.span_id) == (packing.context.trace_id, packing.context.span_id)
    said = facts(packing)
    assert said.pop("messaging.message.id") and said.pop("orchestrator.task.idempotency_key")
    assert said == {
        "messaging.system": "orchestrator", "messaging.operation.name": "process",
        "messaging.operation.type": "process", "messaging.destination.name": "pack",
        "messaging.message.conversation_id": "c", "orchestrator.namespace": "default",
        "orchestrator.workflow.id": "w", "orchestrator.workflow.name": "order", "orchestrator.task.name": "pack",
        "orchestrator.task.reference": "pack", "orchestrator.task.attempt": 1, "orchestrator.task.status": "COMPLETED",
    }


def test_a_failed_attempt_and_its_retry_are_two_spans_also_under_another_leader(
    cluster: Cluster, spans: InMemorySpanExporter
) -> None:
    async def main() -> None:
        await cluster.client.register(part())
        with tracing._tracer.start_as_current_span("checkout"):
            run = await cluster.client.start(order(), {"item": "egg"})
        # Nobody serves its tasks yet: who hands them out never saw the request.
        cluster.kill_leader(restart_after=None)
        cluster.serve(pack, ship)
        await run.result()

    cluster.run(main())
    [checkout] = named(spans, "checkout")
    failed, retried = named(spans, "process pack")
    assert [facts(span)["orchestrator.task.attempt"] for span in (failed, retried)] == [1, 2]
    assert {span.context.trace_id for span in spans.get_finished_spans()} == {checkout.context.trace_id}
    assert failed.status.status_code is StatusCode.ERROR and failed.status.description == "ValueError: broken egg"
    assert (facts(failed)["error.type"], facts(failed)["orchestrator.task.status"]) == ("ValueError", "FAILED")
    [raised] = [event for event in failed.events if event.name == "exception"]
    assert (raised.attributes or {})["exception.message"] == "broken egg"
    assert retried.status.status_code is StatusCode.UNSET


def test_what_undoes_a_step_is_a_part_of_the_trace_and_an_error_of_the_caller_stays_one(
    cluster: Cluster, spans: InMemorySpanExporter
) -> None:
    saga = {
        "name": "saga",
        "tasks": [
            {"name": "pack", "taskReferenceName": "packed", "type": "SIMPLE", "inputParameters": {"item": "chair"},
             "compensateWith": {"name": "recall", "type": "SIMPLE"}},
            {"name": "refuse", "taskReferenceName": "refuse", "type": "SIMPLE"},
        ],
    }

    async def main() -> None:
        cluster.serve(pack, refuse)
        with pytest.raises(WorkflowFailed):
            await cluster.client.start_and_wait(saga, {})
        with pytest.raises(Exception, match="nobody"):
            await cluster.client.start("nobody")

    cluster.run(main())
    [start], [undoing], [refused] = (named(spans, name) for name in ("start saga", "process recall", "process refuse"))
    assert undoing.context.trace_id == refused.context.trace_id == start.context.trace_id
    assert facts(undoing)["orchestrator.task.compensates"] == "packed"
    assert facts(refused)["orchestrator.task.status"] == "FAILED_WITH_TERMINAL_ERROR"
    assert facts(refused)["error.type"] == "NO_TRUCKS"
    [lost] = named(spans, "start nobody")
    assert lost.status.status_code is StatusCode.ERROR and facts(lost)["error.type"] == "NotFound"


def test_what_a_task_starts_or_publishes_goes_on_with_its_trace(cluster: Cluster, spans: InMemorySpanExporter) -> None:
    @task
    async def spread() -> None:
        await cluster.client.start("part", {"box": "b"}, id="started")
        await cluster.client.events.publish("packed", {"box": "c"})

    handler = {
        "name": "ships", "event": "packed", "active": True,
        "actions": [{"action": "start_workflow",
                     "start_workflow": {"name": "part", "input": {"box": "${box}"}}}],
    }

    async def main() -> None:
        cluster.serve(spread, ship)
        built = Workflow("outer")
        built.step(spread)
        await cluster.client.register(part(), built)
        await cluster.client.events.put_handler(handler)
        await cluster.client.start_and_wait(built, {})
        await cluster.client.wait("started")
        [run] = [each async for each in cluster.client.events.runs()]
        await cluster.client.wait(run.workflow_id)

    cluster.run(main())
    [spreading], [published] = named(spans, "process spread"), named(spans, "publish packed")
    assert published.parent == spreading.context
    shipping = named(spans, "process ship")
    assert len(shipping) == 2
    assert {span.parent.span_id for span in shipping if span.parent} == {
        published.context.span_id, *(span.context.span_id for span in named(spans, "start part"))
    }


def test_what_an_execution_is_told_is_a_span_of_the_caller(cluster: Cluster, spans: InMemorySpanExporter) -> None:
    built = Workflow("waits")
    built.wait(signal="packed", ref="packed")
    built.wait(signal="sent", ref="sent")
    built.wait(signal="paid", ref="paid")

    async def main() -> None:
        client = cluster.client
        run = await client.start(built, {}, id="w")
        with tracing._tracer.start_as_current_span("caller"):
            await run.signal("packed")
            await client.push_message("w", {"n": 1})
            await client.update_task("w", "sent", "COMPLETED")
            await client.signal_task("w")
        await run.result()

    cluster.run(main())
    [caller] = named(spans, "caller")
    told = [span for span in spans.get_finished_spans() if span.parent == caller.context]
    assert [span.name for span in told] == ["signal packed", "push message", "update sent", "signal task"]
    assert {span.kind for span in told} == {SpanKind.CLIENT}
    assert {facts(span)["orchestrator.workflow.id"] for span in told} == {"w"}


def test_an_attempt_of_what_nobody_traced_is_a_trace_of_its_own(spans: InMemorySpanExporter) -> None:
    given = workers_pb2.Assignment(name="pack", task_id="t")
    with tracing._tracer.start_as_current_span("when the worker began"), tracing.processing(given) as traced:
        traced.ended(workers_pb2.TaskResult(status=pb.TASK_STATUS_IN_PROGRESS))
    [packing] = named(spans, "process pack")
    assert packing.parent is None and not packing.links
    assert facts(packing)["orchestrator.task.status"] == "IN_PROGRESS"


def test_an_attempt_that_is_cancelled_says_so_and_is_no_error(spans: InMemorySpanExporter) -> None:
    def cancelled() -> None:
        with tracing.processing(workers_pb2.Assignment(name="pack")):
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        cancelled()
    [packing] = named(spans, "process pack")
    assert facts(packing)["orchestrator.task.status"] == "CANCELED"
    assert packing.status.status_code is StatusCode.UNSET and not packing.events


def test_baggage_comes_to_the_task(spans: InMemorySpanExporter) -> None:
    token = context.attach(baggage.set_baggage("tenant", "blue & green"))
    request = pb.StartWorkflowRequest(name="order")
    with tracing.sending("start", "order", request):
        pass
    context.detach(token)
    assert baggage.get_baggage("tenant") is None
    with tracing.processing(workers_pb2.Assignment(name="pack", trace=request.trace)):
        assert baggage.get_baggage("tenant") == "blue & green"
    assert baggage.get_baggage("tenant") is None


def test_what_a_node_would_refuse_is_left_out(spans: InMemorySpanExporter) -> None:
    members = [(f"vendor{number}", "x" * 100) for number in range(8)]
    caller = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1), trace_state=TraceState(members))
    around = trace.set_span_in_context(trace.NonRecordingSpan(caller))
    token = context.attach(baggage.set_baggage("schlüssel", "x", baggage.set_baggage("long", "y" * 600, around)))
    request = pb.StartWorkflowRequest()
    with tracing.sending("start", "order", request):
        pass
    context.detach(token)
    assert request.trace.traceparent.startswith("00-00000000000000000000000000000001-")
    assert request.trace.tracestate == ",".join(f"{name}={value}" for name, value in members[:4])
    assert request.trace.baggage == ""


def test_without_an_sdk_the_context_is_handed_on_as_it_is() -> None:
    """The API alone makes no spans."""
    carrier = {"traceparent": PARENT}
    token = context.attach(propagate.extract(carrier))
    request = pb.StartWorkflowRequest()
    with tracing.sending("start", "order", request):
        pass
    context.detach(token)
    assert request.trace.traceparent == PARENT
    with tracing.sending("start", "order", untraced := pb.StartWorkflowRequest()):
        pass
    assert not untraced.HasField("trace")


def test_the_blocking_client_carries_the_context_of_its_caller(spans: InMemorySpanExporter) -> None:
    thread, fake = LoopThread(), FakeCluster()
    thread.call(fake.start())
    try:
        with SyncClient(fake.addresses, deadline_s=10) as client, tracing._tracer.start_as_current_span("checkout"):
            client.start("order", {}, id="order-1")
    finally:
        thread.call(fake.stop())
        thread.stop()
    [checkout], [start] = named(spans, "checkout"), named(spans, "start order")
    assert start.parent == checkout.context


def test_all_of_it_works_without_the_package(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
sys.modules["opentelemetry"] = None
from orchestrator.testing import Cluster
from orchestrator_client import Workflow, task, tracing
assert not tracing.INSTALLED

@task
async def double(n: int) -> int:
    return 2 * n

with Cluster(nodes=1) as cluster:
    async def main():
        cluster.serve(double)
        built = Workflow("doubles")
        built.returns(n=built.step(double, n=built.input.n))
        assert (await cluster.client.start_and_wait(built, {{"n": 4}})).n == 8
        await cluster.client.events.publish("nothing")
    cluster.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=tmp_path)
