"""Compensation: what is owed is settled, ordered, and undone one after the other, until an end or an operator's word.

On the way: `enter` fixes the outcome and tells leased attempts to stop; `proceed` cancels the rest, waits for the
leased ones, puts the owed steps in order, and keeps their compensations going. Everything is derived from rows, so each
step takes up where the one before left off.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from orchestrator.engine import attempts, children, ending, leases, limits, places
from orchestrator.engine.definitions.model import CompensationOrder, TaskType
from orchestrator.engine.model import (
    Check,
    CompensationState,
    Payload,
    SagaRecord,
    StepOutcome,
    Table,
    TaskAttempt,
    TaskStatus,
    TimerKind,
    WorkflowStatus,
)
from orchestrator.engine.places import Place
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_TERMINAL, check_workflow


def is_owed(step: Step) -> bool:
    """Whether anything has, or may have, taken effect that would have to be undone."""
    if step.x.pivot_passed:
        return False
    if step.hot.records or children.open_children(step):
        return True
    return any(
        attempt.outcome_unknown or is_leased(attempt) or attempt.check is Check.OUTPUT
        for attempt in _attempts_of_steps(step)
    )


def _attempts_of_steps(step: Step) -> Iterator[TaskAttempt]:
    """Of steps with a compensation, in the order of their references."""
    for expansion in (0, *step.hot.expansions):
        for reference in places.steps_of(step.plan, step.hot, expansion):
            for sequence in step.hot.named.get(reference, ()):
                attempt = step.hot.tasks[sequence]
                if attempt.expansion == expansion:
                    yield attempt


def is_leased(attempt: TaskAttempt) -> bool:
    """Whether somebody is executing it, with an effect that may have to be awaited."""
    return attempt.status is TaskStatus.IN_PROGRESS and attempt.fencing_token > 0 and attempts.has_effect(attempt)


def enter(step: Step, outcome: WorkflowStatus, reason: str, failed_task: str, output: Payload = b"") -> None:
    """The outcome is fixed; what is in flight is told to stop, and awaited."""
    check_workflow(step.x.status, WorkflowStatus.COMPENSATING)
    ending.disarm(step)
    awaited = [step.hot.tasks[sequence] for sequence in sorted(step.hot.open)]
    awaited = [attempt for attempt in awaited if is_leased(attempt)]
    step.change(
        status=WorkflowStatus.COMPENSATING,
        paused_from=None,
        compensation=CompensationState.RUNNING,
        outcome=outcome,
        reason=reason[: limits.REASON_CHARS],
        failed_task=failed_task,
        output=output,
        settling=len(awaited),
    )
    for attempt in awaited:
        lease = step.state.leases.get((attempt.fencing_token,))
        # Without a lease its worker is lost, and the message that says so is on its way.
        if lease is not None:
            step.write(Table.LEASE, (lease.token,), replace(lease, settling=True))
            step.effects.append(leases.cancel_effect(lease, reason, fenced=False))
    for attempt in children.open_children(step):
        children.cancel(step, attempt, reason)
    grace_ms = step.plan.definition.compensation_grace_ms
    if awaited and grace_ms:
        step.change(grace_timer=step.arm(TimerKind.COMPENSATION_GRACE, grace_ms))


def proceed(step: Step) -> None:
    """Goes on with compensating, as far as one step may. Only while the status is COMPENSATING."""
    if not step.x.settled:
        # Without a grace timer the grace has passed: nobody is awaited any more.
        is_awaiting = step.x.grace_timer != 0
        ending.cancel_open(step, "the workflow is compensating", keep_leased=is_awaiting, keep_children=True)
        if step.x.open_tasks:
            return
        _settle(step)
    _start_due(step)
    while step.undo_agenda and step.budget > 0:
        _follow(step, step.undo_agenda.pop(0))
        # One that can't be made has ended at once, and is followed in turn.
        _start_due(step)
    if not step.x.owed and not step.x.compensating and not step.undo_agenda:
        _conclude(step)


def _settle(step: Step) -> None:
    """Nothing is in flight: what is owed is known, and in which order."""
    step.disarm(step.x.grace_timer)
    owed: tuple[int, ...] = ()
    if not step.x.pivot_passed:
        unknown = unknown_steps(step)
        # Records are numbered as their steps completed.
        completed = sorted(step.hot.records, reverse=True)
        owed = (*(attempts.add_record(step, attempt, StepOutcome.UNKNOWN) for attempt in unknown), *completed)
    step.change(grace_timer=0, settling=0, settled=True, owed=owed)


def unknown_steps(step: Step) -> list[TaskAttempt]:
    """Of steps of which nobody knows whether they took effect, the last attempt that may have; the latest first."""
    found = []
    of_steps: dict[str, list[TaskAttempt]] = {}
    for attempt in _attempts_of_steps(step):
        of_steps.setdefault(attempt.reference, []).append(attempt)
    for made in of_steps.values():
        completed = max((a.sequence for a in made if a.status is TaskStatus.COMPLETED), default=0)
        # Later attempts may have had another input, and are known to have done nothing.
        unknown = [attempt for attempt in made if attempt.outcome_unknown and attempt.sequence > completed]
        found.extend(unknown[-1:])
    return sorted(found, key=lambda attempt: -attempt.sequence)


def _start_due(step: Step) -> None:
    """Starts the compensations whose turn it is: none while one is stuck, since their order is a promise."""
    parallel = step.plan.definition.compensation_order == CompensationOrder.PARALLEL
    while step.x.owed and step.budget > 0 and step.x.compensation is not CompensationState.STUCK:
        if step.x.compensating and not parallel:
            return
        number, *rest = step.x.owed
        step.change(owed=tuple(rest), compensating=(*step.x.compensating, number))
        _attempt(step, step.hot.records[number], None, attempts.Another(0, 0, 0))


def _attempt(step: Step, record: SagaRecord, previous: TaskAttempt | None, how: attempts.Another) -> None:
    place = _place(step, record)
    made = attempts.create(
        step,
        place,
        previous=previous,
        record=record,
        retry_count=how.retry_count,
        losses=how.losses,
    )
    if made is not None:
        delay_ms = how.delay_ms or (place.node.start_delay_ms if previous is None else 0)
        _begin(step, *made, delay_ms)


def _begin(step: Step, attempt: TaskAttempt, given: bytes, delay_ms: int) -> None:
    record = step.hot.records[attempt.compensates]
    if delay_ms > 0:
        attempts.delay(step, attempt, delay_ms)
    elif record.child:
        children.undo(step, attempt, record)
    elif attempt.type != TaskType.SUB_WORKFLOW:
        attempts.queue_for_worker(step, attempt)
    else:
        try:
            attempts.limit_time(step, children.start(step, attempt, given))
        except children.NotStartable as error:
            attempts.finish(step, attempt, TaskStatus.FAILED, reason=str(error))


def _place(step: Step, record: SagaRecord) -> Place:
    return Place(places.undo_of(step.plan, step.hot, record), record.iterations, record.expansion)


def _follow(step: Step, sequence: int) -> None:
    """Draws the consequences of a compensation's attempt that has ended."""
    attempt = step.hot.tasks[sequence]
    number = attempt.compensates
    if attempt.passed or attempt.retried or number not in step.x.compensating:
        return
    if attempt.status not in TASK_TERMINAL:
        if attempt.status is TaskStatus.SCHEDULED:
            # Its delay has passed, or its lease was lost before it was taken up.
            _begin(step, attempt, attempts.input_of(step, attempt), 0)
        return
    if attempt.status is TaskStatus.COMPLETED:
        step.put_task(replace(attempt, passed=True))
        step.change(compensating=_without(step.x.compensating, number), done=(*step.x.done, number))
        return
    node = attempts.node_of(step, attempt)
    how = attempts.another(step, node, attempt)
    if how is not None and not attempts.is_total_used_up(step, node, attempt):
        _attempt(step, step.hot.records[number], attempt, how)
    elif step.x.compensation is not CompensationState.STUCK:
        step.change(compensation=CompensationState.STUCK)
        step.meta.stuck_compensations += 1


def _conclude(step: Step) -> None:
    outcome = step.x.outcome
    assert outcome is not None
    if step.x.left:
        state = CompensationState.INCOMPLETE
    else:
        state = CompensationState.COMPLETE if step.x.done else CompensationState.NONE
    step.change(compensation=state)
    ending.conclude(step, outcome)


# --- what an operator may do about one that is stuck


def stuck_records(step: Step) -> list[int]:
    """The records whose compensation has used up its attempts."""
    return [number for number in step.x.compensating if _is_stuck(step, number)]


def _is_stuck(step: Step, number: int) -> bool:
    attempt = step.hot.latest_undoing(number)
    return attempt is not None and attempt.status in TASK_TERMINAL and attempt.sequence not in step.undo_agenda


def retry_stuck(step: Step) -> None:
    """A fresh set of attempts for what is stuck."""
    stuck = stuck_records(step)
    _unstick(step)
    for number in stuck:
        record = step.hot.records[number]
        last = step.hot.latest_undoing(number)
        made = attempts.create(step, _place(step, record), previous=last, record=record, afresh=True)
        if made is not None:
            # Queued as the compensation proceeds, which is not while it is paused.
            attempts.make_ready(step, made[0])


def skip_stuck(step: Step) -> None:
    """What is stuck is left, and the next one's turn comes."""
    for number in stuck_records(step):
        attempt = step.hot.latest_undoing(number)
        leave(step, number, "skipped by an operator: " + (attempt.reason if attempt is not None else ""))
    _unstick(step)


def abandon(step: Step, reason: str) -> None:
    """Everything that is not undone is left; `proceed` and the end follow."""
    for number in (*step.x.compensating, *step.x.owed):
        leave(step, number, f"abandoned by an operator: {reason}")
    _unstick(step)
    outcome = step.x.outcome
    assert outcome is not None
    step.undo_agenda.clear()
    step.change(compensation=CompensationState.INCOMPLETE)
    ending.begin(step, outcome, step.x.reason, step.x.failed_task, step.x.output)


def leave(step: Step, number: int, reason: str) -> None:
    record: SagaRecord = step.hot.records[number]
    step.write(
        Table.RECORD, (step.x.namespace, step.x.workflow_id, number), replace(record, reason=reason)
    )
    step.change(
        compensating=_without(step.x.compensating, number),
        owed=_without(step.x.owed, number),
        left=(*step.x.left, number),
    )


def _unstick(step: Step) -> None:
    if step.x.compensation is CompensationState.STUCK:
        step.change(compensation=CompensationState.RUNNING)
        step.meta.stuck_compensations -= 1


def _without(numbers: tuple[int, ...], number: int) -> tuple[int, ...]:
    return tuple(other for other in numbers if other != number)


def has_started(step: Step) -> bool:
    """Whether any compensation was ever begun."""
    return bool(step.x.done or step.x.left or step.x.compensating or step.hot.undoing)
