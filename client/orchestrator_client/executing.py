"""Synchronous execution: start, or signal, and wait for the end or for the task at which it is blocked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_client import tracing
from orchestrator_client.connection import ANSWER_S, Connection
from orchestrator_client.errors import DeadlineExceeded, InvalidRequest, NoLeader, Overloaded
from orchestrator_client.execution import (
    Execution,
    TaskAttempt,
    TaskStatus,
    WorkflowStatus,
    read_execution,
    read_task,
    read_workflow_status,
)
from orchestrator_client.runs import WAIT_MS, Run, object_payload
from orchestrator_client.workflow import Workflow


class ReturnStrategy(StrEnum):
    """What is answered of an execution that was waited for."""

    # The execution that was started or signalled.
    TARGET_WORKFLOW = "TARGET_WORKFLOW"
    # The one that has the task at which it is blocked: itself, or a sub-workflow.
    BLOCKING_WORKFLOW = "BLOCKING_WORKFLOW"
    # The task at which it is blocked.
    BLOCKING_TASK = "BLOCKING_TASK"
    # The same: its input says what it asks for.
    BLOCKING_TASK_INPUT = "BLOCKING_TASK_INPUT"


@dataclass(frozen=True)
class Awaited:
    """How far an execution has come that was waited for."""

    return_strategy: ReturnStrategy
    target_workflow_id: str
    target_status: WorkflowStatus
    # Whose task it is, or which is in `workflow`; "" if neither is there.
    workflow_id: str
    # By the strategies TARGET_WORKFLOW and BLOCKING_WORKFLOW, with its tasks.
    workflow: Execution | None
    # By the others, if it is blocked.
    task: TaskAttempt | None
    # It has neither ended nor is it blocked.
    timed_out: bool
    # With them the workflow does not fit into a message.
    tasks_left_out: bool


class Executing:
    """A part of the client."""

    connection: Connection
    # The client's own method, with all its options.
    start: Any

    async def execute(
        self,
        workflow: Workflow | Mapping[str, Any] | str,
        input: Any = None,
        /,
        *,
        wait_s: float = 10.0,
        wait_until: Iterable[str] = (),
        return_strategy: ReturnStrategy | str = ReturnStrategy.TARGET_WORKFLOW,
        **options: Any,
    ) -> Awaited:
        """Starts an execution (options as for `start`) and waits until it ends or is blocked, for at most `wait_s`.

        Blocked it is at a WAIT without a time or a HUMAN, of its own or of a sub-workflow, and when a task has ended
        that `wait_until` names. A change of the leader meanwhile is a pause. NoLeader and Overloaded are about the
        start: it had no effect; after DeadlineExceeded the execution goes on.
        """
        strategy_of(return_strategy)
        run: Run = await self.start(workflow, input, **options)
        return _read(await wait_blocked(self.connection, run.workflow_id, wait_s, wait_until, return_strategy))

    async def wait_blocked(
        self,
        workflow_id: str,
        wait_s: float = 10.0,
        *,
        wait_until: Iterable[str] = (),
        return_strategy: ReturnStrategy | str = ReturnStrategy.TARGET_WORKFLOW,
    ) -> Awaited:
        """Waits like `execute`, for an execution that was started before."""
        return _read(await wait_blocked(self.connection, workflow_id, wait_s, wait_until, return_strategy))

    async def signal_task(
        self,
        workflow_id: str,
        status: TaskStatus | str = TaskStatus.COMPLETED,
        output: Any = None,
        *,
        reason: str = "",
        wait_s: float = 0.0,
        return_strategy: ReturnStrategy | str = ReturnStrategy.TARGET_WORKFLOW,
    ) -> Awaited | None:
        """Says what the first WAIT or HUMAN in progress has come to, of the execution or else of a sub-workflow.

        With `wait_s` it waits then like `execute`, otherwise it answers None. NotFound if nothing waits.
        """
        strategy_of(return_strategy)
        await signal_task(self.connection, workflow_id, status, output, reason)
        if not wait_s:
            return None
        return _read(await wait_blocked(self.connection, workflow_id, wait_s, (), return_strategy))


def strategy_of(strategy: ReturnStrategy | str) -> pb.ReturnStrategy.ValueType:
    """Raises InvalidRequest."""
    if strategy not in list(ReturnStrategy):
        raise InvalidRequest(f"return_strategy is one of {', '.join(ReturnStrategy)}, not {strategy!r}")
    return pb.ReturnStrategy.Value(f"RETURN_STRATEGY_{strategy}")


async def signal_task(
    connection: Connection, workflow_id: str, status: TaskStatus | str, output: Any, reason: str
) -> None:
    """The signal alone: what follows is waited for by a call of its own, which may be repeated."""
    try:
        number = pb.TaskStatus.Value(f"TASK_STATUS_{status}")
    except ValueError:
        raise InvalidRequest(f"there is no status {status!r}") from None
    request = pb.SignalTaskRequest(
        namespace=connection.namespace,
        workflow_id=workflow_id,
        status=number,
        output=object_payload(output, "output"),
        reason=reason,
    )
    with tracing.telling("signal", "task", request.namespace, workflow_id):
        await connection.call(lambda node: node.workflows.SignalTask, request, mutating=True)


async def wait_blocked(
    connection: Connection,
    workflow_id: str,
    wait_s: float,
    wait_until: Iterable[str],
    return_strategy: ReturnStrategy | str,
    view: pb.View.ValueType = pb.VIEW_NATIVE,
) -> pb.Awaited:
    """Goes on through changes of the leader. Raises DeadlineExceeded if nobody can say how far it has come."""
    deadline = connection.now() + wait_s
    request = pb.AwaitWorkflowRequest(
        namespace=connection.namespace,
        workflow_id=workflow_id,
        wait_until_tasks=list(wait_until),
        return_strategy=strategy_of(return_strategy),
        view=view,
    )
    while True:
        remaining_s = max(deadline - connection.now(), 0.0)
        request.wait_ms = max(1, min(WAIT_MS, int(remaining_s * 1000)))
        attempt_s = request.wait_ms / 1000 + ANSWER_S
        try:
            reply = await connection.call(
                lambda node: node.workflows.AwaitWorkflow, request, timeout_s=remaining_s + ANSWER_S,
                attempt_s=attempt_s,
            )
        except (NoLeader, Overloaded) as error:
            raise DeadlineExceeded(f"{workflow_id} goes on, and can't be seen: {error}") from error
        if not reply.awaited.timed_out or connection.now() >= deadline:
            return reply.awaited


def _read(message: pb.Awaited) -> Awaited:
    return Awaited(
        ReturnStrategy(pb.ReturnStrategy.Name(message.return_strategy).removeprefix("RETURN_STRATEGY_")),
        message.target_workflow_id,
        read_workflow_status(message.target_status),
        message.workflow_id,
        read_execution(message.workflow) if message.HasField("workflow") else None,
        read_task(message.task) if message.HasField("task") else None,
        message.timed_out,
        message.tasks_left_out,
    )
