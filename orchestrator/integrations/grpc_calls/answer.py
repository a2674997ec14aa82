"""What came back, as the outcome of a task, and what each status says of it."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from orchestrator.engine.expressions import PayloadInvalid, assemble_object, check_payload, dump_string
from orchestrator.integrations.grpc_calls.methods import Known
from orchestrator.integrations.work import Ended, Outcome

REASON_CHARACTERS_MAX = 2_000
BODY_BYTES_MAX = 1 << 20

_Code = grpc.StatusCode
# A retry may do better; after any other failure it would not.
RETRIABLE = frozenset(
    (
        _Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED, _Code.RESOURCE_EXHAUSTED, _Code.ABORTED, _Code.INTERNAL,
        _Code.UNKNOWN, _Code.CANCELLED,
    )
)
# The server may have acted all the same.
UNCERTAIN = frozenset(
    (_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED, _Code.INTERNAL, _Code.UNKNOWN, _Code.CANCELLED, _Code.DATA_LOSS)
)
# The service is not well, whatever was asked of it.
UNHEALTHY = frozenset(
    (
        _Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED, _Code.RESOURCE_EXHAUSTED, _Code.INTERNAL, _Code.UNKNOWN,
        _Code.DATA_LOSS,
    )
)


class RequestInvalid(Exception):
    """The JSON is not of the method's request message."""


def message_of(known: Known, message: Message, body: bytes) -> Message:
    """Fills the message. Raises RequestInvalid."""
    try:
        json_format.Parse(body, message, descriptor_pool=known.pool)
    except (json_format.ParseError, ValueError, TypeError) as error:
        raise RequestInvalid(f"request: {error}") from None
    return message


def success(known: Known, reply: Message, data: bytes, initial: Any, trailing: Any) -> Outcome:
    """The reply as JSON; fields without a value have their default there, so that expressions find them."""
    if len(data) > BODY_BYTES_MAX:
        return _unfit("GRPC_RESPONSE_TOO_LARGE", f"the reply has {len(data)} bytes, the limit is {BODY_BYTES_MAX}")
    try:
        reply.ParseFromString(data)
        body = json_format.MessageToJson(
            reply, indent=None, always_print_fields_with_no_presence=True, descriptor_pool=known.pool,
            ensure_ascii=False,
        ).encode()
    except (DecodeError, json_format.Error, TypeError, ValueError) as error:
        return _unfit("GRPC_RESPONSE_INVALID", f"the reply can't be read: {error}")
    output = _output((("body", body), ("metadata", _metadata(initial, trailing)), ("code", b'"OK"')))
    try:
        check_payload(output)
    except PayloadInvalid as error:
        return _unfit("GRPC_RESPONSE_TOO_LARGE", f"the reply can't be the output of a task: {error}")
    return Outcome(ended=Ended.COMPLETED, output=output)


def failure(error: grpc.aio.AioRpcError) -> Outcome:
    """By the status."""
    code, details = error.code(), error.details() or ""
    if code is _Code.RESOURCE_EXHAUSTED and "larger than max" in details:
        # Said by the client's own library of a reply that came: the server has done it.
        return _unfit("GRPC_RESPONSE_TOO_LARGE", details)
    said = (
        ("code", dump_string(code.name)),
        ("details", dump_string(details[:REASON_CHARACTERS_MAX])),
        ("metadata", _metadata(error.initial_metadata(), error.trailing_metadata())),
    )
    output = _output(said)
    try:
        check_payload(output)
    except PayloadInvalid:
        output = _output(said[:2])
    return Outcome(
        ended=Ended.FAILED if code in RETRIABLE else Ended.FAILED_WITH_TERMINAL_ERROR,
        output=output,
        reason=details[:REASON_CHARACTERS_MAX] or code.name,
        error_code=f"GRPC_{code.name}",
        outcome_unknown=code in UNCERTAIN,
    )


def _unfit(error_code: str, reason: str) -> Outcome:
    """The server has done it, and asked again it would answer the same."""
    return Outcome(
        ended=Ended.FAILED_WITH_TERMINAL_ERROR,
        reason=reason[:REASON_CHARACTERS_MAX],
        error_code=error_code,
        outcome_unknown=True,
    )


def _output(fields: Iterable[tuple[str, bytes]]) -> bytes:
    return assemble_object((("response", assemble_object(fields)),))


def _metadata(initial: Any, trailing: Any) -> bytes:
    return msgspec.json.encode({"initial": _pairs(initial), "trailing": _pairs(trailing)})


def _pairs(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, list[str]]:
    """Lists by name; bytes as base64, as in names that end with -bin."""
    pairs: dict[str, list[str]] = {}
    for name, value in metadata or ():
        text = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        pairs.setdefault(name, []).append(text)
    return pairs
