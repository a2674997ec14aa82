"""What a failed call says in its details."""

from __future__ import annotations

from typing import cast

import grpc.aio

from orchestrator_api.v1.errors_pb2 import ErrorInfo, ErrorStatus, RetryInfo

DETAILS_KEY = "grpc-status-details-bin"
TYPE_PREFIX = "type.googleapis.com/google.rpc."


def details_of(error: grpc.aio.AioRpcError) -> bytes:
    (value,) = [value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY]
    return cast(bytes, value)


def info_of(error: grpc.aio.AioRpcError) -> ErrorInfo:
    details = ErrorStatus.FromString(details_of(error)).details
    (detail,) = [each for each in details if each.type_url.endswith("ErrorInfo")]
    assert detail.type_url == TYPE_PREFIX + "ErrorInfo"
    return ErrorInfo.FromString(detail.value)


def retry_after_ms(error: grpc.aio.AioRpcError) -> int | None:
    for detail in ErrorStatus.FromString(details_of(error)).details:
        if detail.type_url == TYPE_PREFIX + "RetryInfo":
            delay = RetryInfo.FromString(detail.value).retry_delay
            return delay.seconds * 1000 + delay.nanos // 1_000_000
    return None
