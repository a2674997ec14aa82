"""What is recorded of calls: who, from where, what, of which thing, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import msgspec
from google.rpc import error_details_pb2, status_pb2

from orchestrator.access.audit import AuditLog
from orchestrator.access.methods import Rule
from orchestrator.rpc.backend import DEFAULT_NAMESPACE
from orchestrator.rpc.call_counts import code_of_failed, short_name
from orchestrator.rpc.caller import Caller
from orchestrator.rpc.errors import RpcFailure

TARGETS_MAX = 1_000
_TARGET_CHARACTERS_MAX = 200


class _Named(msgspec.Struct):
    """Of a document, nothing but what it is called."""

    name: str = ""
    version: int = 0


_read_named = msgspec.json.Decoder(_Named).decode


class Audited:
    """Writes the audit log's lines about calls."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def require(self) -> None:
        """Raises AuditUnavailable."""
        self._audit.require()

    def call(self, context: Any, caller: Caller, method: str, rule: Rule, request: Any) -> AuditedCall:
        """One that was let in."""

        def record(outcome: str, reason: str) -> None:
            self._record(caller, method, rule, request, outcome, reason)

        return AuditedCall(context, record)

    def _record(self, caller: Caller, method: str, rule: Rule, request: Any, outcome: str, reason: str) -> None:
        self._audit.record(
            **_who(caller),
            method=short_name(method),
            namespace=(_text(request, rule.namespace) or DEFAULT_NAMESPACE) if rule.namespace else "",
            target=_targets(request, rule),
            operation=_operation(request),
            request_id=_request_id(request),
            outcome=outcome,
            reason=reason,
        )

    def refused(self, caller: Caller, method: str, failure: RpcFailure) -> None:
        """Somebody was not let in, or not let do something."""
        self._audit.record(
            **_who(caller),
            method=short_name(method),
            namespace=failure.metadata.get("namespace", ""),
            target=failure.metadata.get("name", ""),
            outcome=failure.code.name,
            reason=failure.reason,
        )


class AuditedCall:
    """The call's context for whoever serves it. Its outcome is recorded once, before the caller hears of it."""

    def __init__(self, context: Any, record: Callable[[str, str], None]) -> None:
        self._context = context
        self._record = record
        self._is_recorded = False

    def record(self, outcome: str, reason: str) -> None:
        if not self._is_recorded:
            self._is_recorded = True
            self._record(outcome, reason)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        """Raises what gRPC ends a call with."""
        self.record(code.name, _reason(trailing_metadata))
        await self._context.abort(code, details, trailing_metadata)

    def broken_off(self) -> None:
        """Without a status of ours: given up by its caller, or an error of gRPC's own."""
        self.record(code_of_failed(self._context), "")


def _reason(trailing_metadata: Any) -> str:
    for key, value in trailing_metadata or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                return str(info.reason)
    return ""


def _who(caller: Caller) -> dict[str, str]:
    principal = caller.principal
    return {"principal": principal.name, "authenticated_by": str(principal.known_by), "peer": caller.peer}


def _text(request: Any, path: str) -> str:
    for name in path.split("."):
        request = getattr(request, name)
    return str(request)[:_TARGET_CHARACTERS_MAX]


def _targets(request: Any, rule: Rule) -> str | list[str]:
    if not rule.target:
        return ""
    value = getattr(request, rule.target)
    if isinstance(value, str):
        return value[:_TARGET_CHARACTERS_MAX]
    if isinstance(value, bytes):
        return _name(value)
    return [_name(each) if isinstance(each, bytes) else each[:_TARGET_CHARACTERS_MAX] for each in value[:TARGETS_MAX]]


def _name(document: bytes) -> str:
    try:
        named = _read_named(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    name = named.name[:_TARGET_CHARACTERS_MAX]
    return f"{name}:{named.version}" if named.version else name


def _operation(request: Any) -> str:
    found = request.DESCRIPTOR.fields_by_name.get("operation")
    if found is None:
        return ""
    value = found.enum_type.values_by_number.get(request.operation)
    return "" if value is None else str(value.name).removeprefix("WORKFLOW_OPERATION_")


def _request_id(request: Any) -> str:
    fields = request.DESCRIPTOR.fields_by_name
    if "request" in fields:
        identity = request.request
        if identity.HasField("session"):
            return f"{identity.session.id}:{identity.session.sequence}"
        return str(identity.request_id)
    return str(request.request_id) if "request_id" in fields else ""
