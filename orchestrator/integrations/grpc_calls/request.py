"""The input of a GRPC task: under `grpc_request`, or the fields themselves. What is not known is left alone."""

from __future__ import annotations

import re

import msgspec

from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.expressions import compact, fields_of, is_null, text_of
from orchestrator.engine.services import GRPC_ENDPOINT, OURS, TIMEOUT_MS_MAX, Protocol, Tls, header_problem, read_tls

_METHOD = re.compile(r"/?([A-Za-z_][\w.]*)/([A-Za-z_]\w*)", re.ASCII)


class InputInvalid(Exception):
    """The input breaks a rule; the message begins with the field's path."""


class GrpcRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be called."""

    registered: str  # the name of a service in the registry; "": `target` says where
    target: str  # host:port
    service: str  # package.Service
    method: str
    body: bytes  # the request message, a JSON object
    metadata: tuple[tuple[str, str], ...]
    deadline_ms: int | None
    tls: Tls | None
    described_by: str  # the registered service whose descriptor set is used; "": that of `registered`, if it has one


def read_request(given: bytes) -> GrpcRequest:
    """`given`: the task's input, a JSON object. Raises InputInvalid."""
    try:
        return _read(_fields(compact(given)))
    except DefinitionInvalid as error:
        raise InputInvalid(str(error)) from None


def _fields(given: bytes) -> Fields:
    outer = Fields(given, "", fields_of(given))
    if not outer.has("grpc_request"):
        return outer
    inner = outer.object("grpc_request")
    return Fields(inner, "grpc_request", fields_of(inner))


def _read(fields: Fields) -> GrpcRequest:
    registered, target = fields.text("service"), fields.text("target")
    if registered and target:
        raise fields.invalid("target", "a task names a service or a target, not both")
    if not registered and not GRPC_ENDPOINT.fullmatch(target):
        raise fields.invalid("target", "it must be host:port" if target else "it is missing")
    method = _METHOD.fullmatch(fields.text("method"))
    if method is None:
        raise fields.invalid("method", "it must be of the form package.Service/Method")
    return GrpcRequest(
        registered=registered,
        target=target,
        service=method[1],
        method=method[2],
        body=fields.object("request"),
        metadata=_metadata(fields),
        deadline_ms=_deadline(fields),
        tls=_tls(fields, registered),
        described_by=fields.text("descriptorSet"),
    )


def _deadline(fields: Fields) -> int | None:
    if fields.has("deadlineMs"):
        if fields.has("timeoutSeconds"):
            raise fields.invalid("timeoutSeconds", "there is a deadlineMs, too")
        return fields.integer("deadlineMs", 0, least=1, most=TIMEOUT_MS_MAX)
    if not fields.has("timeoutSeconds"):
        return None
    milliseconds = fields.seconds("timeoutSeconds", 0)
    if not 0 < milliseconds <= TIMEOUT_MS_MAX:
        raise fields.invalid("timeoutSeconds", f"it must be more than 0 and at most {TIMEOUT_MS_MAX // 1000}")
    return milliseconds


def _tls(fields: Fields, registered: str) -> Tls | None:
    tls, plaintext = read_tls(fields, "tls"), fields.flag("plaintext")
    if registered and (fields.has("tls") or fields.has("plaintext")):
        raise fields.invalid("tls" if fields.has("tls") else "plaintext", "the record of the service says so")
    if tls is not None and plaintext:
        raise fields.invalid("plaintext", "there is tls, too")
    return tls


def _metadata(fields: Fields) -> tuple[tuple[str, str], ...]:
    metadata = []
    for name, raw in fields.mapping("metadata").items():
        # What every call has from the orchestrator is not the task's to set: it wins without a word.
        if name.lower() in OURS or is_null(bytes(raw)):
            continue
        if bytes(raw)[:1] in (b"{", b"["):
            raise fields.invalid(f"metadata.{name}", "it must be a string, a number or a boolean")
        name, value = name.lower(), text_of(raw)
        if problem := header_problem(name, value, Protocol.GRPC):
            raise fields.invalid(f"metadata.{name}", problem)
        metadata.append((name, value))
    return tuple(metadata)
