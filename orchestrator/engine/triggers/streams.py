"""Streams outside whose entries are events: how far each was taken up, and what could not be handled of it.

A stream that a handler handles has a row with a cursor. It says once and for all which entries have been taken up,
however often they are read; an event that comes in several entries is known by its id.
"""

from __future__ import annotations

import re
from typing import Final, cast

from msgspec.structs import replace

from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.blobs import has_reserved_key
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.definitions.sinks import STREAM_PREFIX, is_stream
from orchestrator.engine.expressions import PayloadInvalid, assemble_object, check_payload, dump_string
from orchestrator.engine.model import Table
from orchestrator.engine.state import State
from orchestrator.engine.step import Step
from orchestrator.engine.triggers import outbox
from orchestrator.engine.triggers.rows import EventRow, StreamRow

START: Final = "0-0"
DEAD_LETTERS: Final = ":dead-letters"
"""What follows a stream's name in that of the stream for what could not be handled."""
# A stream's clock is not ours.
_BACK_MS: Final = 1_000
_ID: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_OMITTED: Final = b'{"payloadOmitted":true}'
_SHOWN_BYTES: Final = 8 * 1024


def stream_of(event: str) -> str:
    """The name of the stream whose entries are this event; "" if it is none's."""
    return event[len(STREAM_PREFIX) :] if is_stream(event) else ""


def position(entry_id: str) -> tuple[int, int] | None:
    """Where an entry stands in its stream; None if that is no id of one."""
    found = _ID.fullmatch(entry_id)
    return None if found is None else (int(found[1]), int(found[2]))


def row(state: State, namespace: str, event: str) -> StreamRow | None:
    return cast(StreamRow | None, state.resident[Table.STREAM].get((namespace, event)))


def put(step: Step, kept: StreamRow) -> None:
    step.write(Table.STREAM, (kept.namespace, kept.event), kept)


# --- which are handled


def check_name(step: Step, event: str) -> None:
    """Raises DefinitionInvalid for the event of a handler that would be of a stream without a name."""
    if step.level >= STREAMS and event == STREAM_PREFIX:
        raise DefinitionInvalid("event", f"the name of a stream has to follow: {STREAM_PREFIX}NAME")


def follow(step: Step, namespace: str, event: str) -> None:
    """The handlers of an event have changed: its stream, if it is of one, is read from now on, or no longer.

    It keeps its place while there is a handler that is only not active.
    """
    if step.level < STREAMS or not stream_of(event):
        return
    kept = row(step.state, namespace, event)
    if kept is None:
        if step.state.triggers.handlers_of(namespace, event):
            put(step, StreamRow(namespace, event, f"{max(0, step.now - _BACK_MS)}-0"))
    elif not step.state.triggers.has_handlers(namespace, event):
        step.write(Table.STREAM, (namespace, event), None)


def follow_all(step: Step) -> None:
    """The level was raised: until then an event that is called like a stream was one like any other."""
    for namespace, event in step.state.triggers.handled_streams():
        follow(step, namespace, event)


# --- what can't be handled


def failed(step: Step, event: EventRow, name: str, position: int, reason: str) -> None:
    """An action of a handler has failed, or the handler could not begin. Of an event that is no stream's it is only
    recorded."""
    if step.level < STREAMS or not stream_of(event.event):
        return
    event_id = event.message_id or str(event.number)
    dead_letter(
        step,
        namespace=event.namespace,
        event=event.event,
        event_id=f"{event_id}/{event.namespace}/{name}/{position}",
        payload=event.payload,
        source=f"handler/{name}",
        reason=reason,
        correlation_id=event.correlation_id,
        trace=event.trace,
    )


def dead_letter(
    step: Step,
    *,
    namespace: str,
    event: str,
    event_id: str,
    payload: bytes,
    source: str,
    reason: str,
    correlation_id: str = "",
    trace: str = "",
) -> None:
    """What could not be handled is owed to another stream, with the reason. There is always room for it: no entry is
    taken up while the outbox is full."""
    if outbox.is_full(step, len(payload), times=2):
        # Many actions of many handlers have failed for events that had been taken up before.
        payload = _OMITTED
    outbox.owe(
        step,
        namespace=namespace,
        stream=stream_of(event) + DEAD_LETTERS,
        event_id=event_id,
        event=event,
        payload=payload,
        source=source,
        correlation_id=correlation_id,
        trace=trace,
        reason=reason,
    )
    kept = row(step.state, namespace, event)
    if kept is not None:
        put(step, replace(kept, dead=kept.dead + 1))


def found(payload: bytes) -> bytes:
    """What was found in place of a payload, as one: where it can't be one, the beginning of its text."""
    try:
        check_payload(payload)
    except PayloadInvalid:
        pass
    else:
        if not has_reserved_key(payload):
            return payload
    return assemble_object([("payload", dump_string(payload[:_SHOWN_BYTES].decode("utf-8", "replace")))])
