"""The walk through a definition: what an attempt that ended leads to, and what is made next.

Everything an execution still has to do to itself stands on its agenda. A step works it off, up to its bound of
transitions; what is left goes on in a later step. A paused execution keeps its agenda until it is resumed.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, ending, outcomes, saga
from orchestrator.engine.definitions.model import TaskNode, TaskType
from orchestrator.engine.messages import ContinueExecution
from orchestrator.engine.model import AgendaItem, AgendaKind, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.operators import join
from orchestrator.engine.operators.registry import OPERATORS
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_SUCCESSFUL, TASK_TERMINAL, check_task


def drain(step: Step) -> None:
    """Goes on as far as the step may; sees to it that a later step goes on from there."""
    if step.x.ending is not None:
        ending.proceed(step)
    elif step.x.status is WorkflowStatus.RUNNING and not step.x.waits:
        _work_off(step)
    # Working off may have ended the execution, or turned it round.
    if step.x.status is WorkflowStatus.COMPENSATING and step.x.ending is None:
        saga.proceed(step)
    if step.budget <= 0 and _has_more(step):
        step.send(ContinueExecution(step.x.namespace, step.x.workflow_id))


def _has_more(step: Step) -> bool:
    if step.x.ending is not None:
        return True
    if step.x.status is WorkflowStatus.RUNNING:
        return bool(step.agenda) and not step.x.waits
    if step.x.status is not WorkflowStatus.COMPENSATING:
        return False
    return bool(step.undo_agenda) or not step.x.settled or bool(step.x.owed)


def _work_off(step: Step) -> None:
    try:
        while step.agenda and step.budget > 0:
            _do(step, step.agenda.popleft())
            if step.is_over or step.x.status is not WorkflowStatus.RUNNING:
                return
    except attempts.TooManyTasks as error:
        outcomes.end_badly(step, WorkflowStatus.FAILED, str(error))
        return
    if not step.agenda and step.x.open_branches == 0 and step.x.open_tasks == 0:
        _complete(step)


def _do(step: Step, item: AgendaItem) -> None:
    kind, sequence, reference = item
    if kind == AgendaKind.SCHEDULE:
        # A reference that was made already is not made again.
        if step.hot.latest(reference) is None:
            schedule(step, step.plan.node(reference))
        return
    attempt = step.hot.tasks[sequence]
    if kind == AgendaKind.READY:
        if attempt.status is TaskStatus.SCHEDULED:
            attempts.queue_for_worker(step, attempt, 0)
    elif kind == AgendaKind.RETRY:
        _retry_by_hand(step, attempt)
    elif not attempt.passed and not attempt.retried and attempt.status in TASK_TERMINAL:
        _follow(step, attempt)


def schedule(step: Step, node: TaskNode, previous: TaskAttempt | None = None) -> None:
    """The first attempt of a reference, or the first one after an operator's retry."""
    made = attempts.create(step, node, previous=previous, afresh=True)
    if made is not None:
        OPERATORS[node.type].begin(step, node, *made)


def _retry_by_hand(step: Step, attempt: TaskAttempt) -> None:
    node = step.plan.node(attempt.reference)
    if node.type == TaskType.JOIN and attempt.status in TASK_TERMINAL:
        join.reopen(step, node, attempt)
    else:
        schedule(step, node, attempt)


def _follow(step: Step, attempt: TaskAttempt) -> None:
    """Draws the consequences of an attempt that has ended: goes on, tries again, or ends the workflow."""
    node = step.plan.node(attempt.reference)
    if attempt.status in TASK_SUCCESSFUL:
        pass_on(step, node, attempt)
        return
    if attempts.ends_workflow(node, attempt):
        outcomes.end_badly(step, WorkflowStatus.TIMED_OUT, attempt.reason, attempt.reference)
        return
    how = attempts.another(step, node, attempt)
    total_used_up = how is not None and attempts.is_total_used_up(step, node, attempt)
    if how is not None and not total_used_up:
        made = attempts.create(
            step, node, previous=attempt, retry_count=how.retry_count, losses=how.losses
        )
        if made is not None:
            attempts.queue_for_worker(step, made[0], how.delay_ms)
    elif node.optional:
        check_task(attempt.status, TaskStatus.COMPLETED_WITH_ERRORS)
        pass_on(step, node, step.put_task(replace(attempt, status=TaskStatus.COMPLETED_WITH_ERRORS)))
    elif node.permissive:
        pass_on(step, node, attempt)
    elif total_used_up:
        _fail_total(step, node, attempt)
    else:
        _fail(step, attempt)


def _fail(step: Step, attempt: TaskAttempt) -> None:
    outcome = {
        TaskStatus.CANCELED: WorkflowStatus.TERMINATED,
        TaskStatus.TIMED_OUT: WorkflowStatus.TIMED_OUT,
    }.get(attempt.status, WorkflowStatus.FAILED)
    outcomes.end_badly(step, outcome, failure_reason(attempt, outcome), attempt.reference)


def failure_reason(attempt: TaskAttempt, outcome: WorkflowStatus) -> str:
    return f"Task {attempt.task_id} failed with status: {outcome.name} and reason: '{attempt.reason}'"


def _fail_total(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    outcome = WorkflowStatus.TIMED_OUT if attempt.status is TaskStatus.TIMED_OUT else WorkflowStatus.FAILED
    reason = (
        f"Task {attempt.task_id} exceeded total timeout of {node.timeouts.total_ms // 1000} seconds"
        f" after {attempt.retry_count + 1} attempts; its last reason: '{attempt.reason}'"
    )
    outcomes.end_badly(step, outcome, reason, attempt.reference)


def pass_on(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    """The reference is done for good: whoever waits for it is told, and the walk goes on after it."""
    while True:
        again = join.has_ended(step, node.reference)
        step.put_task(replace(attempt, passed=True))
        join.reference_passed(step, node.reference)
        if again:
            # Tried again by an operator after the walk had gone on: only its result was wanted.
            return
        if node.next is not None:
            step.note(AgendaKind.SCHEDULE, 0, node.next)
            return
        step.change(open_branches=step.x.open_branches - 1)
        if node.parent is None:
            return
        parent = step.plan.node(node.parent)
        if parent.join is not None:
            _end_branch(step, parent, node.branch)
            return
        made = step.hot.latest(parent.reference)
        assert made is not None
        node, attempt = parent, made


def _end_branch(step: Step, fork: TaskNode, branch: int) -> None:
    """What the branch did not come by will never be made: it counts for the JOIN now."""
    assert fork.join is not None
    for reference in step.plan.joined_in.get((fork.reference, branch), ()):
        if step.hot.latest(reference) is None:
            join.one_less(step, step.plan.node(fork.join))


def _complete(step: Step) -> None:
    for reference in step.plan.permissive:
        attempt = step.hot.latest(reference)
        if attempt is not None and attempt.status not in TASK_SUCCESSFUL:
            _fail(step, attempt)
            return
    outcomes.complete(step)
