"""Entries of streams outside: each is an event, and is taken up once."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import limits
from orchestrator.engine.blobs import KEY, has_reserved_key
from orchestrator.engine.errors import refuse
from orchestrator.engine.model import Table
from orchestrator.engine.results import AnyResult, Code, EventPublished, EventsReceived, Rejected
from orchestrator.engine.step import Step
from orchestrator.engine.stream_commands import ReceiveEvents, StreamEntry
from orchestrator.engine.triggers import events, outbox, streams, trail
from orchestrator.engine.triggers.rows import TrailKind
from orchestrator.engine.triggers.trail import Author

STEP_FULL = "STEP_FULL"


def receive_events(step: Step, command: ReceiveEvents) -> AnyResult:
    """As many of the entries as there is room for; the others are for another time."""
    kept = streams.row(step.state, command.namespace, command.event)
    if kept is None or not step.state.triggers.handlers_of(command.namespace, command.event):
        message = f"no active event handler handles {command.event}"
        refuse(Code.FAILED_PRECONDITION, "STREAM_NOT_HANDLED", message, field="event")
    places = _places(command)
    cursor = streams.START if command.restarted else kept.cursor
    reached = streams.position(cursor)
    assert reached is not None
    received = repeated = taken = 0
    work, reason = limits.STREAM_WORK_PER_STEP, ""
    for entry, place in zip(command.entries, places, strict=True):
        if place <= reached:
            repeated += 1
        else:
            if work <= 0:
                reason = STEP_FULL
                break
            came = _take_up(step, command, entry)
            if isinstance(came, Rejected):
                reason = came.reason
                break
            work -= 1 + came.handlers
            received += not came.repeated
            repeated += came.repeated
            cursor, reached = entry.entry_id, place
        taken += 1
    # Dead letters have been counted meanwhile.
    kept = streams.row(step.state, command.namespace, command.event)
    assert kept is not None
    received, repeated = kept.received + received, kept.repeated + repeated
    streams.put(step, replace(kept, cursor=cursor, received=received, repeated=repeated))
    return EventsReceived(taken, reason)


def _places(command: ReceiveEvents) -> list[tuple[int, int]]:
    """Where each entry stands in the stream. Refuses those that are nowhere, or in another order."""
    places: list[tuple[int, int]] = []
    for number, entry in enumerate(command.entries):
        field = f"entries[{number}].entry_id"
        place = streams.position(entry.entry_id)
        if place is None:
            message = f"{field}: it is no id of an entry, two numbers with a dash between them"
            refuse(Code.INVALID_ARGUMENT, "ENTRY_ID_INVALID", message, field=field)
        if places and place < places[-1]:
            message = f"{field}: it stands before the entry that it is given behind"
            refuse(Code.INVALID_ARGUMENT, "ENTRY_ID_INVALID", message, field=field)
        places.append(place)
    return places


def _take_up(step: Step, command: ReceiveEvents, entry: StreamEntry) -> EventPublished | Rejected:
    """Publishes it, or says why it can't be; a Rejected if there is no room for it now."""
    full = _no_room(step, entry)
    if full is not None:
        return full
    event_id = entry.event_id or entry.entry_id
    fault = entry.invalid or _fault(entry)
    author = Author(TrailKind.IN, entry.correlation_id, entry.source)
    if not fault:
        published = events.publish(
            step,
            command.event,
            event_id,
            entry.payload,
            namespace=command.namespace,
            trace=entry.trace,
            author=author,
        )
        if isinstance(published, EventPublished) or published.code is Code.RESOURCE_EXHAUSTED:
            return published
        fault = published.message
    event_id = event_id[: limits.NAME_CHARS]
    trail.event_published(step, command.namespace, command.event, event_id, author._replace(failed=fault))
    streams.dead_letter(
        step,
        namespace=command.namespace,
        event=command.event,
        event_id=f"{event_id}/{command.namespace}/{entry.entry_id}",
        payload=streams.found(entry.payload),
        source=entry.source[: limits.NAME_CHARS],
        reason=fault,
        correlation_id=entry.correlation_id[: limits.NAME_CHARS],
        trace=entry.trace,
    )
    return EventPublished(0, 0)


def _no_room(step: Step, entry: StreamEntry) -> Rejected | None:
    # Nothing is taken up whose failure there would be no room for.
    full = outbox.refusal(step)
    waiting, size = len(step.state.resident[Table.EVENT]), step.state.triggers.event_bytes + len(entry.payload)
    most, bytes_max = limits.EVENTS_FROM_STREAMS, limits.EVENT_BYTES_FROM_STREAMS
    if full is None and (waiting >= most or size > bytes_max):
        message = f"{waiting} events wait to be handled; the limits for entries are {most} and {bytes_max} bytes"
        return Rejected(Code.RESOURCE_EXHAUSTED, "EVENTS_FULL", message, (("limit", "events"),))
    return full


def _fault(entry: StreamEntry) -> str:
    """What keeps the entry from being an event, besides its payload; "" for nothing."""
    for field, text in (("event_id", entry.event_id), ("correlation_id", entry.correlation_id)):
        if len(text) > limits.NAME_CHARS:
            return f"{field}: it has {len(text)} characters, the limit is {limits.NAME_CHARS}"
    if has_reserved_key(entry.payload):
        return f"payload: the key {KEY} is reserved"
    return ""
