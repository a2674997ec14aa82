"""Events for whoever waits for them: each is given to one task, the one that waits for the longest time, or kept.

An event finds a task by its name and a correlation key, and a task an event that came before it. What is under way to a
task that has ended meanwhile goes to the next one, or is kept, in its old place.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, awaiting, limits
from orchestrator.engine.awaiting import EVENT
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import fields_of, is_null
from orchestrator.engine.messages import GiveEvent, Origin
from orchestrator.engine.model import RowKey, Table, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.payloads import store
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task
from orchestrator.engine.triggers import trail
from orchestrator.engine.triggers.awaited import Subject
from orchestrator.engine.triggers.rows import KeptEvent

_FIELDS = ("event", "correlationKey")
_OTHERWISE = ("duration", "until", "signal")


def is_wanted(given: bytes) -> bool:
    """Whether the input of a WAIT is that of one for an event: it says which, or tries to."""
    fields = fields_of(given)
    return all(name in fields for name in _FIELDS) and not all(is_null(fields[name]) for name in _FIELDS)


def begin(step: Step, attempt: TaskAttempt, given: bytes) -> None:
    """A WAIT for an event begins: it takes the oldest that is kept for it, or waits."""
    fields = fields_of(given)
    try:
        for name in _OTHERWISE:
            if not is_null(fields.get(name, b"null")):
                raise LimitExceeded(f"a WAIT for an event has no {name}: what it may take, its task definition says")
        subject = awaiting.subject_of(step.x.namespace, fields["event"], fields["correlationKey"])
    except LimitExceeded as error:
        attempts.finish(step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason=str(error))
        return
    _forget_old(step)
    kept = step.state.triggers.awaited.event(subject, step.now - limits.EVENT_KEPT_MS)
    number = awaiting.enlist(step, attempt, subject) if kept is None else 0
    check_task(attempt.status, TaskStatus.IN_PROGRESS)
    attempt = step.put_task(
        replace(
            attempt,
            status=TaskStatus.IN_PROGRESS,
            started_ms=step.now,
            updated_ms=step.now,
            signal=EVENT,
            position=number,
        )
    )
    if kept is not None and _end(step, attempt, kept.payload):
        step.write(Table.KEPT_EVENT, _key_of(kept), None)
        trail.event_taken(step, kept.payload)


def give(step: Step, event: KeptEvent, origin: Origin) -> bool:
    """Sends the event to the task that waits for it for the longest time; or keeps it, and answers False.

    Raises LimitExceeded if it can't be kept; nothing has changed then.
    """
    subject: Subject = (event.namespace, event.event, event.key)
    waiter = step.state.triggers.awaited.waiter(subject)
    if waiter is None:
        _keep(step, event)
        return False
    # No other event is for it.
    step.write(Table.AWAITING, awaiting.key_of(waiter), None)
    step.send(
        GiveEvent(
            waiter.namespace,
            waiter.workflow_id,
            waiter.task_sequence,
            waiter.number,
            waiter.event,
            waiter.key,
            event.number,
            event.payload,
            event.since_ms,
            origin,
        )
    )
    return True


def arrive(step: Step, message: GiveEvent) -> bool:
    """The event has come to the execution; False if the task waits for it no more, or has no room for it."""
    if not step.open(message.namespace, message.workflow_id) or step.x.clearing:
        return False
    attempt = step.hot.tasks.get(message.task_sequence)
    if attempt is None or not awaiting.is_awaited(attempt, message.number):
        return False
    if step.is_over or step.phase is WorkflowStatus.COMPENSATING:
        return False
    return _end(step, attempt, message.payload)


def pass_on(step: Step, message: GiveEvent) -> bool:
    """As `give`, of an event whose task has gone."""
    event = KeptEvent(
        message.kept, message.namespace, message.event, message.key, message.payload, message.since_ms
    )
    return give(step, event, message.origin)


def _end(step: Step, attempt: TaskAttempt, payload: bytes) -> bool:
    """The task is done with the event; False if it has failed instead, for there is no room for it."""
    try:
        output = store(step, payload)
    except LimitExceeded as error:
        attempts.fail_at_limit(step, attempt, error)
        return False
    attempts.complete_operator(step, attempt, output)
    return True


def _keep(step: Step, event: KeptEvent) -> None:
    _forget_old(step)
    count, kept_bytes = len(step.state.resident[Table.KEPT_EVENT]), step.state.triggers.awaited.kept_bytes
    if count >= limits.EVENTS_KEPT or kept_bytes + len(event.payload) > limits.EVENTS_KEPT_BYTES:
        raise LimitExceeded(
            f"nobody waits for it, and {count} events of {kept_bytes} bytes are kept already; the limits are"
            f" {limits.EVENTS_KEPT} and {limits.EVENTS_KEPT_BYTES} bytes"
        )
    step.write(Table.KEPT_EVENT, _key_of(event), event)


def _forget_old(step: Step) -> None:
    """Events that were kept for as long as they may go, as many as one step may remove."""
    for _ in range(limits.EVENTS_FORGOTTEN_PER_STEP):
        oldest = step.state.triggers.awaited.oldest_event()
        if oldest is None or oldest.since_ms + limits.EVENT_KEPT_MS > step.now:
            return
        step.write(Table.KEPT_EVENT, _key_of(oldest), None)


def _key_of(row: KeptEvent) -> RowKey:
    return (row.namespace, row.event, row.key, row.number)
