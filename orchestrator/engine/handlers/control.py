"""What operators and clients may do to an execution: pause, resume, terminate, retry, signal."""

from __future__ import annotations

from orchestrator.engine import attempts, blob_uses, children, inbox, loops, outcomes, saga, signals
from orchestrator.engine.again import tell_parent
from orchestrator.engine.births import arm_timeout
from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import (
    PauseWorkflow,
    PushMessage,
    ResumeWorkflow,
    RetryWorkflow,
    SignalWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.errors import LimitExceeded, has_ended, refuse
from orchestrator.engine.expressions import PayloadInvalid, check_payload
from orchestrator.engine.messages import RetryChild, StartAnswered
from orchestrator.engine.model import (
    AgendaItem,
    AgendaKind,
    CompensationState,
    TaskAttempt,
    TaskStatus,
    WorkflowStatus,
)
from orchestrator.engine.results import AnyResult, Code, Done, MessagePushed
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_SUCCESSFUL, TASK_TERMINAL, WORKFLOW_TERMINAL, check_workflow

_RETRIED = frozenset(
    (TaskStatus.FAILED, TaskStatus.TIMED_OUT, TaskStatus.FAILED_WITH_TERMINAL_ERROR, TaskStatus.CANCELED)
)


_ALWAYS_DUE = frozenset(
    (AgendaKind.SCHEDULE, AgendaKind.EXPAND, AgendaKind.ABANDON, AgendaKind.FORGET, AgendaKind.WALK_AGAIN)
)


def pause_workflow(step: Step, command: PauseWorkflow) -> AnyResult:
    step.require(command.namespace, command.workflow_id)
    _refuse_ended(step)
    if step.x.status is not WorkflowStatus.PAUSED:
        check_workflow(step.x.status, WorkflowStatus.PAUSED)
        step.change(paused_from=step.x.status, status=WorkflowStatus.PAUSED)
    return Done()


def resume_workflow(step: Step, command: ResumeWorkflow) -> AnyResult:
    step.require(command.namespace, command.workflow_id)
    _refuse_ended(step)
    back = step.x.paused_from
    if back is None:
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_NOT_PAUSED", "the workflow is not paused")
    check_workflow(step.x.status, back)
    step.change(status=back, paused_from=None)
    return Done()


def terminate_workflow(step: Step, command: TerminateWorkflow) -> AnyResult:
    step.require(command.namespace, command.workflow_id)
    if WorkflowStatus.TERMINATED in (step.x.status, step.x.ending):
        return Done()
    _refuse_ended(step)
    if step.phase is WorkflowStatus.COMPENSATING:
        message = "the workflow is compensating: its outcome is fixed; a compensation that is stuck can be abandoned"
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_COMPENSATING", message)
    if command.compensation is TerminateCompensation.RUN and step.x.pivot_passed:
        refuse(Code.FAILED_PRECONDITION, "PIVOT_PASSED", "a pivot has completed: nothing is compensated any more")
    if command.compensation is TerminateCompensation.UNSET and saga.is_owed(step):
        message = "steps are owed a compensation: say whether to RUN or to SKIP it"
        refuse(Code.FAILED_PRECONDITION, "COMPENSATION_UNDECIDED", message)
    compensate = command.compensation is TerminateCompensation.RUN
    outcomes.end_badly(step, WorkflowStatus.TERMINATED, command.reason, compensate=compensate)
    return Done()


def _refuse_ended(step: Step) -> None:
    if step.is_over:
        has_ended((step.x.ending or step.x.status).name)


def signal_workflow(step: Step, command: SignalWorkflow) -> AnyResult:
    signals.give(step, command.namespace, command.workflow_id, command.name, command.payload or b"{}")
    return Done()


def _by_turn(step: Step, sequences: list[int]) -> tuple[list[int], list[int], list[int]]:
    """(loops, JOINs, others), each in the order of their making."""
    turns: dict[str, list[int]] = {TaskType.DO_WHILE: [], TaskType.JOIN: [], "": []}
    for sequence in sorted(sequences):
        kind = step.hot.tasks[sequence].type
        turns[kind if kind in turns else ""].append(sequence)
    return turns[TaskType.DO_WHILE], turns[TaskType.JOIN], turns[""]


def push_message(step: Step, command: PushMessage) -> AnyResult:
    """To the message queue of a workflow that runs."""
    step.require(command.namespace, command.workflow_id)
    blob_uses.require(step, "payload", command.payload)
    try:
        check_payload(command.payload or b"{}")
    except PayloadInvalid as error:
        refuse(Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", f"payload: {error}", field="payload", limit=error.limit)
    _refuse_ended(step)
    if step.phase is WorkflowStatus.COMPENSATING:
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_COMPENSATING", "the workflow is compensating: it takes no messages")
    try:
        return MessagePushed(inbox.push(step, command.payload or b"{}"))
    except LimitExceeded as exceeded:
        refuse(Code.RESOURCE_EXHAUSTED, "MESSAGES_FULL", str(exceeded), limit="messages")


def retry_workflow(step: Step, command: RetryWorkflow) -> AnyResult:
    """Failed and cancelled tasks get another attempt, with a fresh set of retries; what succeeded stays."""
    step.require(command.namespace, command.workflow_id)
    if saga.has_started(step):
        message = "a compensation has started: what was undone can't be gone on from"
        refuse(Code.FAILED_PRECONDITION, "COMPENSATION_STARTED", message)
    if step.x.status not in WORKFLOW_TERMINAL:
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_RUNNING", "the workflow is still running")
    again = _to_retry(step)
    timed_out = step.x.status is WorkflowStatus.TIMED_OUT and not step.x.failed_task
    # What a TERMINATE has ended, it would end again.
    final = step.x.status is WorkflowStatus.COMPLETED or was_terminated_by_task(step)
    if final or not (again or timed_out):
        refuse(Code.FAILED_PRECONDITION, "NOTHING_TO_RETRY", "there is no task to try again")
    if command.resume_sub_workflows:
        for sequence in again:
            _resume_child(step, step.hot.tasks[sequence])
    reopen(step)
    return Done()


def _resume_child(step: Step, attempt: TaskAttempt) -> None:
    if attempt.own_child:
        step.send(RetryChild(step.x.namespace, attempt.child, step.x.workflow_id, attempt.sequence))
        attempts.wait_again(step, attempt)


_GONE = "WORKFLOW_NOT_FOUND"


def retry_child(step: Step, message: RetryChild) -> AnyResult:
    """The parent is retried, and waits for this execution again: it goes on, or says once more how it has ended."""
    if not step.open(message.namespace, message.workflow_id):
        said = f"there is no execution {message.workflow_id}"
        child = message.workflow_id
        step.send(StartAnswered(message.namespace, message.parent, message.parent_sequence, child, said, _GONE))
        return Done()
    if step.x.status not in WORKFLOW_TERMINAL:
        return Done()
    again = _to_retry(step)
    if not again or saga.has_started(step) or was_terminated_by_task(step):
        children.ended(step)
        return Done()
    for sequence in again:
        _resume_child(step, step.hot.tasks[sequence])
    reopen(step)
    return Done()


def reopen(step: Step) -> None:
    """The execution goes on: what has failed or was cancelled is tried again."""
    again = _to_retry(step)
    kept = [item for item in step.agenda if _is_still_due(step, item)]
    repeated, joins, others = _by_turn(step, again)
    step.agenda.clear()
    # Loops first: what is in one that is not open is left. JOINs last: they count what they wait for.
    for sequence in repeated:
        step.note(AgendaKind.RETRY, sequence)
    step.agenda.extend(kept)
    for sequence in (*others, *joins):
        step.note(AgendaKind.RETRY, sequence)
    check_workflow(step.x.status, WorkflowStatus.RUNNING)
    step.change(
        status=WorkflowStatus.RUNNING,
        ended_ms=0,
        output=b"",
        reason="",
        failed_task="",
        compensation=CompensationState.NONE,
        outcome=None,
        settled=False,
        timeout_base_ms=step.now,
    )
    arm_timeout(step)
    step.meta.live_executions += 1
    tell_parent(step)


def was_terminated_by_task(step: Step) -> bool:
    return any(
        attempt.type == TaskType.TERMINATE and attempt.status is TaskStatus.COMPLETED
        for attempt in step.hot.tasks.values()
    )


def _to_retry(step: Step) -> list[int]:
    newest = [step.hot.tasks[sequences[-1]] for _, sequences in sorted(step.hot.attempts_of.items())]
    failed = [attempt for attempt in newest if attempt.status in _RETRIED]
    return [attempt.sequence for attempt in failed if not loops.is_past(step, attempt)]


def _is_still_due(step: Step, item: AgendaItem) -> bool:
    kind, sequence, _ = item
    if kind in _ALWAYS_DUE:
        return True
    attempt = step.hot.tasks[sequence]
    return kind == AgendaKind.FOLLOW and attempt.status in TASK_TERMINAL and attempt.status in TASK_SUCCESSFUL
