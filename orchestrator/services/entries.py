"""Entries of Redis streams: how an event that goes out becomes one, and what of one that comes in is an event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from orchestrator.engine import limits
from orchestrator.engine.expressions import (
    PayloadInvalid,
    assemble_object,
    check_payload,
    dump_string,
    fields_of,
)
from orchestrator.engine.stream_commands import StreamEntry
from orchestrator.engine.triggers.rows import OwedEvent
from orchestrator.telemetry.traces import LINES, Headers, text_of

Fields = Mapping[bytes, bytes]
"""As they stand in Redis."""

PAYLOAD: Final = "payload"
HEADERS: Final = "headers"
# What an event has besides its payload. Baggage is not meant for strangers, nor that of strangers for workers.
_READ: Final = frozenset((PAYLOAD, "event_id", "source", "correlation_id", *LINES[:2]))

# What is told of an entry that is no event: the beginnings of its first fields.
_TOLD_FIELDS: Final = 16
_TOLD_CHARACTERS: Final = 2_000


class _Invalid(Exception):
    """Why an entry can't be an event."""


def fields_out(owed: OwedEvent, trace: Headers) -> dict[str, bytes]:
    """The fields of the entry by which an event goes out, with its trace; empty ones are left out."""
    values = {
        "event_id": owed.event_id,
        "event": owed.event,
        "time": _time(owed.time_ms),
        "source": owed.source,
        "namespace": owed.namespace,
        "workflow": owed.workflow,
        "workflow_id": owed.workflow_id,
        "correlation_id": owed.correlation_id,
        **dict(trace),
        "reason": owed.reason,
    }
    return {name: value.encode() for name, value in values.items() if value} | {PAYLOAD: owed.payload}


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def entry_in(entry_id: str, fields: Fields) -> StreamEntry:
    """The event that has come as the entry; `invalid` says why it is none."""
    try:
        given = _texts(fields)
        return StreamEntry(
            entry_id,
            _name(given, "event_id") or entry_id,
            _payload(fields, given),
            _name(given, "source"),
            _name(given, "correlation_id"),
            text_of({name: given.get(name, "") for name in LINES[:2]}),
        )
    except _Invalid as error:
        return StreamEntry(entry_id, _known_id(fields) or entry_id, _told(fields), invalid=str(error))


def _texts(fields: Fields) -> dict[str, str]:
    """All but the payload, which is looked at as it is."""
    given = {}
    for name, value in fields.items():
        try:
            given[name.decode()] = "" if name == PAYLOAD.encode() else value.decode()
        except UnicodeDecodeError:
            raise _Invalid(f"the field {_shown(name)!r} is not UTF-8") from None
    return given


def _name(given: Mapping[str, str], field: str) -> str:
    value = given.get(field, "")
    if len(value) > limits.NAME_CHARS:
        raise _Invalid(f"{field} has {len(value)} characters; the limit is {limits.NAME_CHARS}")
    if not value.isprintable():
        raise _Invalid(f"{field} has characters that can't be printed")
    return value


def _payload(fields: Fields, given: Mapping[str, str]) -> bytes:
    """The field of that name, with the fields that mean nothing here under `headers`; without it, all fields."""
    payload = fields.get(PAYLOAD.encode())
    if payload is None:
        return _checked(assemble_object([(name, dump_string(value)) for name, value in given.items()]), "the fields")
    payload = _checked(payload, PAYLOAD)
    others = [(name, dump_string(value)) for name, value in given.items() if name not in _READ]
    if not others:
        return payload
    found = fields_of(payload)
    if HEADERS in found:
        return payload
    found[HEADERS] = assemble_object(others)
    return _checked(assemble_object(found.items()), f"{PAYLOAD} with {HEADERS}")


def _checked(payload: bytes, what: str) -> bytes:
    try:
        check_payload(payload)
    except PayloadInvalid as error:
        raise _Invalid(f"{what}: {error}") from None
    return payload


def _known_id(fields: Fields) -> str:
    try:
        return _name({"event_id": fields.get(b"event_id", b"").decode()}, "event_id")
    except (UnicodeDecodeError, _Invalid):
        return ""


def _told(fields: Fields) -> bytes:
    """What was found, as far as there is room for it, as a JSON object."""
    first = list(fields.items())[:_TOLD_FIELDS]
    return assemble_object([(_shown(name)[: limits.NAME_CHARS], dump_string(_shown(value))) for name, value in first])


def _shown(raw: bytes) -> str:
    return raw[:_TOLD_CHARACTERS].decode(errors="backslashreplace")[:_TOLD_CHARACTERS]
