"""What sub-workflows and their parents say to each other."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, children, deletion, leases, limits, outcomes, saga
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX, assemble_object, dump_string
from orchestrator.engine.messages import CancelChild, ChildEnded, JoinExecution, RemoveChild, StartAnswered, UndoChild
from orchestrator.engine.model import CompensationState, Payload, StepOutcome, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.payloads import store_brought
from orchestrator.engine.results import AnyResult, Done
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_TERMINAL, WORKFLOW_TERMINAL, check_workflow

_STATUSES = {
    WorkflowStatus.COMPLETED: TaskStatus.COMPLETED,
    WorkflowStatus.FAILED: TaskStatus.FAILED,
    WorkflowStatus.TERMINATED: TaskStatus.CANCELED,
    WorkflowStatus.TIMED_OUT: TaskStatus.TIMED_OUT,
}


# --- to the parent


def start_answered(step: Step, message: StartAnswered) -> AnyResult:
    """The execution that a task asked for has begun, or could not."""
    attempt = _waiting(step, message.namespace, message.workflow_id, message.task_sequence)
    if attempt is None:
        return Done()
    if message.reason:
        # There is no child that it could be retried with.
        attempt = step.put_task(replace(attempt, child="", joined=False))
        attempts.finish(step, attempt, TaskStatus.FAILED, reason=message.reason, error_code=message.error_code)
    elif attempt.type == TaskType.START_WORKFLOW:
        output = assemble_object([("workflowId", dump_string(message.child))])
        attempts.finish(step, attempt, TaskStatus.COMPLETED, output=_stored(step, output))
    elif message.child != attempt.child:
        _join(step, attempt, message.child)
    return Done()


def _join(step: Step, attempt: TaskAttempt, child: str) -> None:
    if attempt.compensates or leases.is_wanted(step, attempt):
        children.join(step, attempt, child)
    else:
        reason = "the workflow has ended or compensates"
        attempt = step.put_task(replace(attempt, child=""))
        attempts.finish(step, attempt, TaskStatus.CANCELED, reason=reason, follow=False)


def child_ended(step: Step, message: ChildEnded) -> AnyResult:
    """The child of a task has ended, or has undone its steps."""
    attempt = _waiting(step, message.namespace, message.workflow_id, message.task_sequence)
    if attempt is None or attempt.child != message.child:
        return Done()
    if attempt.compensates and step.hot.records[attempt.compensates].child:
        _child_undone(step, attempt, message)
        return Done()
    status = _STATUSES[message.status]
    text = children.output_of_child(message.child, message.output)
    reason = ""
    if status is not TaskStatus.COMPLETED:
        reason = f"Sub workflow {message.child} failure reason: {message.reason}"
    if len(text) > PAYLOAD_BYTES_MAX:
        text = children.output_of_child(message.child, b"{}")
    if message.pivot_passed and status is TaskStatus.COMPLETED:
        step.change(pivot_passed=True)
    attempt = attempts.finish(
        step, attempt, status, output=_stored(step, text), reason=reason, accepted=True, follow=_is_followed(step)
    )
    owes = message.owes and status is TaskStatus.COMPLETED and not attempt.compensates
    if owes and attempts.node_of(step, attempt).compensate_with is None:
        attempts.add_record(step, attempt, StepOutcome.COMPLETED, child=message.child)
    return Done()


def _is_followed(step: Step) -> bool:
    return not step.is_over


def _child_undone(step: Step, attempt: TaskAttempt, message: ChildEnded) -> None:
    if not message.is_incomplete:
        attempts.finish(step, attempt, TaskStatus.COMPLETED, accepted=True)
        return
    # Somebody has decided there that it stays so.
    reason = f"sub-workflow {message.child} was left with steps that are not undone"
    attempt = attempts.finish(
        step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason=reason, accepted=True, follow=False
    )
    step.put_task(replace(attempt, passed=True))
    saga.leave(step, attempt.compensates, reason)


def _waiting(step: Step, namespace: str, workflow_id: str, sequence: int) -> TaskAttempt | None:
    attempt = step.task(sequence) if step.open(namespace, workflow_id) else None
    return None if attempt is None or attempt.status in TASK_TERMINAL else attempt


def _stored(step: Step, text: bytes) -> Payload:
    try:
        return store_brought(step, text)
    except LimitExceeded:
        # The child is there to be looked at.
        return b"{}"


# --- to the child


def join_execution(step: Step, message: JoinExecution) -> AnyResult:
    """Another execution's task waits for the end of this one, or does not any more."""
    waiting = (message.parent, message.task_sequence)
    if not step.open(message.namespace, message.workflow_id):
        if not message.leaves:
            _not_joined(step, message, f"there is no execution {message.workflow_id}", "WORKFLOW_NOT_FOUND")
    elif message.leaves:
        step.change(joined_by=tuple(other for other in step.x.joined_by if other != waiting))
    elif step.x.workflow_id in message.around or _waits_for(step, message.around):
        _not_joined(step, message, f"it would wait for {message.workflow_id}, which waits for it", "WAITS_FOR_ITSELF")
    elif step.x.status in WORKFLOW_TERMINAL:
        children.tell_end(step, *waiting)
    elif len(step.x.joined_by) >= limits.JOINED:
        said = f"{limits.JOINED} other tasks wait for {message.workflow_id}, which is the limit"
        _not_joined(step, message, said, "TOO_MANY_WAIT")
    else:
        step.change(joined_by=(*step.x.joined_by, waiting))
    return Done()


def _waits_for(step: Step, executions: tuple[str, ...]) -> bool:
    """Whether a task of the step's execution waits for one of these to end. Longer rings are not looked for."""
    return any(
        attempt.child in executions and not attempt.compensates
        for attempt in map(step.hot.tasks.__getitem__, step.hot.open)
        if attempt.child
    )


def _not_joined(step: Step, message: JoinExecution, said: str, code: str) -> None:
    parent, sequence = message.parent, message.task_sequence
    step.send(StartAnswered(message.namespace, parent, sequence, message.workflow_id, said, code))


def cancel_child(step: Step, message: CancelChild) -> AnyResult:
    """The parent has ended, or turns round."""
    if not step.open(message.namespace, message.workflow_id) or step.is_over:
        return Done()
    if step.phase is not WorkflowStatus.COMPENSATING:
        outcomes.end_badly(step, WorkflowStatus.TERMINATED, message.reason, compensate=message.undo)
    return Done()


def undo_child(step: Step, message: UndoChild) -> AnyResult:
    """The parent undoes the step that this execution was: it was completed, and undoes its own steps."""
    if not step.open(message.namespace, message.workflow_id):
        return Done()
    if step.x.status is WorkflowStatus.COMPLETED and step.x.ending is None:
        check_workflow(step.x.status, WorkflowStatus.COMPENSATING)
        step.change(
            status=WorkflowStatus.COMPENSATING,
            outcome=WorkflowStatus.TERMINATED,
            reason=f"compensated by parent {message.parent}",
            compensation=CompensationState.RUNNING,
            ended_ms=0,
            settled=False,
        )
        step.meta.live_executions += 1
    step.change(undone_by=message.task_sequence)
    if step.x.status in WORKFLOW_TERMINAL:
        # Undone before, on somebody else's word.
        children.ended(step)
    return Done()


def remove_child(step: Step, message: RemoveChild) -> AnyResult:
    """The execution that it was a part of is gone."""
    if not step.open(message.namespace, message.workflow_id):
        return Done()
    if step.x.status in WORKFLOW_TERMINAL and not message.keep:
        deletion.begin(step)
    else:
        # Or it is still undoing what it did: from now on it is kept like any other.
        step.change(parent="", root="")
    return Done()
