"""Executions and attempts in the view that was asked for, within the size of a message."""

from __future__ import annotations

from typing import Any

import grpc

from orchestrator.engine import queries
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import Execution, TaskAttempt
from orchestrator.engine.state import State
from orchestrator.rpc import conductor_view, views
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import RpcFailure
from orchestrator.rpc.requests import chosen
from orchestrator.rpc.slices import Slices, drawn
from orchestrator.rpc.whole import Whole, as_is, shown
from orchestrator_api.v1 import workflows_pb2 as pb

ANSWER_BYTES_MAX = 15 << 20
"""Of an execution with its tasks: with room for what else the message has."""

_IS_CONDUCTORS = {pb.VIEW_UNSPECIFIED: False, pb.VIEW_NATIVE: False, pb.VIEW_CONDUCTOR: True}


def is_conductors(view: Any) -> bool:
    """Whether the request's view is Conductor's; raises RpcFailure if it is none."""
    return chosen("view", _IS_CONDUCTORS, view)


async def workflow(backend: Backend, held: ExecutionState, *, include_tasks: bool, conductors: bool) -> pb.Workflow:
    """The whole execution. Raises RpcFailure if it is too large for a message."""

    async def draw(whole: Whole) -> pb.Workflow:
        if conductors:
            return await _conductors(backend, held, include_tasks, whole)
        return await drawn(backend, held, lambda held: _natively(backend.state(), held, include_tasks, whole))

    return await shown(backend, held, draw)


def _natively(state: State, held: ExecutionState, include_tasks: bool, whole: Whole) -> Slices[pb.Workflow]:
    message = views.workflow(state, held, include_tasks=False, whole=whole)
    if include_tasks:
        size = message.ByteSize()
        for attempt in views.shown_tasks(held):
            message.tasks.append(views.task(state, held, attempt, whole))
            piece = message.tasks[-1].ByteSize()
            size += piece
            if size > ANSWER_BYTES_MAX:
                raise too_large(held)
            yield piece
        message.definition_json = queries.execution_document(state, held)
    if message.ByteSize() > ANSWER_BYTES_MAX:
        raise too_large(held)
    return message


async def _conductors(
    backend: Backend, held: ExecutionState, include_tasks: bool, whole: Whole
) -> pb.Workflow:
    parent_task = await parent_task_of(backend, held.execution)

    def draw(held: ExecutionState) -> Slices[pb.Workflow]:
        return conductors_workflow(
            backend.state(),
            held,
            include_tasks=include_tasks,
            parent_task=parent_task,
            bytes_max=ANSWER_BYTES_MAX,
            whole=whole,
        )

    try:
        return await drawn(backend, held, draw)
    except conductor_view.TooLarge:
        raise too_large(held) from None


def conductors_workflow(
    state: State,
    held: ExecutionState,
    *,
    include_tasks: bool,
    parent_task: str,
    bytes_max: int,
    whole: Whole = as_is,
) -> Slices[pb.Workflow]:
    """Raises conductor_view.TooLarge."""
    document = yield from conductor_view.workflow(
        state, held, include_tasks=include_tasks, parent_task=parent_task, bytes_max=bytes_max, whole=whole
    )
    return _named(held.execution, document)


async def parent_task_of(backend: Backend, execution: Execution) -> str:
    """The id of the task that has started the execution; "" if none has, or its execution is not kept any more."""
    if not execution.parent:
        return ""
    parent = await backend.execution(execution.namespace, execution.parent)
    attempt = None if parent is None else parent.tasks.get(execution.parent_sequence)
    return "" if attempt is None else attempt.task_id


def too_large(held: ExecutionState) -> RpcFailure:
    """It has more than fits into a message."""
    name = held.execution.workflow_id
    message = (
        f"the workflow {name!r} has more than {ANSWER_BYTES_MAX:,} bytes with its {len(held.tasks):,} tasks:"
        " ask for it without them, and for them page by page with a full search for tasks by its workflowId"
    )
    metadata = {"workflow": name, "limit": str(ANSWER_BYTES_MAX)}
    return RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE", message, metadata)


async def found_workflow(backend: Backend, execution: Execution, *, full: bool, conductors: bool) -> pb.Workflow:
    """What a search has found."""
    held = await backend.execution(execution.namespace, execution.workflow_id) if full else None
    if held is not None:
        return await workflow(backend, held, include_tasks=False, conductors=conductors)
    if conductors:
        return _named(execution, conductor_view.summary(execution))
    return views.summary(execution)


async def found_task(
    backend: Backend, header: Execution, attempt: TaskAttempt, *, full: bool, conductors: bool
) -> pb.Task:
    """What a search has found."""
    held = await backend.execution(header.namespace, header.workflow_id) if full else None
    now = None if held is None else held.tasks.get(attempt.sequence)
    if held is not None and not held.execution.clearing and now is not None and now.task_id == attempt.task_id:
        return await task(backend, held, now, conductors=conductors)
    if conductors:
        return _named_task(attempt, conductor_view.task_summary(header, attempt))
    return views.task_summary(attempt)


async def task(backend: Backend, held: ExecutionState, attempt: TaskAttempt, *, conductors: bool) -> pb.Task:
    """The whole attempt."""

    async def draw(whole: Whole) -> pb.Task:
        if conductors:
            return _named_task(attempt, conductor_view.task(backend.state(), held, attempt, whole))
        return views.task(backend.state(), held, attempt, whole)

    return await shown(backend, held, draw)


def _named(execution: Execution, document: bytes) -> pb.Workflow:
    return pb.Workflow(
        workflow_id=execution.workflow_id,
        namespace=execution.namespace,
        status=views.WORKFLOW_STATUS[execution.status],
        conductor_json=document,
    )


def _named_task(attempt: TaskAttempt, document: bytes) -> pb.Task:
    return pb.Task(
        task_id=attempt.task_id,
        reference=attempt.reference,
        status=views.TASK_STATUS[attempt.status],
        conductor_json=document,
    )
