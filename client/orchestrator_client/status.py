"""gRPC statuses read into failures: what a failed call says, without any I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from orchestrator_api.v1.errors_pb2 import ErrorInfo, ErrorStatus, RetryInfo
from orchestrator_client import errors

DETAILS_KEY = "grpc-status-details-bin"
_TYPE_PREFIX = "type.googleapis.com/google.rpc."


class Kind(Enum):
    """What a failed attempt means for the next one."""

    NOT_LEADER = auto()  # refused: another node leads
    OVERLOADED = auto()  # refused: wait
    UNREACHABLE = auto()  # no answer; it may have been executed
    OUTCOME_UNKNOWN = auto()  # the server can't tell whether it took effect
    SESSION_EXPIRED = auto()  # refused: the client session is gone
    TOKEN_REFUSED = auto()  # refused: another token may be good
    FINAL = auto()  # refused for good


@dataclass(frozen=True)
class Failure:
    """One failed attempt of a call."""

    kind: Kind
    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    # What the server asks to wait; None if it does not.
    retry_after_s: float | None = None
    # False if this attempt certainly never left the client.
    sent: bool = True

    @property
    def leader_address(self) -> str:
        return self.metadata.get("leader_address", "")


_BY_CODE: dict[grpc.StatusCode, type[errors.ReplyError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongState,
    grpc.StatusCode.ABORTED: errors.WrongState,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unimplemented,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.UNAVAILABLE: errors.OutcomeUnknown,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.OutcomeUnknown,
}
# These say by their reason alone what happened, whatever code they come with.
_KIND_BY_REASON = {
    "NOT_LEADER": Kind.NOT_LEADER,
    "NO_LEADER": Kind.NOT_LEADER,
    "OUTCOME_UNKNOWN": Kind.OUTCOME_UNKNOWN,
    "SESSION_EXPIRED": Kind.SESSION_EXPIRED,
    "TOKEN_EXPIRED": Kind.TOKEN_REFUSED,
    "TOKEN_INVALID": Kind.TOKEN_REFUSED,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_UNANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


def read_failure(
    code: grpc.StatusCode, message: str, trailing_metadata: Iterable[tuple[str, str | bytes]] | None
) -> Failure:
    """The failure that a status and its trailing metadata describe."""
    info, retry_after_s = _read_details(trailing_metadata or ())
    kind = _KIND_BY_REASON.get(info.reason)
    if kind is None and code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after_s is not None:
        kind = Kind.OVERLOADED
    # A connection that breaks in the middle of a reply may also be told as INTERNAL.
    broken_off = code is grpc.StatusCode.INTERNAL and "RST_STREAM" in message
    if kind is None and (code in _UNANSWERED or broken_off) and not info.reason:
        kind = Kind.UNREACHABLE
    if kind is None and code is grpc.StatusCode.UNAVAILABLE:
        # The server itself says that it can't at present, in words that this SDK does not know.
        kind = Kind.OVERLOADED if retry_after_s is not None else Kind.OUTCOME_UNKNOWN
    return Failure(kind or Kind.FINAL, code, message, info.reason, dict(info.metadata), retry_after_s)


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    """What a call has failed with."""
    metadata = cast("Iterable[tuple[str, str | bytes]] | None", error.trailing_metadata())
    return read_failure(error.code(), error.details() or "", metadata)


def failure_of_status(status: ErrorStatus) -> Failure:
    """What one of several things has failed with that were asked in one message."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return read_failure(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))


def final_error(failure: Failure) -> errors.ReplyError:
    """The exception for a failure that no further attempt follows."""
    if failure.reason == "REQUEST_EXPIRED":
        return errors.RequestExpired(failure.message, reason=failure.reason, metadata=failure.metadata)
    if failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED and failure.retry_after_s is None:
        # A limit that waiting does not change, such as the size of a payload.
        return errors.InvalidRequest(failure.message, reason=failure.reason, metadata=failure.metadata)
    kind = _BY_CODE.get(failure.code, errors.InternalError)
    return kind(failure.message or failure.code.name, reason=failure.reason, metadata=failure.metadata)


def _read_details(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[ErrorInfo, float | None]:
    info = ErrorInfo()
    retry_after_s = None
    for key, value in metadata:
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            for detail in ErrorStatus.FromString(value).details:
                if detail.type_url == _TYPE_PREFIX + "ErrorInfo":
                    info = ErrorInfo.FromString(detail.value)
                elif detail.type_url == _TYPE_PREFIX + "RetryInfo":
                    delay = RetryInfo.FromString(detail.value).retry_delay
                    retry_after_s = delay.seconds + delay.nanos / 1e9
        except DecodeError:
            continue  # not our server's: the code alone has to do
    return info, retry_after_s
