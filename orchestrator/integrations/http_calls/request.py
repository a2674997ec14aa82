"""The input of an HTTP task, in Conductor's shape: under `http_request`, or the fields themselves.

Fields that are not known are left alone, as Conductor does: an input may be there for others to read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlencode

import msgspec

from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.expressions import compact, elements_of, fields_of, is_null, text_of, value_of
from orchestrator.engine.services import OURS, TIMEOUT_MS_MAX, Protocol, header_problem

_METHOD = re.compile(r"[A-Z]{1,20}")
_METHODS_REFUSED = ("CONNECT", "TRACE")
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"


class InputInvalid(Exception):
    """The input breaks a rule; the message begins with the field's path."""


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent. None: it is the service's, or the default."""

    method: str
    uri: str  # "": `service` and `path` say where
    service: str
    path: str
    headers: tuple[tuple[str, str], ...]  # as the task wants them; those that it leaves to the defaults are not here
    defaults: tuple[tuple[str, str], ...]  # Accept and Content-Type, if nobody says otherwise
    body: bytes | None
    connect_ms: int | None
    read_ms: int | None
    total_ms: int | None
    terminal: frozenset[int]  # statuses after which no retry follows


def read_request(given: bytes) -> HttpRequest:
    """`given`: the task's input, a JSON object. Raises InputInvalid."""
    try:
        return _read(_fields(compact(given)))
    except DefinitionInvalid as error:
        raise InputInvalid(str(error)) from None


def _fields(given: bytes) -> Fields:
    outer = Fields(given, "", fields_of(given))
    if not outer.has("http_request"):
        return outer
    inner = outer.object("http_request")
    return Fields(inner, "http_request", fields_of(inner))


def _read(fields: Fields) -> HttpRequest:
    service, uri = fields.text("service"), fields.text("uri")
    if service and uri:
        raise fields.invalid("uri", "a task names a service or a uri, not both")
    if not service and not uri:
        raise fields.invalid("uri", "it is missing")
    if fields.has("path") and not service:
        raise fields.invalid("path", "it goes with a service")
    method = fields.text("method").upper()
    if not method:
        raise fields.invalid("method", "it is missing")
    if not _METHOD.fullmatch(method) or method in _METHODS_REFUSED:
        raise fields.invalid("method", "it is none that can be sent")
    content_type = fields.text("contentType", _JSON)
    headers = _headers(fields)
    told = [value for name, value in headers if name.lower() == "content-type"]
    body = _body(fields, told[-1] if told else content_type)
    defaults = [("Accept", _accept(fields))]
    if body is not None:
        defaults.append(("Content-Type", content_type))
    for name, value in defaults:
        if problem := header_problem(name, value, Protocol.HTTP):
            raise fields.invalid("accept" if name == "Accept" else "contentType", problem)
    return HttpRequest(
        method=method,
        uri=uri,
        service=service,
        path=fields.text("path"),
        headers=headers,
        defaults=tuple(defaults),
        body=body,
        connect_ms=_milliseconds(fields, "connectionTimeOut"),
        read_ms=_milliseconds(fields, "readTimeOut"),
        total_ms=_milliseconds(fields, "totalTimeOut"),
        terminal=_terminal(fields),
    )


def _milliseconds(fields: Fields, key: str) -> int | None:
    return fields.integer(key, 0, least=1, most=TIMEOUT_MS_MAX) if fields.has(key) else None


def _accept(fields: Fields) -> str:
    raw = fields.raw("accept")
    if raw is not None and raw[:1] == b"[":
        return ", ".join(fields.texts("accept")) or _JSON
    return fields.text("accept", _JSON)


def _headers(fields: Fields) -> tuple[tuple[str, str], ...]:
    headers = []
    for name, raw in fields.mapping("headers").items():
        # What every call has from the orchestrator is not the task's to set: it wins without a word.
        if name.lower() in OURS:
            continue
        for value in _values(fields, f"headers.{name}", bytes(raw)):
            if problem := header_problem(name, value, Protocol.HTTP):
                raise fields.invalid(f"headers.{name}", problem)
            headers.append((name, value))
    return tuple(headers)


def _values(fields: Fields, key: str, raw: bytes) -> Iterator[str]:
    """A list is a header more than once; null is none."""
    if is_null(raw):
        return
    many = [bytes(one) for one in elements_of(raw)] if raw[:1] == b"[" else [raw]
    for one in many:
        if one[:1] in (b"{", b"["):
            raise fields.invalid(key, "it must be a string, a number, a boolean or a list of these")
        yield text_of(one)


def _body(fields: Fields, content_type: str) -> bytes | None:
    """A string as it is, anything else as its JSON text, and an object as a form if that is what is said."""
    raw = fields.raw("body")
    if raw is None:
        return None
    try:
        if content_type.partition(";")[0].strip().lower() == _FORM and raw[:1] == b"{":
            return _form(fields, raw)
        return text_of(raw).encode("utf-8") if raw[:1] == b'"' else raw
    except (UnicodeEncodeError, msgspec.MsgspecError):
        raise fields.invalid("body", "it has characters that UTF-8 has not") from None


def _form(fields: Fields, raw: bytes) -> bytes:
    pairs = []
    for name, value in fields_of(raw).items():
        pairs += [(name, one) for one in _values(fields, f"body.{name}", bytes(value))]
    return urlencode(pairs).encode("ascii")


def _terminal(fields: Fields) -> frozenset[int]:
    statuses = []
    for position, raw in enumerate(fields.items("terminalStatusCodes")):
        status = value_of(raw)
        if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 599:
            raise fields.invalid(f"terminalStatusCodes[{position}]", "it must be a status, from 100 to 599")
        statuses.append(status)
    return frozenset(statuses)

