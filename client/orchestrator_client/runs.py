"""One execution: its result, its progress, and what an operator can do to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal, cast

import grpc.aio

from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.asks_pb2 import Ask
from orchestrator_api.v1.common_pb2 import Payload, ReadOptions
from orchestrator_client import tracing
from orchestrator_client.codec import decode, dumps
from orchestrator_client.connection import ANSWER_S, Connection
from orchestrator_client.errors import (
    CodecError,
    DeadlineExceeded,
    InvalidRequest,
    NoLeader,
    WorkflowFailed,
    WorkflowTerminated,
    WorkflowTimedOut,
)
from orchestrator_client.execution import Execution, WorkflowStatus, read_execution
from orchestrator_client.output import attributes
from orchestrator_client.retry import CallRetry
from orchestrator_client.status import Failure, Kind

# What a message takes. What the cluster takes (256 KiB, or blob_bytes_max where it has a blob_store) it says itself.
PAYLOAD_BYTES_MAX = 15 << 20
# One question for the end of an execution; then the next one is asked.
WAIT_MS = 20_000

_FAILURES = {WorkflowStatus.TIMED_OUT: WorkflowTimedOut, WorkflowStatus.TERMINATED: WorkflowTerminated}
COMPENSATION = {
    None: pb.TERMINATE_COMPENSATION_UNSPECIFIED,
    "run": pb.TERMINATE_COMPENSATION_RUN,
    "skip": pb.TERMINATE_COMPENSATION_SKIP,
}
DELETE_EFFECTS = {
    None: pb.DELETE_EFFECTS_UNSPECIFIED,
    "keep": pb.DELETE_EFFECTS_KEEP,
    "compensate_first": pb.DELETE_EFFECTS_COMPENSATE_FIRST,
}


def delete_effects(effects: str | None) -> pb.DeleteEffects.ValueType:
    """Raises InvalidRequest."""
    if effects not in DELETE_EFFECTS:
        raise InvalidRequest(f"effects is 'keep', 'compensate_first' or None, not {effects!r}")
    return DELETE_EFFECTS[effects]


def object_payload(value: Any, what: str) -> Payload:
    """A JSON object as a payload; None is an empty one."""
    return Payload(inline=object_json(value, what))


def object_json(value: Any, what: str) -> bytes:
    """The text of a JSON object; None is an empty one."""
    data = dumps({} if value is None else value)
    if not data.startswith(b"{"):
        raise InvalidRequest(f"{what} must be an object (a dataclass or a dict), not {type(value).__name__}")
    if len(data) > PAYLOAD_BYTES_MAX:
        raise InvalidRequest(
            f"{what} has {len(data)} bytes of JSON", metadata={"field": what, "limit": str(PAYLOAD_BYTES_MAX)}
        )
    return data


def failed(execution: Execution) -> WorkflowFailed:
    """The error of an execution that has ended, but not well."""
    return _FAILURES.get(execution.status, WorkflowFailed)(execution)


def read_output(output: Any, kind: type | None, workflow_id: str) -> Any:
    """What a completed execution has come to, as its caller sees it."""
    if kind is None:
        return attributes(output)
    try:
        return decode(kind, output, "output")
    except CodecError as error:
        raise CodecError(error.path, f"{error.problem} (the output of {workflow_id})") from None


class Run:
    """A handle of an execution. It holds no state of its own: each method asks the cluster."""

    def __init__(
        self, connection: Connection, workflow_id: str, *, output_type: type | None = None, existing: bool = False
    ) -> None:
        self.workflow_id = workflow_id
        # True if `start` found the id taken and was asked to return the execution that has it.
        self.existing = existing
        self._connection = connection
        self._output_type = output_type

    def __repr__(self) -> str:
        return f"<Run {self.workflow_id}>"

    async def get(self, *, tasks: bool = False, stale_ok: bool = False) -> Execution:
        """The execution as it is now."""
        request = pb.GetWorkflowRequest(
            namespace=self._connection.namespace,
            workflow_id=self.workflow_id,
            include_tasks=tasks,
            read=ReadOptions(stale_ok=stale_ok),
        )
        reply = await self._connection.call(lambda node: node.workflows.GetWorkflow, request)
        return read_execution(reply.workflow)

    async def wait(self, timeout_s: float | None = None, *, tasks: bool = False) -> Execution:
        """The execution once it has ended, well or not; DeadlineExceeded if it does not in time."""
        connection = self._connection
        deadline = None if timeout_s is None else connection.now() + timeout_s
        ask = Ask()
        request = ask.wait
        request.namespace, request.workflow_id, request.include_tasks = connection.namespace, self.workflow_id, tasks
        while True:
            request.wait_ms, attempt_s = WAIT_MS, WAIT_MS / 1000 + ANSWER_S
            allowed_s = attempt_s + connection.deadline_s
            if deadline is not None:
                remaining_s = max(deadline - connection.now(), 0.0)
                request.wait_ms = max(1, min(WAIT_MS, int(remaining_s * 1000)))
                attempt_s = request.wait_ms / 1000 + ANSWER_S
                allowed_s = min(allowed_s, remaining_s + 1)
            try:
                answer = await connection.ask(ask, timeout_s=allowed_s, attempt_s=attempt_s)
            except NoLeader as error:
                if deadline is None or connection.now() < deadline:
                    raise
                raise DeadlineExceeded(f"{self.workflow_id}: {error.message}") from error
            execution = read_execution(cast(pb.Workflow, answer))
            if execution.status.ended:
                return execution
            if deadline is not None and connection.now() >= deadline:
                raise DeadlineExceeded(f"{self.workflow_id} was still {execution.status} after {timeout_s} s")

    async def result(self, timeout_s: float | None = None) -> Any:
        """The output of the execution once it has completed; raises WorkflowFailed if it ended otherwise.

        It is of the type that the workflow declares; without one its members are attributes.
        """
        execution = await self.wait(timeout_s)
        if execution.status is not WorkflowStatus.COMPLETED:
            raise failed(execution)
        return read_output(execution.output, self._output_type, self.workflow_id)

    async def watch(self, *, tasks: bool = False) -> AsyncIterator[Execution]:
        """The execution now and after each change, up to its end. Survives changes of the leader."""
        connection = self._connection
        request = pb.WatchWorkflowRequest(
            namespace=connection.namespace, workflow_id=self.workflow_id, include_tasks=tasks
        )
        last = b""
        retry: CallRetry | None = None
        while True:
            address = connection.finder.current
            stream = connection.node(address).workflows.WatchWorkflow(request)
            try:
                while True:
                    answer = await connection.watchful(address, stream.read)
                    if not isinstance(answer, pb.WatchWorkflowResponse):
                        break
                    retry = None
                    seen = answer.workflow.SerializeToString(deterministic=True)
                    if seen == last:
                        continue  # the first message after a reconnection
                    last = seen
                    execution = read_execution(answer.workflow)
                    yield execution
                    if execution.status.ended:
                        return
            finally:
                cast(Any, stream).cancel()
            if not isinstance(answer, Failure):
                # The server ended the stream before the execution did.
                answer = Failure(Kind.UNREACHABLE, grpc.StatusCode.UNAVAILABLE, "the stream ended")
            deadline = connection.now() + connection.deadline_s
            retry = retry or CallRetry(deadline=deadline, identified=True, mutating=False, rng=connection.rng)
            await connection.recover(address, answer, retry)

    async def signal(self, name: str, payload: Any = None) -> None:
        """Gives a signal, which is kept until a wait for that name takes it."""
        request = pb.SignalWorkflowRequest(
            namespace=self._connection.namespace,
            workflow_id=self.workflow_id,
            name=name,
            payload=object_payload(payload, "payload"),
        )
        with tracing.telling("signal", name, request.namespace, self.workflow_id):
            await self._connection.call(lambda node: node.workflows.SignalWorkflow, request, mutating=True)

    async def pause(self) -> None:
        """Nothing new is scheduled until `resume`; running tasks may finish."""
        request = pb.PauseWorkflowRequest(**self._named())
        await self._connection.call(lambda node: node.workflows.PauseWorkflow, request, mutating=True)

    async def resume(self) -> None:
        """Goes on after `pause`."""
        request = pb.ResumeWorkflowRequest(**self._named())
        await self._connection.call(lambda node: node.workflows.ResumeWorkflow, request, mutating=True)

    async def terminate(self, reason: str = "", *, compensation: Literal["run", "skip"] | None = None) -> None:
        """Ends the execution. Without a word on compensation it is refused if any completed step could be undone."""
        if compensation not in COMPENSATION:
            raise InvalidRequest(f"compensation is 'run', 'skip' or None, not {compensation!r}")
        request = pb.TerminateWorkflowRequest(**self._named(), reason=reason, compensation=COMPENSATION[compensation])
        await self._connection.call(lambda node: node.workflows.TerminateWorkflow, request, mutating=True)

    async def retry(self, *, resume_sub_workflows: bool = False) -> None:
        """Tries the failed tasks of the ended execution again.

        With `resume_sub_workflows` its failed sub-workflows go on; otherwise new ones are started.
        """
        request = pb.RetryWorkflowRequest(**self._named(), resume_sub_workflows=resume_sub_workflows)
        await self._connection.call(lambda node: node.workflows.RetryWorkflow, request, mutating=True)

    async def restart(
        self,
        *,
        use_latest_definitions: bool = False,
        effects: Literal["keep", "compensate_first"] | None = None,
    ) -> None:
        """Begins the ended execution anew; without a word on effects refused if a step that could be undone was not."""
        request = pb.RestartWorkflowRequest(
            **self._named(), use_latest_definitions=use_latest_definitions, effects=delete_effects(effects)
        )
        await self._connection.call(lambda node: node.workflows.RestartWorkflow, request, mutating=True)

    async def rerun(
        self,
        task_id: str = "",
        *,
        task_input: Mapping[str, Any] | None = None,
        workflow_input: Mapping[str, Any] | None = None,
        correlation_id: str = "",
        effects: Literal["keep", "compensate_first"] | None = None,
    ) -> None:
        """Runs the ended execution again from one of its tasks, or from the beginning, with other inputs if given."""
        request = pb.RerunWorkflowRequest(
            **self._named(),
            task_id=task_id,
            task_input=None if task_input is None else object_payload(task_input, "task_input"),
            workflow_input=None if workflow_input is None else object_payload(workflow_input, "workflow_input"),
            correlation_id=correlation_id,
            effects=delete_effects(effects),
        )
        await self._connection.call(lambda node: node.workflows.RerunWorkflow, request, mutating=True)

    async def skip(self, reference: str, output: Mapping[str, Any] | None = None) -> None:
        """Leaves out a task that has not begun; `output` is what others see of it."""
        request = pb.SkipTaskRequest(
            **self._named(),
            reference=reference,
            output=None if output is None else object_payload(output, "output"),
        )
        await self._connection.call(lambda node: node.workflows.SkipTask, request, mutating=True)

    async def retry_compensation(self) -> None:
        """Gives the compensation that is stuck a fresh set of attempts."""
        request = pb.RetryCompensationRequest(**self._named())
        await self._connection.call(lambda node: node.workflows.RetryCompensation, request, mutating=True)

    async def skip_compensation(self) -> None:
        """Records the compensation that is stuck as left, and goes on with the next."""
        request = pb.SkipCompensationRequest(**self._named())
        await self._connection.call(lambda node: node.workflows.SkipCompensation, request, mutating=True)

    async def abandon_compensation(self, reason: str = "") -> None:
        """Ends the execution with steps left that were not undone."""
        request = pb.AbandonCompensationRequest(**self._named(), reason=reason)
        await self._connection.call(lambda node: node.workflows.AbandonCompensation, request, mutating=True)

    def _named(self) -> dict[str, Any]:
        return {"namespace": self._connection.namespace, "workflow_id": self.workflow_id}
