"""Attempts that wait for an event: the row by which it finds them is there from their beginning until they end, or
until the event is on its way to them.

They wait for a signal of a name that nobody else can use, so whoever asks what moves them finds that something does.
"""

from __future__ import annotations

from orchestrator.engine import limits
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import is_null, text_of
from orchestrator.engine.model import RowKey, Table, TaskAttempt, TaskStatus
from orchestrator.engine.step import Step
from orchestrator.engine.triggers.awaited import Subject
from orchestrator.engine.triggers.rows import AwaitingTask

EVENT = "$event"
"""What stands for the name of a signal: none that is given begins with `inbox.RESERVED`."""


def subject_of(namespace: str, event: bytes, key: bytes) -> Subject:
    """Of the values of `event` and `correlationKey`. Raises LimitExceeded for what can't be one."""
    return (namespace, _name("event", event), _name("correlationKey", key))


def _name(field: str, raw: bytes) -> str:
    if raw[:1] in (b"{", b"["):
        raise LimitExceeded(f"{field} is a list or an object, it must be a text or a number")
    text = "" if is_null(raw) else text_of(raw)
    if not text:
        raise LimitExceeded(f"{field} is empty")
    if len(text) > limits.NAME_CHARS:
        raise LimitExceeded(f"{field} has more than {limits.NAME_CHARS} characters")
    return text


def enlist(step: Step, attempt: TaskAttempt, subject: Subject) -> int:
    """The attempt waits from now on, behind those that do already; answers the number of its row."""
    number = step.ready_number()
    row = AwaitingTask(number, *subject, step.x.workflow_id, attempt.sequence, step.now)
    step.write(Table.AWAITING, key_of(row), row)
    return number


def leave(step: Step, attempt: TaskAttempt) -> None:
    """The attempt ends: no event finds it any more."""
    row = step.state.triggers.awaited.waiter_numbered(attempt.position)
    if row is not None:
        step.write(Table.AWAITING, key_of(row), None)


def is_awaited(attempt: TaskAttempt, number: int) -> bool:
    """Whether the attempt waits for an event since it was given this number."""
    return attempt.signal == EVENT and attempt.position == number and attempt.status is TaskStatus.IN_PROGRESS


def key_of(row: AwaitingTask) -> RowKey:
    return (row.namespace, row.event, row.key, row.number)
