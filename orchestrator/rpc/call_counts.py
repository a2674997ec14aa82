"""Counts calls by method and code when they have ended, and how long those took that are no streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol

import grpc

# A call that has no status and did not answer was given up by its caller.
_CODES = {code.value[0]: code.name for code in grpc.StatusCode} | {0: grpc.StatusCode.CANCELLED.name}

Serve = Callable[[Any, Any], Awaitable[Any]]
ServeStream = Callable[[Any, Any], AsyncGenerator[Any]]


class Calls(Protocol):
    def inc(self, method: str, code: str) -> None: ...


class Seconds(Protocol):
    def of(self, method: str) -> Callable[[float], None]:
        """What takes the durations of the method's calls."""


class CallCounts:
    """Wraps what serves a method, once for each method."""

    def __init__(self, calls: Calls, seconds: Seconds, monotonic: Callable[[], float]) -> None:
        self._calls = calls
        self._seconds = seconds
        self._monotonic = monotonic

    def unary(self, method: str, serve: Serve) -> Serve:
        method, count, monotonic = short_name(method), self._calls.inc, self._monotonic
        observe = self._seconds.of(method)

        async def counted(request: Any, context: Any) -> Any:
            began = monotonic()
            try:
                response = await serve(request, context)
            except BaseException:
                count(method, code_of_failed(context))
                raise
            finally:
                observe(monotonic() - began)
            count(method, "OK")
            return response

        return counted

    def stream(self, method: str, serve: ServeStream) -> Any:
        method, count = short_name(method), self._calls.inc

        async def counted(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async with aclosing(serve(request, context)) as responses:
                    async for response in responses:
                        yield response
            except BaseException:
                count(method, code_of_failed(context))
                raise
            count(method, "OK")

        return counted


def short_name(method: str) -> str:
    """`Service/Method`."""
    return method.rpartition(".")[2]


def code_of_failed(context: Any) -> str:
    """Of a call that has raised: by a status of ours, given up by its caller, or an error of gRPC's own."""
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else _CODES.get(code or 0, "UNKNOWN")
