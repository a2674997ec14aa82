"""A node's own session, over real gRPC: system work comes to it like a worker's task, and its outcomes count."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator.engine.choices import IfExists, TerminateCompensation
from orchestrator.engine.commands import (
    CloseSession,
    CompleteTask,
    OpenSession,
    ReleaseTask,
    StartWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.integrations.work import Ended, Outcome, Work
from orchestrator.rpc.errors import RpcFailure
from orchestrator.services import system_session
from orchestrator.services.system_session import SystemSession
from orchestrator.telemetry.metrics import Metrics
from orchestrator.telemetry.traces import SpanTraces, Traces
from orchestrator_client.channels import channel_factory
from tests.engine.driver import simple, workflow
from tests.rpc.bench import Bench, served, until

QUEUE = "system/http"
ORDER = workflow("order", simple("call", type="HTTP", inputParameters={"uri": "${workflow.input.uri}"}))
PATIENCE_S = 30.0


class Recorder:
    """Does whatever it is given as soon as the test opens the gate."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.outcome = outcome or Outcome(ended=Ended.COMPLETED, output=b'{"status":200}')
        self.works: list[Work] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0
        self.closed = False

    async def execute(self, work: Work) -> Outcome:
        self.works.append(work)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.outcome

    async def close(self) -> None:
        self.closed = True


class Broken(Recorder):
    async def execute(self, work: Work) -> Outcome:
        raise ZeroDivisionError("a bug")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """It leads, and is served where it says."""
    bench = Bench()
    bench.driver.register_task(name="call", retryCount=1, retryDelaySeconds=0)
    bench.driver.register(ORDER)
    async with served(bench):
        bench.grpc_addresses["n1"] = f"127.0.0.1:{bench.server.port}"
        yield bench


def make_session(
    bench: Bench,
    executor: Recorder | None,
    metrics: Metrics | None = None,
    *,
    slots: int = 4,
    traces: Traces | None = None,
) -> SystemSession:
    def fail(error: BaseException) -> None:
        raise AssertionError("the session would stop its node") from error

    return SystemSession(
        node="n9",
        address=bench.grpc_addresses["n1"],
        leader=lambda: (bench.grpc_addresses[bench.leader] if bench.leader else "", bench.term),
        open_channel=channel_factory(None),
        executors={} if executor is None else {QUEUE: executor},
        slots=slots,
        dice=random.Random(7),
        metrics=metrics or Metrics(node="n9", version="0"),
        traces=traces,
        on_fatal=fail,
    )


@asynccontextmanager
async def working(bench: Bench, executor: Recorder, **options: Any) -> AsyncIterator[SystemSession]:
    session = make_session(bench, executor, **options)
    session.start()
    await until("the session to be open", lambda: session.connected)
    try:
        yield session
    finally:
        await session.stop(None)


def status(bench: Bench, workflow_id: str = "w") -> WorkflowStatus:
    return bench.driver.header(workflow_id).status


def samples(metrics: Metrics, name: str) -> dict[str, float]:
    return {
        "/".join(sample.labels[label] for label in ("kind", "status") if label in sample.labels): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"orchestrator_{name}"
    }


async def test_work_is_done_by_the_executor_of_its_kind(bench: Bench) -> None:
    executor = Recorder()
    async with working(bench, executor):
        bench.start(given=b'{"uri":"http://there"}')
        await until("the workflow to end", lambda: status(bench) is WorkflowStatus.COMPLETED)
    attempt = bench.driver.latest("call")
    assert executor.works == [
        Work(
            kind=QUEUE,
            namespace="default",
            workflow_id="w",
            task_id=attempt.task_id,
            name="call",
            reference="call",
            input=b'{"uri":"http://there"}',
            parameters=b"{}",
            idempotency_key=attempt.idempotency_key,
            fencing_token=attempt.fencing_token,
        )
    ]
    assert attempt.output == b'{"status":200}'
    assert attempt.worker_id == "n9"


async def test_whoever_is_called_can_be_told_of_the_trace(bench: Bench) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    executor = Recorder()
    async with working(bench, executor):
        bench.apply(StartWorkflow("default", "order", 0, "w", IfExists.FAIL, b"{}", trace=f"{parent}\nvendor=a\nu=42"))
        await until("the workflow to end", lambda: status(bench) is WorkflowStatus.COMPLETED)
    [work] = executor.works
    assert work.trace == (("traceparent", parent), ("tracestate", "vendor=a"))


async def test_work_is_a_span_of_the_trace_with_its_end(bench: Bench) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    outcome = Outcome(ended=Ended.FAILED_WITH_TERMINAL_ERROR, reason="404 Not Found", error_code="HTTP_404")
    executor = Recorder(outcome)
    async with working(bench, executor, traces=SpanTraces(provider, "n9")):
        bench.start()  # of no trace
        bench.apply(StartWorkflow("default", "order", 0, "traced", IfExists.FAIL, b"{}", trace=parent))
        await until("the workflows to end", lambda: status(bench, "traced") is status(bench) is WorkflowStatus.FAILED)
    [span] = exporter.get_finished_spans()
    [traced] = [work for work in executor.works if work.trace]
    assert dict(traced.trace)["traceparent"] == f"{parent[:36]}{span.context.span_id:016x}-01"
    said = dict(span.attributes or {})
    assert (said["orchestrator.workflow.id"], said["orchestrator.task.reference"]) == ("traced", "call")
    assert (said["messaging.destination.name"], said["orchestrator.node"]) == (QUEUE, "n9")
    assert (said["orchestrator.task.status"], said["error.type"]) == ("FAILED_WITH_TERMINAL_ERROR", "HTTP_404")
    assert [event.name for event in span.events] == ["scheduled"]


async def test_a_failure_is_told_as_it_is(bench: Bench) -> None:
    outcome = Outcome(ended=Ended.FAILED, reason="refused", error_code="HTTP_502", outcome_unknown=True)
    async with working(bench, Recorder(outcome)):
        bench.start()
        await until("the workflow to end", lambda: status(bench) is WorkflowStatus.FAILED)
    told = [(one.status, one.reason, one.error_code, one.outcome_unknown) for one in bench.submitted_of(CompleteTask)]
    assert told == [(TaskStatus.FAILED, "refused", "HTTP_502", True)] * 2


async def test_a_terminal_failure_is_not_tried_again(bench: Bench) -> None:
    executor = Recorder(Outcome(ended=Ended.FAILED_WITH_TERMINAL_ERROR, reason="no such script"))
    async with working(bench, executor):
        bench.start()
        await until("the workflow to end", lambda: status(bench) is WorkflowStatus.FAILED)
    assert len(executor.works) == 1


async def test_an_executor_that_breaks_fails_the_attempt_and_not_the_node(bench: Bench) -> None:
    async with working(bench, Broken()) as session:
        bench.start()
        await until("the workflow to end", lambda: status(bench) is WorkflowStatus.FAILED)
        assert session.connected
    assert bench.driver.latest("call").error_code == "ZeroDivisionError"


async def test_work_that_is_not_wanted_any_more_is_cancelled_and_its_slot_is_free(bench: Bench) -> None:
    executor = Recorder()
    executor.gate.clear()
    async with working(bench, executor, slots=1):
        bench.start("w")
        bench.start("v")
        await until("the work to begin", lambda: len(executor.works) == 1)
        bench.apply(TerminateWorkflow("default", "w", "enough", TerminateCompensation.SKIP))
        await until("the other one to begin", lambda: len(executor.works) == 2)
        assert (executor.cancelled, executor.works[1].workflow_id) == (1, "v")


async def test_what_runs_goes_on_while_the_leader_changes(bench: Bench) -> None:
    """It is not handed out again, and its outcome counts."""
    executor = Recorder()
    executor.gate.clear()
    async with working(bench, executor) as session:
        bench.start()
        await until("the work to begin", lambda: bool(executor.works))
        token = bench.driver.latest("call").fencing_token
        bench.lose_leadership()
        await until("the stream to break", lambda: not session.connected)
        bench.is_leading, bench.leader, bench.term = True, "n1", bench.term + 1
        await until("the session to be resumed", lambda: session.connected)
        executor.gate.set()
        await until("the workflow to end", lambda: status(bench) is WorkflowStatus.COMPLETED)
    assert (len(executor.works), executor.cancelled) == (1, 0)
    assert bench.driver.latest("call").fencing_token == token
    assert len(bench.submitted_of(OpenSession)) == 1


async def test_who_stops_finishes_what_it_does_and_takes_nothing_new(bench: Bench) -> None:
    executor = Recorder()
    executor.gate.clear()
    async with working(bench, executor) as session:
        bench.start("w")
        await until("the work to begin", lambda: bool(executor.works))
        stopping = asyncio.create_task(session.stop(PATIENCE_S))
        await until("no slots to be offered", lambda: all(s.slots == 0 for s in bench.driver.state.sessions.values()))
        bench.start("v")
        executor.gate.set()
        await stopping
    assert status(bench, "w") is WorkflowStatus.COMPLETED
    assert bench.driver.latest("call", "v").status is TaskStatus.SCHEDULED
    assert bench.driver.state.sessions == {}
    assert executor.closed


async def test_what_does_not_end_in_time_is_stopped_and_handed_back(bench: Bench) -> None:
    """Before the goodbye: nobody else begins with it while it still runs here."""
    executor = Recorder()
    executor.gate.clear()
    async with working(bench, executor) as session:
        bench.start()
        await until("the work to begin", lambda: bool(executor.works))
        await session.stop(0.01)
    assert executor.cancelled == 1
    [lost, again] = bench.driver.hot().tasks.values()
    assert (lost.status, lost.error_code) == (TaskStatus.TIMED_OUT, "WORKER_LOST")
    assert (again.status, again.retry_count) == (TaskStatus.SCHEDULED, 0)
    assert [type(command) for command in bench.submitted[-2:]] == [ReleaseTask, CloseSession]


async def test_a_node_that_must_not_go_on_says_nothing(bench: Bench) -> None:
    executor = Recorder()
    executor.gate.clear()
    async with working(bench, executor) as session:
        bench.start()
        await until("the work to begin", lambda: bool(executor.works))
        await session.stop(None)
        assert (executor.cancelled, executor.closed) == (1, True)
    assert bench.submitted_of(CloseSession) == []
    assert bench.driver.latest("call").status is TaskStatus.IN_PROGRESS


@pytest.mark.parametrize(("executor", "slots"), [(None, 4), (Recorder, 0)])
async def test_a_node_without_executors_or_slots_opens_no_session(
    bench: Bench, executor: type[Recorder] | None, slots: int
) -> None:
    session = make_session(bench, executor and executor(), slots=slots)
    session.start()
    bench.start()
    await session.stop(PATIENCE_S)
    assert bench.submitted_of(OpenSession) == []
    assert not session.connected


async def test_a_leader_that_refuses_the_session_is_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of an older version does, until its successor leads."""
    monkeypatch.setattr(system_session, "AGAIN_SECONDS", 0.01)
    refusals = [RpcFailure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "never heard of")] * 2

    def refuse(command: Any) -> RpcFailure | None:
        return refusals.pop() if isinstance(command, OpenSession) and refusals else None

    monkeypatch.setattr(bench, "refuse", refuse)
    async with working(bench, Recorder()):
        bench.start()
        await until("the workflow to end", lambda: status(bench) is WorkflowStatus.COMPLETED)
    assert len(bench.submitted_of(OpenSession)) == 3


async def test_what_is_done_is_counted(bench: Bench) -> None:
    metrics, executor = Metrics(node="n9", version="0"), Recorder()
    executor.gate.clear()
    async with working(bench, executor, metrics=metrics):
        for workflow_id in ("u", "v", "w"):
            bench.start(workflow_id)
        await until("the work to begin", lambda: len(executor.works) == 3)
        assert samples(metrics, "system_work_running") == {QUEUE: 3}
        bench.apply(TerminateWorkflow("default", "w", "enough", TerminateCompensation.SKIP))
        await until("one to be cancelled", lambda: executor.cancelled == 1)
        executor.gate.set()
        await until("the others to end", lambda: status(bench, "u") is status(bench, "v") is WorkflowStatus.COMPLETED)
    assert samples(metrics, "system_work_running") == {QUEUE: 0}
    assert samples(metrics, "system_work_ended_total") == {f"{QUEUE}/COMPLETED": 2, f"{QUEUE}/CANCELED": 1}
