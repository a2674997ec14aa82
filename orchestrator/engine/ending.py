"""How an execution comes to its terminal status: everything open is cancelled, in bounded steps, then it has ended."""

from __future__ import annotations

from orchestrator.engine import attempts, children, deletion, failure, limits
from orchestrator.engine.assembly import output_of
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX, resolve
from orchestrator.engine.messages import GoOnAfterEnd
from orchestrator.engine.model import Payload, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.payloads import store
from orchestrator.engine.scopes import ExecutionScope
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_workflow
from orchestrator.engine.triggers import schedules


def begin(step: Step, status: WorkflowStatus, reason: str, failed_task: str, output: Payload = b"") -> None:
    """The outcome is fixed; the status follows as soon as nothing is open any more."""
    disarm(step)
    header = step.header
    header.ending, header.reason = status, reason[: limits.REASON_CHARS]
    header.failed_task, header.output = failed_task, output
    proceed(step)


def disarm(step: Step) -> None:
    """Drops the timers of the workflow itself."""
    x = step.x
    if x.workflow_timer or x.grace_timer:
        step.disarm(x.workflow_timer)
        step.disarm(x.grace_timer)
        step.change(workflow_timer=0, grace_timer=0)


def proceed(step: Step) -> None:
    """Cancels what is open, as far as one step may, and ends the execution when nothing is left."""
    ending = step.x.ending
    assert ending is not None
    if step.hot.open:
        cancel_open(step, f"workflow {ending.name}")
    if step.x.open_tasks == 0:
        conclude(step, ending)


def cancel_open(step: Step, reason: str, *, keep_leased: bool = False, keep_children: bool = False) -> None:
    """Cancels open attempts, the oldest first.

    `keep_leased`: those that a worker has are left to it; `keep_children`: those of sub-workflows, too.
    """
    if not step.hot.open:
        return
    for sequence in sorted(step.hot.open):
        if step.budget <= 0:
            return
        attempt = step.hot.tasks[sequence]
        is_leased = attempt.status is TaskStatus.IN_PROGRESS and attempt.fencing_token > 0
        if keep_leased and is_leased and attempts.has_effect(attempt):
            continue
        is_child_open = attempt.status is TaskStatus.IN_PROGRESS and not attempt.is_looked_at
        if keep_children and attempt.own_child and is_child_open:
            continue
        attempts.finish(step, attempt, TaskStatus.CANCELED, reason=reason, follow=False)


def conclude(step: Step, status: WorkflowStatus) -> None:
    """The terminal status. Nothing is open."""
    if step.x.status is WorkflowStatus.PAUSED:
        step.change(paused_from=None)
    check_workflow(step.x.status, status)
    output = step.x.output or make_output(step)
    header = step.header
    header.output, header.status = output, status
    header.ending, header.ended_ms = None, step.now
    step.meta.live_executions -= 1
    schedules.ended(step, step.x.namespace, step.x.workflow_id)
    if not step.x.afterwards:
        failure.start(step)
    children.ended(step)
    if step.x.afterwards:
        step.send(GoOnAfterEnd(step.x.namespace, step.x.workflow_id))
    if step.x.delete_when_ended:
        deletion.after_end(step)


def make_output(step: Step) -> Payload:
    """`outputParameters`, or else the output of the last task; what is not there is null."""
    template = step.plan.definition.output
    if template is None:
        for sequence in reversed(step.hot.tasks):
            attempt = step.hot.tasks[sequence]
            if not attempt.compensates and attempt.type != TaskType.SCHEMA_CHECK:
                return attempt.output or _assembled(step, attempt)
        return b"{}"
    scope = ExecutionScope(step.plan, step.hot, step.x)
    return _kept(step, resolve(template, scope), scope)


def copied(step: Step, payload: Payload) -> Payload:
    """A payload of its own, which goes without any other."""
    return _kept(step, step.hot.load(payload)) if isinstance(payload, int) else payload


def _assembled(step: Step, attempt: TaskAttempt) -> Payload:
    text = output_of(step.plan, step.hot, attempt)
    return text if text == b"{}" else _kept(step, text)


def _kept(step: Step, text: bytes, scope: ExecutionScope | None = None) -> Payload:
    """`scope`: that it was resolved in."""
    try:
        if scope is not None:
            scope.require_inside()
        if len(text) > PAYLOAD_BYTES_MAX:
            raise LimitExceeded(f"the workflow's output exceeds the limit of {PAYLOAD_BYTES_MAX} bytes")
        return store(step, text)
    except LimitExceeded as error:
        # Too late to fail a task: the outcome stands, and says what is missing.
        if not step.x.reason:
            step.change(reason=str(error))
        return b"{}"
