"""From rows to messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.timestamp_pb2 import Timestamp

from orchestrator.engine import queries
from orchestrator.engine.blobs import BlobRef
from orchestrator.engine.effects import Cancel
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.explain import Waiting
from orchestrator.engine.masking import masked
from orchestrator.engine.model import CompensationState, Execution, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.state import State
from orchestrator.rpc.handing_out import Given, HandOut
from orchestrator.rpc.trace_context import write_trace
from orchestrator.rpc.whole import Whole, as_is, handed_out
from orchestrator_api.v1 import common_pb2, workers_pb2, workflows_pb2

TASK_STATUS = {status: workflows_pb2.TaskStatus.Value(f"TASK_STATUS_{status.name}") for status in TaskStatus}
WORKFLOW_STATUS = {
    status: workflows_pb2.WorkflowStatus.Value(f"WORKFLOW_STATUS_{status.name}") for status in WorkflowStatus
}
COMPENSATION_STATE = {
    state: workflows_pb2.CompensationState.Value(f"COMPENSATION_STATE_{state.name}") for state in CompensationState
}

# What an assignment has besides its payloads, about.
_ASSIGNMENT_BYTES = 300

_NONE: Mapping[BlobRef, bytes] = {}

CLEARING = "the removal of what its run before has left"


def timestamp(time_ms: int) -> Timestamp | None:
    """None for 0, which stands for never."""
    if not time_ms:
        return None
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def payload(data: bytes) -> common_pb2.Payload | None:
    """None for b"", which stands for no payload."""
    return common_pb2.Payload(inline=data) if data else None


def summary(execution: Execution) -> workflows_pb2.Workflow:
    """The execution without payloads, tasks and compensated steps."""
    return workflows_pb2.Workflow(
        workflow_id=execution.workflow_id,
        namespace=execution.namespace,
        name=execution.name,
        version=execution.version,
        status=WORKFLOW_STATUS[execution.status],
        reason=execution.reason,
        failed_task=execution.failed_task,
        correlation_id=execution.correlation_id,
        priority=execution.priority,
        created_by=execution.created_by,
        idempotency_key=execution.idempotency_key,
        waiting_for=_waiting_for(execution),
        start_time=timestamp(execution.created_ms),
        update_time=timestamp(execution.updated_ms),
        end_time=timestamp(execution.ended_ms),
        run=execution.run,
        compensation=workflows_pb2.Compensation(state=COMPENSATION_STATE[execution.compensation]),
    )


def _waiting_for(execution: Execution) -> str:
    if execution.clearing:
        return CLEARING
    return f"a place under the rate limit key {execution.group_key!r}" if execution.waits else ""


def workflow(
    state: State, held: ExecutionState, *, include_tasks: bool, whole: Whole = as_is
) -> workflows_pb2.Workflow:
    """The whole execution, as readers may see it."""
    execution = held.execution
    message = summary(execution)
    for name, value in (
        ("input", execution.input),
        ("output", execution.output),
        ("variables", execution.variables),
    ):
        data = queries.payload(held, value)
        if data:
            getattr(message, name).inline = whole(data, execution.masked_fields)
    message.compensation.CopyFrom(compensation(held))
    failed = held.latest(execution.failed_task)
    if failed is not None:
        message.error_code = failed.error_code
    if include_tasks:
        message.tasks.extend(task(state, held, attempt, whole) for attempt in shown_tasks(held))
        message.definition_json = queries.execution_document(state, held)
    return message


def outcome(held: ExecutionState) -> workflows_pb2.Workflow:
    """Of one that has completed what its caller asked for: its output."""
    execution = held.execution
    message = workflows_pb2.Workflow(workflow_id=execution.workflow_id, status=WORKFLOW_STATUS[execution.status])
    data = queries.payload(held, execution.output)
    if data:
        message.output.inline = masked(data, execution.masked_fields)
    return message


def shown_tasks(held: ExecutionState) -> Iterator[TaskAttempt]:
    """In the order in which they were made."""
    # While it is being cleared, some of what belongs to those that are left may be gone.
    for sequence in () if held.execution.clearing else sorted(held.tasks):
        yield held.tasks[sequence]


def compensation(held: ExecutionState) -> workflows_pb2.Compensation:
    """What was undone, and what is owed or left."""
    view = queries.compensation_view(held)
    return workflows_pb2.Compensation(
        state=COMPENSATION_STATE[view.state],
        done=[_step(step) for step in view.done],
        left=[_step(step) for step in view.left],
    )


def _step(step: queries.CompensatedStep) -> workflows_pb2.CompensatedStep:
    return workflows_pb2.CompensatedStep(
        reference=step.reference,
        iteration=step.iteration,
        outcome_unknown=step.outcome_unknown,
        reason=step.reason,
    )


def task(
    state: State, held: ExecutionState, attempt: TaskAttempt, whole: Whole = as_is
) -> workflows_pb2.Task:
    """The whole attempt, as readers may see it."""
    record = held.records.get(attempt.compensates)
    message = task_summary(attempt)
    for name, data in (
        ("input", queries.resolved_input(state, held, attempt)),
        ("output", queries.output(state, held, attempt)),
        ("heartbeat_details", queries.payload(held, attempt.details)),
    ):
        if data:
            getattr(message, name).inline = whole(data, held.execution.masked_fields)
    message.compensates = record.reference if record is not None else ""
    return message


def task_summary(attempt: TaskAttempt) -> workflows_pb2.Task:
    """The attempt without payloads, and without what it undoes."""
    return workflows_pb2.Task(
        task_id=attempt.task_id,
        reference=attempt.reference,
        name=attempt.name,
        type=attempt.type,
        status=TASK_STATUS[attempt.status],
        sequence=attempt.sequence,
        retry_count=attempt.retry_count,
        iteration=attempt.iteration,
        reason=attempt.reason,
        worker_id=attempt.worker_id,
        fencing_token=attempt.fencing_token,
        idempotency_key=attempt.idempotency_key,
        scheduled_time=timestamp(attempt.scheduled_ms),
        start_time=timestamp(attempt.started_ms),
        end_time=timestamp(attempt.ended_ms),
        error_code=attempt.error_code,
    )


def waiting(one: Waiting) -> workflows_pb2.Waiting:
    return workflows_pb2.Waiting(
        waits_for=one.waits_for,
        since=timestamp(one.since_ms),
        reference=one.reference,
        until=timestamp(one.until_ms),
        child_workflow_id=one.child,
    )


def assignment(
    state: State, held: ExecutionState, token: int, hand_out: HandOut, values: Mapping[BlobRef, bytes] = _NONE
) -> workers_pb2.Assignment | None:
    """A leased attempt, with its input resolved and nothing masked; None if it is not to be delivered (any more).

    `values`: of its payloads, which are kept outside the log. Raises NotGiven, ValuesNeeded.
    """
    view = queries.assignment_view(state, held, token)
    if view is None:
        return None
    given = hand_out.given(view)
    if held.execution.blobs:
        view, given = handed_out(state, held, view, given, values)
    message = workers_pb2.Assignment()
    _write_assignment(message, view)
    if given is not None:
        _add_given(message, view, given)
    return message


def add_assignment(
    assignments: RepeatedCompositeFieldContainer[workers_pb2.Assignment],
    state: State,
    held: ExecutionState,
    token: int,
    hand_out: HandOut,
    values: Mapping[BlobRef, bytes] = _NONE,
) -> int:
    """Adds what `assignment` answers; answers about how many bytes it has, or 0 if there is nothing to add.

    Raises NotGiven and ValuesNeeded, and nothing is added.
    """
    view = queries.assignment_view(state, held, token)
    if view is None:
        return 0
    given = hand_out.given(view)
    if held.execution.blobs:
        view, given = handed_out(state, held, view, given, values)
    message = assignments.add()
    _write_assignment(message, view)
    size = _ASSIGNMENT_BYTES + len(view.input) + len(view.heartbeat_details) + len(view.parameters)
    return size if given is None else size + _add_given(message, view, given)


def _add_given(message: workers_pb2.Assignment, view: queries.AssignmentView, given: Given) -> int:
    """Answers about how many bytes it has more."""
    if view.secrets:
        message.input.inline = given.input
    message.runtime_metadata.update(given.metadata)
    if view.kind:
        # A node has to know what it must not report; workers are told by the place where it stands.
        message.secret_values.extend(given.secrets)
    sizes = [len(name) + len(value) for name, value in given.metadata.items()]
    return sum(sizes) + sum(map(len, given.secrets))


def _write_assignment(message: workers_pb2.Assignment, view: queries.AssignmentView) -> None:
    """Field by field, and without what is the default: this is done for each attempt, and costs half as much so."""
    message.namespace = view.namespace
    message.workflow_id = view.workflow_id
    message.task_id = view.task_id
    message.fencing_token = view.fencing_token
    message.idempotency_key = view.idempotency_key
    message.name = view.name
    message.reference = view.reference
    message.workflow_name = view.workflow_name
    for name, value in (
        ("iteration", view.iteration),
        ("retry_count", view.retry_count),
        ("timeout_ms", view.timeout_ms),
        ("response_timeout_ms", view.response_timeout_ms),
        ("correlation_id", view.correlation_id),
        ("kind", view.kind),
        ("parameters_json", view.parameters),
        ("queue", view.queue),
    ):
        if value:
            setattr(message, name, value)
    if view.input:
        message.input.inline = view.input
    if view.heartbeat_details:
        message.heartbeat_details.inline = view.heartbeat_details
    if view.scheduled_ms:
        scheduled = message.scheduled_time
        scheduled.seconds, scheduled.nanos = view.scheduled_ms // 1000, view.scheduled_ms % 1000 * 1_000_000
    if view.trace:
        write_trace(message.trace, view.trace)
    undone = view.compensation
    if undone is not None:
        message.compensation.CopyFrom(
            workers_pb2.CompensationAssignment(
                reference=undone.reference,
                iteration=undone.iteration,
                step_input=payload(undone.input),
                step_output=payload(undone.output or b""),
                outcome_unknown=undone.outcome_unknown,
                step_idempotency_key=undone.idempotency_key,
                step_name=undone.name,
            )
        )


def cancellation(effect: Cancel) -> workers_pb2.Cancellation:
    return workers_pb2.Cancellation(
        workflow_id=effect.workflow_id,
        task_id=effect.task_id,
        fencing_token=effect.token,
        reason=effect.reason,
        fenced=effect.fenced,
    )
