"""Who caused what by events: under a correlation id, which events were published or came in, and what they led to.

For people: nothing is decided by it. Workflows stand in no entry but where an event touches them; whoever shows a trail
finds them by their correlation id.
"""

from __future__ import annotations

from typing import Final, NamedTuple, cast

from msgspec.structs import replace

from orchestrator.engine import limits
from orchestrator.engine.announcing import Told
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.definitions.sinks import TASK_EVENT, is_stream
from orchestrator.engine.expressions import NULL, fields_of, text_of
from orchestrator.engine.messages import Message, StartExecution
from orchestrator.engine.model import Table
from orchestrator.engine.step import Step
from orchestrator.engine.triggers.event_documents import ActionKind
from orchestrator.engine.triggers.rows import EventRow, TrailEntry, TrailKind

MESSAGE_ID: Final = "conductor.event.messageId"
EVENT_NAME: Final = "conductor.event.name"
"""What tells, in all that is made of an event's payload, which one it was."""

_KEYS: Final = ("correlationId", "correlation_id")


class Author(NamedTuple):
    """Who publishes an event, and what it belongs to."""

    kind: TrailKind
    correlation_id: str
    source: str  # see rows.TrailEntry
    workflow: str = ""
    workflow_id: str = ""
    name: str = ""  # see rows.TrailEntry
    failed: str = ""  # why it can't be an event


NOBODY: Final = Author(TrailKind.IN, "", "")


def workflow_as_author(step: Step, source: str, name: str = "") -> Author:
    """The step's execution, or one of its tasks."""
    x = step.x
    return Author(TrailKind.OUT, x.correlation_id, source, x.name, x.workflow_id, name)


def named_by(author: Author, payload: bytes) -> Author:
    """An event from elsewhere that says of itself no correlation id has the one in its payload, which is a JSON object:
    a text in `correlationId`, or else `correlation_id`."""
    if author.correlation_id or author.kind is TrailKind.OUT or b'"correlation' not in payload:
        return author
    fields = fields_of(payload)
    for key in _KEYS:
        raw = fields.get(key, NULL)
        found = text_of(raw) if raw[:1] == b'"' else ""
        if _is_id(found):
            return author._replace(correlation_id=found)
    return author


def _is_id(text: str) -> bool:
    """Nobody can ask for one with control characters; and they are kept small."""
    return 1 <= len(text) <= limits.NAME_CHARS and min(text) >= " "


def belonging(step: Step, correlation_id: str) -> str:
    """The correlation id, if a trail is kept under it, else ""."""
    return correlation_id if step.level >= STREAMS and _is_id(correlation_id) else ""


def event_told(step: Step, told: Told, event_id: str) -> int:
    """As `event_published`, of what the step's execution tells. What a listener hears of all tasks is left out: it is
    much, and causes little."""
    if told.name == TASK_EVENT and told.event == step.plan.definition.task_event and not told.event_id:
        return 0
    author = workflow_as_author(step, told.source, told.name if is_stream(told.event) else "")
    return event_published(step, step.x.namespace, told.event, event_id, author)


def event_published(step: Step, namespace: str, event: str, event_id: str, author: Author) -> int:
    """The number of the entry that says so; 0 for an event that belongs to nothing."""
    if not belonging(step, author.correlation_id):
        return 0
    return _write(
        step,
        TrailEntry(
            _number(step),
            namespace,
            author.correlation_id,
            step.now,
            author.kind,
            event,
            event_id,
            source=author.source[: limits.NAME_CHARS],
            workflow=author.workflow,
            workflow_id=author.workflow_id,
            name=author.name[: limits.NAME_CHARS],
            failed=bool(author.failed),
            reason=author.failed[: limits.TRAIL_REASON_CHARS],
        ),
    )


def action_done(
    step: Step, row: EventRow, handler: str, action: str, message: Message | None, *, failed: bool, reason: str
) -> None:
    """An action was done, or could not be: under the event's correlation id, and that of the execution it is about."""
    if step.level < STREAMS:
        return
    reached = step.x if message is not None and step.key == (row.namespace, message.workflow_id) else None
    other = "" if reached is None else reached.correlation_id
    if isinstance(message, StartExecution):
        other = message.correlation_id
    for correlation_id in dict.fromkeys((row.correlation_id, other)):
        if not _is_id(correlation_id):
            continue
        _write(
            step,
            TrailEntry(
                _number(step),
                row.namespace,
                correlation_id,
                step.now,
                TrailKind.DONE,
                row.event,
                row.message_id,
                source=handler,
                workflow="" if reached is None else reached.name,
                workflow_id="" if message is None else message.workflow_id,
                follows=row.trail if correlation_id == row.correlation_id else 0,
                action=action,
                failed=failed,
                reason=reason[: limits.TRAIL_REASON_CHARS],
            ),
        )


def event_taken(step: Step, payload: bytes) -> None:
    """A task of the step's execution has found an event that was kept for it."""
    x = step.x
    if not belonging(step, x.correlation_id):
        return
    fields = fields_of(payload)
    event, event_id = (text_of(fields.get(key, b'""')) for key in (EVENT_NAME, MESSAGE_ID))
    entry = TrailEntry(
        _number(step),
        x.namespace,
        x.correlation_id,
        step.now,
        TrailKind.DONE,
        event,
        event_id,
        workflow=x.name,
        workflow_id=x.workflow_id,
        action=ActionKind.CORRELATE,
    )
    _write(step, entry)


class Record(NamedTuple):
    """What the action `record` says of an event; what is empty is as it was."""

    correlation_id: str
    service: str
    event: str


def record(step: Step, row: EventRow, said: Record) -> EventRow | None:
    """The event with its correlation id, which it keeps for what its handler does next; None if there is none to be
    found.

    What the trail has under the same id is completed: an event is told once.
    """
    correlation_id = said.correlation_id or row.correlation_id
    if not _is_id(correlation_id):
        return None
    entry = cast(TrailEntry | None, step.state.resident[Table.TRAIL].get((row.trail,)))
    if entry is not None and entry.correlation_id == correlation_id:
        # A workflow is known to be one.
        source = entry.source if entry.kind is TrailKind.OUT else said.service or entry.source
        step.write(Table.TRAIL, (entry.number,), replace(entry, source=source, name=said.event or entry.name))
        return row
    author = Author(TrailKind.IN, correlation_id, said.service, name=said.event)
    number = event_published(step, row.namespace, row.event, row.message_id, author)
    return row if row.correlation_id else replace(row, correlation_id=correlation_id, trail=number)


def _number(step: Step) -> int:
    meta = step.meta
    number = meta.next_trail
    meta.next_trail = number + 1
    return number


def _write(step: Step, entry: TrailEntry) -> int:
    """Keeps the entry; the oldest goes if there are too many."""
    number = entry.number
    step.write(Table.TRAIL, (number,), entry)
    if (number - limits.TRAIL_KEPT,) in step.state.resident[Table.TRAIL]:
        step.write(Table.TRAIL, (number - limits.TRAIL_KEPT,), None)
    return number
