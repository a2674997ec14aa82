"""Errors on the wire: a canonical code, an ErrorInfo with a stable reason, and what the reason needs.

One table for all services. A client may rely on `reason`; the message is for people.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from orchestrator.engine.results import Rejected
from orchestrator.replication.errors import (
    ChangeInProgress,
    EntryTooLarge,
    InvalidMember,
    LevelTooLow,
    LostLeadership,
    MemberExists,
    NoSuccessor,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    RaiseRefused,
    Stopped,
    UnknownMember,
    WouldLoseQuorum,
)
from orchestrator.storage.errors import (
    BackupInProgress,
    BackupRoomMissing,
    DatabaseCorrupt,
    DiskFailed,
    InvalidPageToken,
    SearchTimeout,
    StorageClosed,
)
from orchestrator_api.v1.errors_pb2 import ErrorStatus

DOMAIN = "orchestrator"
RETRY_AFTER_MS = 100
BACKUP_RETRY_MS = 10_000
# Of a message, and of each value of the metadata: statuses travel in headers, which clients accept up to 8 KiB.
TEXT_BYTES_MAX = 1_000
# Limits that no waiting changes.
_FULL_FOR_GOOD = frozenset(
    ("EVENT_HANDLERS_FULL", "EXECUTION_TOO_LARGE", "SCHEDULES_FULL", "SCHEMAS_FULL", "SECRETS_FULL", "SERVICES_FULL")
)

logger = logging.getLogger(__name__)

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class RpcFailure(Exception):
    """An answer that is not the one hoped for."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_ms = retry_after_ms


def invalid(field: str, message: str, limit: str = "") -> RpcFailure:
    """The request breaks a rule of the wire; `field` is the path of the field in the request."""
    metadata = {"field": field} | ({"limit": limit} if limit else {})
    return RpcFailure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", f"{field}: {message}", metadata)


def not_found(what: str, name: str) -> RpcFailure:
    return RpcFailure(grpc.StatusCode.NOT_FOUND, f"{what.upper()}_NOT_FOUND", f"no {what} {name!r}", {what: name})


def unimplemented(field: str, message: str) -> RpcFailure:
    return RpcFailure(grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", f"{field}: {message}", {"field": field})


def rejected(rejection: Rejected) -> RpcFailure:
    """A rejection of the state machine, as a failure."""
    code = _CODES[int(rejection.code)]
    if code is grpc.StatusCode.INTERNAL:
        logger.error("the state machine refused a command unexpectedly: %s", rejection.message)
    waiting_helps = code is grpc.StatusCode.RESOURCE_EXHAUSTED and rejection.reason not in _FULL_FOR_GOOD
    retry = RETRY_AFTER_MS if waiting_helps else None
    return RpcFailure(code, rejection.reason, rejection.message, dict(rejection.metadata), retry)


class Addresses:
    """Where nodes serve clients, for the hint that sends a client to the leader."""

    def __init__(self, leader: Callable[[], str | None], address: Callable[[str], str]) -> None:
        self._leader = leader
        self._address = address

    def of(self, node: str) -> str:
        """Where the node serves clients; "" if this node does not know."""
        return self._address(node)

    def hint(self) -> dict[str, str]:
        """The leader's name and address, as far as this node knows them."""
        leader = self._leader()
        if leader is None:
            return {}
        return {"leader": leader, "leader_address": self._address(leader)}


def failure_of(error: Exception, addresses: Addresses) -> RpcFailure:
    """What an error of the layers below is on the wire."""
    match error:
        case RpcFailure():
            return error
        case NotLeader() | Stopped():
            return RpcFailure(grpc.StatusCode.UNAVAILABLE, "NOT_LEADER", "this node does not lead", addresses.hint())
        case InvalidPageToken():
            return invalid("page.token", str(error))
        case SearchTimeout():
            return RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "SEARCH_TIMEOUT", str(error))
        case BackupInProgress():
            return RpcFailure(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "BACKUP_IN_PROGRESS", str(error), retry_after_ms=BACKUP_RETRY_MS
            )
        case BackupRoomMissing():
            return RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "BACKUP_ROOM_MISSING", str(error))
        case DatabaseCorrupt() | DiskFailed() | StorageClosed():
            # It stops for this, or for something before: whoever asks again finds another one.
            message = f"this node stops: {error}"
            return RpcFailure(grpc.StatusCode.UNAVAILABLE, "NODE_STOPPED", message, addresses.hint())
        case LostLeadership():
            return RpcFailure(grpc.StatusCode.UNAVAILABLE, "LEADERSHIP_LOST", str(error), addresses.hint())
        case OutcomeUnknown():
            return RpcFailure(grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN", str(error), addresses.hint())
        case EntryTooLarge():
            return RpcFailure(grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_TOO_LARGE", str(error))
        case Overloaded():
            retry_after_ms = error.retry_after_ms or RETRY_AFTER_MS
            return RpcFailure(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", str(error), retry_after_ms=retry_after_ms
            )
        case InvalidMember():
            return invalid("name", str(error))
        case UnknownMember():
            return RpcFailure(grpc.StatusCode.NOT_FOUND, "MEMBER_NOT_FOUND", str(error))
        case MemberExists():
            return RpcFailure(grpc.StatusCode.ALREADY_EXISTS, "MEMBER_EXISTS", str(error))
        case ChangeInProgress():
            return RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "MEMBERSHIP_CHANGE_IN_PROGRESS", str(error))
        case NoSuccessor():
            return RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "NO_SUCCESSOR", str(error))
        case RaiseRefused():
            return RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "BEHAVIOUR_LEVEL_UNSUPPORTED", str(error))
        case LevelTooLow():
            return RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "BEHAVIOUR_LEVEL_TOO_LOW", str(error))
        case WouldLoseQuorum():
            return RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "QUORUM_WOULD_BE_LOST", str(error))
        case _:
            logger.error("a request failed unexpectedly", exc_info=error)
            return RpcFailure(grpc.StatusCode.INTERNAL, "INTERNAL", f"{type(error).__name__}: {error}")


def status_of(failure: RpcFailure) -> ErrorStatus:
    """The failure of one of several things in a message, as the status of a call of its own would say it."""
    return ErrorStatus.FromString(_details(failure))


def _details(failure: RpcFailure) -> bytes:
    info = any_pb2.Any()
    metadata = {key: _shortened(value) for key, value in failure.metadata.items()}
    info.Pack(error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN, metadata=metadata))
    details = [info]
    if failure.retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(failure.retry_after_ms)
        retry = any_pb2.Any()
        retry.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        details.append(retry)
    status = status_pb2.Status(code=failure.code.value[0], message=_shortened(failure.message), details=details)
    return bytes(status.SerializeToString())


def _shortened(value: str) -> str:
    encoded = value.encode("utf-8", "replace")
    if len(encoded) <= TEXT_BYTES_MAX:
        return value
    return encoded[:TEXT_BYTES_MAX].decode("utf-8", "ignore") + "..."


async def abort(context: Any, error: Exception, addresses: Addresses) -> NoReturn:
    """Ends the call with the error's status and details."""
    failure = failure_of(error, addresses)
    await context.abort(failure.code, _shortened(failure.message), (("grpc-status-details-bin", _details(failure)),))
    raise AssertionError("abort returns never")


P = ParamSpec("P")
T = TypeVar("T")


def answers(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """For unary methods `(self, request, context)` of servicers with `addresses`: errors become statuses."""

    @wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - it becomes the status of the call
            servicer: Any = args[0]
            await abort(args[2], error, servicer.backend.addresses)

    return wrapper
