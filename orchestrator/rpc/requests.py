"""From messages to values, with every limit of the wire: what is wrong is named by field and limit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from orchestrator.engine import limits, system
from orchestrator.engine.blobs import KEY, has_reserved_key
from orchestrator.engine.commands import RequestIdentity
from orchestrator.engine.expressions import (
    PAYLOAD_BYTES_MAX,
    JsonInvalid,
    PayloadInvalid,
    check_json,
    check_payload,
)
from orchestrator.rpc.backend import DEFAULT_NAMESPACE
from orchestrator.rpc.errors import invalid, unimplemented
from orchestrator.rpc.large_payloads import INLINE, Sizes, too_large
from orchestrator_api.v1 import common_pb2, workers_pb2

T = TypeVar("T")

NAME_CHARACTERS_MAX = 200
REASON_CHARACTERS_MAX = 2_000
TASK_NAMES_MAX = 1_000
PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1_000
WAIT_MS_DEFAULT = 10_000
WAIT_MS_MAX = 300_000
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")
ULID_ALPHABET = frozenset("0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def namespace_of(value: str) -> str:
    """The namespace of a user: those of the cluster itself are refused.

    They are reached by the hello of a node's own session only, for which rules of access want the role of a node.
    """
    if value.startswith(system.RESERVED_NAMESPACES):
        raise invalid("namespace", f"must not begin with {system.RESERVED_NAMESPACES!r}")
    return text("namespace", value) or DEFAULT_NAMESPACE


def text(field: str, value: str, limit: int = NAME_CHARACTERS_MAX) -> str:
    """The value, if it is not too long and has no control characters."""
    if len(value) > limit:
        raise invalid(field, f"has {len(value)} characters; the limit is {limit}", str(limit))
    # Most is printable, which is known much sooner than that there is nothing of the pattern in it.
    if not value.isprintable() and _CONTROL.search(value):
        raise invalid(field, "has control characters")
    return value


def required(field: str, value: str, limit: int = NAME_CHARACTERS_MAX) -> str:
    if not value:
        raise invalid(field, "is missing")
    return text(field, value, limit)


def in_range(field: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise invalid(field, f"is {value}; it must be from {low} to {high}", str(high))
    return value


def identity_of(request: common_pb2.RequestIdentity) -> RequestIdentity | None:
    """The request's identity; None if it has none."""
    if request.HasField("session"):
        session = request.session
        if not session.id or session.sequence == 0:
            raise invalid("request.session", "needs an id and a sequence from 1")
        return RequestIdentity(
            session_id=text("request.session.id", session.id),
            sequence=session.sequence,
            lowest_unacknowledged=session.lowest_unacknowledged,
        )
    if not request.request_id:
        return None
    if len(request.request_id) != 26 or not set(request.request_id) <= ULID_ALPHABET or request.request_id[0] > "7":
        raise invalid("request.request_id", "is not a ULID: 26 characters of Crockford's base 32, upper case")
    return RequestIdentity(request_id=request.request_id)


def json_object(field: str, payload: common_pb2.Payload, sizes: Sizes = INLINE) -> bytes:
    """The payload's JSON text; b"{}" if it is absent. One that is too large for the log is looked at when it is cut."""
    _refuse_reference(field, payload)
    given = payload.inline
    if not given:
        return b"{}"
    if len(given) > sizes.bytes_max:
        raise too_large(field, len(given), sizes)
    if len(given) > PAYLOAD_BYTES_MAX:
        return given
    try:
        check_payload(given)
    except PayloadInvalid as error:
        raise invalid(field, str(error), error.limit) from error
    refuse_reserved(field, given)
    return given


def _refuse_reference(field: str, payload: common_pb2.Payload) -> None:
    if payload.WhichOneof("content") == "blob":
        raise unimplemented(field, "a payload is given inline, however large: where it is kept is the cluster's affair")


def refuse_reserved(field: str, text: bytes) -> None:
    """Of a JSON text: what stands for a value that is kept outside the log is made by nodes only."""
    if has_reserved_key(text):
        raise invalid(field, f"the key {KEY!r} is reserved")


def json_value(field: str, payload: common_pb2.Payload, bytes_max: int) -> bytes:
    """The payload's JSON text, whatever it is of; b"null" if it is empty."""
    _refuse_reference(field, payload)
    if len(payload.inline) > bytes_max:
        raise invalid(field, f"has {len(payload.inline)} bytes; the limit is {bytes_max}", str(bytes_max))
    text_ = payload.inline or b"null"
    try:
        check_json(text_)
    except JsonInvalid as error:
        raise invalid(field, str(error)) from error
    refuse_reserved(field, text_)
    return text_


def task_names(field: str, values: Sequence[str]) -> tuple[str, ...]:
    """Each once, in the order given; none is that of a queue of system work."""
    for position, name in enumerate(values):
        if system.is_queue(name):
            raise invalid(f"{field}[{position}]", "is the name of a queue of the cluster's own")
    return names(field, values)


def names(field: str, values: Sequence[str]) -> tuple[str, ...]:
    """Each once, in the order given."""
    in_range(field, len(values), 1, TASK_NAMES_MAX)
    return tuple(dict.fromkeys(required(f"{field}[{position}]", name) for position, name in enumerate(values)))


def chosen(field: str, values: Mapping[Any, T], number: Any) -> T:
    """What a number of an enum means."""
    if number not in values:
        raise invalid(field, f"{number} is not one of its values")
    return values[number]


def log_lines(lines: Sequence[workers_pb2.LogLine]) -> tuple[tuple[int, str], ...]:
    """As many of the newest as an execution keeps at most."""
    kept: list[tuple[int, str]] = []
    size = 0
    for line in reversed(lines[-limits.LOG_LINES :]):
        cut = line.text[: limits.LOG_LINE_CHARS]
        size += len(cut.encode())
        if size > limits.LOG_BYTES:
            break
        kept.append((line.time_ms, cut))
    return tuple(reversed(kept))


def wait_seconds(field: str, wait_ms: int) -> float:
    return in_range(field, wait_ms or WAIT_MS_DEFAULT, 1, WAIT_MS_MAX) / 1000


def page_size(page: common_pb2.PageRequest) -> int:
    return in_range("page.size", page.size or PAGE_SIZE_DEFAULT, 1, PAGE_SIZE_MAX)
