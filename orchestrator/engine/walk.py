"""The walk through a definition: what an attempt that ended leads to, and what is made next.

Everything an execution still has to do to itself stands on its agenda. A step works it off, up to its bound of
transitions; what is left goes on in a later step. A paused execution keeps its agenda until it is resumed.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import again, attempts, ending, evaluations, loops, outcomes, places, saga
from orchestrator.engine.definitions.model import TaskNode, TaskType
from orchestrator.engine.execution_state import base_of, instance_of
from orchestrator.engine.messages import ContinueExecution
from orchestrator.engine.model import AgendaItem, AgendaKind, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.operators import exclusive_join, join
from orchestrator.engine.operators.registry import OPERATORS
from orchestrator.engine.places import Place
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_SUCCESSFUL, TASK_TERMINAL, check_task


def drain(step: Step) -> None:
    """Goes on as far as the step may; sees to it that a later step goes on from there."""
    if step.x.ending is not None:
        ending.proceed(step)
    elif step.x.status is WorkflowStatus.RUNNING and not step.x.waits and not step.x.clearing:
        _work_off(step)
    # Working off may have ended the execution, or turned it round.
    if step.x.status is WorkflowStatus.COMPENSATING and step.x.ending is None:
        saga.proceed(step)
    if step.budget <= 0 and _has_more(step):
        _go_on_later(step)


def _go_on_later(step: Step) -> None:
    """A message sees to what is left; one is enough."""
    key = (step.x.namespace, step.x.workflow_id)
    if not step.state.deliveries.is_continued(key):
        step.send(ContinueExecution(*key))


def _has_more(step: Step) -> bool:
    if step.x.ending is not None:
        return True
    if step.x.status is WorkflowStatus.RUNNING:
        return bool(step.agenda) and not step.x.waits and not step.x.clearing
    if step.x.status is not WorkflowStatus.COMPENSATING:
        return False
    return bool(step.undo_agenda) or not step.x.settled or bool(step.x.owed)


def _work_off(step: Step) -> None:
    put_off: list[AgendaItem] = []
    try:
        while step.agenda and step.budget > 0:
            item = step.agenda.pop(0)
            if step.is_beside and item[0] == AgendaKind.EXPAND:
                # As many results come as branches were made: each of them would make more.
                put_off.append(item)
                continue
            _do(step, item)
            if step.is_over or step.x.status is not WorkflowStatus.RUNNING:
                return
    except attempts.TooManyTasks as error:
        outcomes.end_badly(step, WorkflowStatus.FAILED, str(error))
        return
    if put_off:
        step.agenda.extend(put_off)
        _go_on_later(step)
    if not step.agenda and step.x.open_branches == 0 and step.x.open_tasks == 0:
        _complete(step)


def _do(step: Step, item: AgendaItem) -> None:
    kind, sequence, reference = item
    if kind == AgendaKind.SCHEDULE:
        _schedule_at(step, sequence, reference)
        return
    if kind == AgendaKind.WALK_AGAIN:
        again.walk_on(step, sequence, reference)
        return
    attempt = step.hot.tasks.get(sequence)
    if attempt is None:
        # A loop has not kept it.
        return
    if kind == AgendaKind.READY:
        _begin_delayed(step, attempt)
    elif kind == AgendaKind.RETRY:
        _retry_by_hand(step, attempt)
    elif kind == AgendaKind.EXPAND:
        _make_more(step, attempt)
    elif kind == AgendaKind.ABANDON:
        loops.abandon(step, attempt)
    elif kind == AgendaKind.FORGET:
        loops.forget(step, attempt, reference)
    elif _is_due(attempt) and not loops.is_left(step, attempt):
        _follow(step, attempt)


def _is_due(attempt: TaskAttempt) -> bool:
    return not attempt.passed and not attempt.retried and attempt.status in TASK_TERMINAL


def _schedule_at(step: Step, sequence: int, reference: str) -> None:
    """Makes the reference at the place of an attempt. One that was made already is not made again."""
    if sequence:
        anchor = step.hot.tasks.get(sequence)
        if anchor is None or loops.is_left(step, anchor):
            return
        place = places.inside(step.plan, step.hot, anchor, reference)
    else:
        place = Place(step.plan.nodes[reference])
    made = step.hot.latest(place.reference)
    if made is None:
        schedule(step, place)
    elif made.status is TaskStatus.SKIPPED and not made.passed:
        # Left out before it was its turn, which it is now.
        pass_on(step, place.node, made)


def _make_more(step: Step, fork: TaskAttempt) -> None:
    """The next tasks of a dynamic fork, as many as the step may make."""
    if loops.is_left(step, fork):
        return
    references = places.forked_references(step.plan, step.hot, fork.expanded)
    position = fork.position
    while position < len(references) and step.budget > 0:
        node = places.node_at(step.plan, step.hot, references[position], fork.expanded)
        place = Place(node, fork.iterations, fork.expanded)
        if step.hot.latest(place.reference) is None:
            schedule(step, place)
        else:
            step.budget -= 1
        position += 1
    step.put_task(replace(step.hot.tasks[fork.sequence], position=position))
    if position < len(references):
        step.note(AgendaKind.EXPAND, fork.sequence)


def schedule(step: Step, place: Place, previous: TaskAttempt | None = None) -> None:
    """The first attempt at a place, or the first one after an operator's retry."""
    made = attempts.create(step, place, previous=previous, afresh=True)
    if made is not None:
        _begin(step, place.node, *made, place.node.start_delay_ms)


def _begin(step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes, delay_ms: int) -> None:
    if delay_ms > 0:
        attempts.delay(step, attempt, delay_ms)
    else:
        _go(step, node, attempt, given)


def _go(step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
    OPERATORS[node.type].begin(step, node, attempt, given)
    if node.timeouts.task_ms or node.type == TaskType.DYNAMIC:
        attempts.limit_time(step, step.hot.tasks[attempt.sequence])


def _begin_delayed(step: Step, attempt: TaskAttempt) -> None:
    """Its delay has passed, or its lease was lost before it was taken up."""
    if attempt.status is TaskStatus.SCHEDULED:
        node = attempts.node_of(step, attempt)
        _go(step, node, attempt, attempts.input_of(step, attempt))
    elif evaluations.is_waiting(attempt):
        evaluations.ask(step, attempt)


def _retry_by_hand(step: Step, attempt: TaskAttempt) -> None:
    if attempt.retried:
        # Asked for twice: what stays of an earlier run is tried again by itself.
        return
    node = attempts.node_of(step, attempt)
    if node.type == TaskType.JOIN and attempt.status in TASK_TERMINAL:
        join.reopen(step, node, attempt)
        attempts.limit_time(step, step.hot.tasks[attempt.sequence])
    elif node.type == TaskType.DO_WHILE and attempt.status in TASK_TERMINAL:
        loops.reopen(step, node, attempt)
        attempts.limit_time(step, step.hot.tasks[attempt.sequence])
    else:
        schedule(step, places.place_of(step.plan, step.hot, attempt), attempt)


def _follow(step: Step, attempt: TaskAttempt) -> None:
    """Draws the consequences of an attempt that has ended: goes on, tries again, or ends the workflow."""
    node = attempts.node_of(step, attempt)
    if attempt.status in TASK_SUCCESSFUL:
        pass_on(step, node, attempt)
        return
    if attempts.ends_workflow(node, attempt):
        outcomes.end_badly(step, WorkflowStatus.TIMED_OUT, attempt.reason, attempt.reference)
        return
    how = attempts.another(step, node, attempt)
    total_used_up = how is not None and attempts.is_total_used_up(step, node, attempt)
    if how is not None and not total_used_up:
        _try_again(step, attempt, how)
    elif node.optional:
        check_task(attempt.status, TaskStatus.COMPLETED_WITH_ERRORS)
        attempt = replace(loops.left(step, attempt), status=TaskStatus.COMPLETED_WITH_ERRORS)
        pass_on(step, node, step.put_task(attempt))
    elif loops.is_counted_at_end(step, node, attempt):
        pass_on(step, node, loops.left(step, attempt))
    else:
        _fail(step, node, attempt, total_used_up=total_used_up)


def _try_again(step: Step, attempt: TaskAttempt, how: attempts.Another) -> None:
    place = places.place_of(step.plan, step.hot, attempt)
    made = attempts.create(step, place, previous=attempt, retry_count=how.retry_count, losses=how.losses)
    if made is not None:
        _begin(step, place.node, *made, how.delay_ms)


def _fail(step: Step, node: TaskNode, attempt: TaskAttempt, *, total_used_up: bool = False) -> None:
    """Fails the loops around it, and the workflow unless one of them lets the walk go on."""
    loop = loops.fail_around(step, attempt)
    if loop is not None:
        loops.left(step, attempt)
        pass_on(step, attempts.node_of(step, loop), loop)
        return
    # A permissive task fails nothing but its loop: that is what has failed the workflow then.
    attempt = loops.first_that_counts(step, attempt)
    if total_used_up:
        outcome = WorkflowStatus.TIMED_OUT if attempt.status is TaskStatus.TIMED_OUT else WorkflowStatus.FAILED
        outcomes.end_badly(step, outcome, _total_reason(node, attempt), attempt.reference)
    else:
        _end(step, attempt)


def _end(step: Step, attempt: TaskAttempt) -> None:
    outcome = {
        TaskStatus.CANCELED: WorkflowStatus.TERMINATED,
        TaskStatus.TIMED_OUT: WorkflowStatus.TIMED_OUT,
    }.get(attempt.status, WorkflowStatus.FAILED)
    outcomes.end_badly(step, outcome, failure_reason(attempt, outcome), attempt.reference)


def failure_reason(attempt: TaskAttempt, outcome: WorkflowStatus | TaskStatus) -> str:
    return f"Task {attempt.task_id} failed with status: {outcome.name} and reason: '{attempt.reason}'"


def _total_reason(node: TaskNode, attempt: TaskAttempt) -> str:
    return (
        f"Task {attempt.task_id} exceeded total timeout of {node.timeouts.total_ms // 1000} seconds"
        f" after {attempt.retry_count + 1} attempts; its last reason: '{attempt.reason}'"
    )


def pass_on(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    """The reference is done for good: whoever waits for it is told, and the walk goes on after it."""
    while True:
        again = join.has_ended(step, attempt.reference)
        if step.is_own(attempt):
            attempt.passed = True
        else:
            attempt = step.put_task(replace(attempt, passed=True))
        join.reference_passed(step, attempt)
        _tell_exclusive_joins(step, attempt)
        if again:
            # Tried again by an operator after the walk had gone on: only its result was wanted.
            return
        if node.next is not None:
            step.note(AgendaKind.SCHEDULE, attempt.sequence, node.next)
            return
        parent = None
        if node.parent is not None or attempt.expansion:
            parent = places.parent_of(step.plan, step.hot, attempt)
        loops.sequence_ended(step, attempt, parent)
        if parent is None:
            return
        above = attempts.node_of(step, parent)
        if above.type == TaskType.FORK_JOIN:
            _end_branch(step, parent, above, node.branch)
        if above.type != TaskType.SWITCH:
            return
        node, attempt = above, parent


def _tell_exclusive_joins(step: Step, attempt: TaskAttempt) -> None:
    plan = places.plan_at(step.plan, step.hot, attempt.expansion)
    if not plan.exclusively:
        return
    for reference in plan.exclusively.get(base_of(attempt), ()):
        place = places.inside(step.plan, step.hot, attempt, reference)
        waiting = step.hot.latest(place.reference)
        if waiting is not None and waiting.status is TaskStatus.IN_PROGRESS:
            exclusive_join.reference_passed(step, place.node, waiting)


def _end_branch(step: Step, fork: TaskAttempt, node: TaskNode, branch: int) -> None:
    """What the branch did not come by will never be made: it counts for the JOIN that waits for it now."""
    plan = places.plan_at(step.plan, step.hot, fork.expansion)
    for joined in plan.joined_in.get((node.reference, branch), ()):
        if joined.inner and step.hot.latest(instance_of(joined.inner, fork.iterations)) is not None:
            # A branch of that fork may still come by it, and counts for it when it ends.
            continue
        if join.reached(step, instance_of(joined.reference, fork.iterations)) is None:
            join.one_less(step, places.inside(step.plan, step.hot, fork, joined.join), None)


def _complete(step: Step) -> None:
    failed = _permitted(step)
    if failed:
        reason = ". ".join([failure_reason(attempt, attempt.status) for attempt in failed])
        outcomes.end_badly(step, WorkflowStatus.FAILED, reason, failed[0].reference)
    else:
        outcomes.complete(step)


def _permitted(step: Step) -> list[TaskAttempt]:
    """What has failed and let the walk go on: permissive tasks that are not optional, each by its newest attempt."""
    if not step.plan.permissive and not step.hot.expansions:
        return []
    bad = [one for one in step.hot.tasks.values() if one.status not in TASK_SUCCESSFUL and not one.retried]
    # What was cancelled with a loop around it has not failed.
    bad = [one for one in bad if not one.compensates and (one.passed or one.status is not TaskStatus.CANCELED)]
    bad.sort(key=lambda one: one.sequence)
    nodes = [(one, attempts.node_of(step, one)) for one in bad]
    return [one for one, node in nodes if node.permissive and not node.optional]
