"""The server of gRPC for Python, but for one thing: it answers itself for methods that nobody serves.

gRPC's own (1.84 and 1.85) decodes the name of such a method where it accepts all calls. A name that is no UTF-8, which
anybody can send who reaches the port, ends that, and with it the server: the node would go on without it. All methods
that are served are registered, so what comes by another name is unknown, whatever it says: here nobody reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # nothing public is told of a call before its name is read

# What is used of it; a version without them reads the name where only that call ends by it.
_NEEDED = (
    (cygrpc, "_send_error_status_from_server"),
    (cygrpc, "SendInitialMetadataOperation"),
    (cygrpc, "ExecuteBatchError"),
    (cygrpc.AioServer, "_make_request_call_future"),
    (cygrpc.AioServer, "_request_call"),
)


def make_server(interceptors: Sequence[grpc.aio.ServerInterceptor],
                options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    """As `grpc.aio.server`."""
    if all(hasattr(owner, name) for owner, name in _NEEDED):
        return _Server(interceptors, options)
    return grpc.aio.server(interceptors=interceptors, options=options)


class _Server(grpc.aio._server.Server):  # type: ignore[misc,name-defined]  # it has no types
    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor], options: Sequence[tuple[str, int]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = _CoreServer(self._loop, None, (), tuple(interceptors), tuple(options), None)


class _CoreServer(cygrpc.AioServer):  # type: ignore[misc]  # it has no types
    def _make_request_call_future(self, method: bytes | None) -> Any:
        """`method` is None for the next call of any that is not registered."""
        if method is not None:
            return super()._make_request_call_future(method)
        return asyncio.get_running_loop().create_task(self._refuse_unknown())

    async def _refuse_unknown(self) -> None:
        """Ends with the server."""
        refusals: set[asyncio.Task[None]] = set()
        while True:
            call = await self._request_call()
            # One that does not read its answer keeps nobody else waiting.
            refusal = asyncio.create_task(_refuse(call))
            refusals.add(refusal)
            refusal.add_done_callback(refusals.discard)


async def _refuse(call: Any) -> None:
    with suppress(cygrpc.ExecuteBatchError):  # the caller has gone
        await cygrpc._send_error_status_from_server(
            call, grpc.StatusCode.UNIMPLEMENTED.value[0], "Method not found!", (),
            cygrpc.SendInitialMetadataOperation((), 0), asyncio.get_running_loop())
