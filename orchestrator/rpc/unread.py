"""Answers that gRPC holds as their clients have not taken them yet: how many bytes, of each client and of all.

gRPC tells when an answer was taken: a call ends then, and a stream asks for its next message. Until then it is in this
node's memory. Who leaves too much lying is refused further calls before anything is done for them, and what is only
read also when the answer is there; a stream that would hold one message more is ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from orchestrator.rpc.call_counts import Serve, ServeStream
from orchestrator.rpc.caller import CALLER, Caller
from orchestrator.rpc.errors import RpcFailure

RETRY_AFTER_MS = 1_000


@dataclass(frozen=True)
class UnreadLimits:
    """0 is no limit."""

    bytes_max: int = 0
    bytes_per_client_max: int = 0


class Unread:
    """`refuse` ends a call with a failure; it never returns. `on_cut` is told why a stream was ended."""

    def __init__(self, limits: UnreadLimits, on_cut: Callable[[str], None] = lambda reason: None) -> None:
        self._limits = limits
        self._on_cut = on_cut
        self._by_client: Counter[str] = Counter()
        self.count_bytes = 0

    def require_room(self, caller: Caller) -> None:
        """Raises RpcFailure if the client has to take first what it has asked for."""
        if self._by_client and (failure := self._excess(caller, 0)) is not None:
            raise failure

    def unary(self, serve: Serve, serialize: Any, refuse: Any, *, only_reads: bool) -> Serve:
        """Answers the answer's bytes, and counts them until they were taken."""

        async def held(request: Any, context: Any) -> bytes:
            data: bytes = serialize(await serve(request, context))
            caller, size = CALLER.get(), len(data)
            if caller.is_node:
                return data
            if only_reads and (failure := self._excess(caller, size)) is not None:
                await refuse(context, failure)
            client = caller.client
            self._hold(client, size)
            context.add_done_callback(lambda _: self._release(client, size))
            return data

        return held

    def stream(self, serve: ServeStream, serialize: Any, refuse: Any) -> ServeStream:
        """As `unary`, for each message."""

        async def held(request: Any, context: Any) -> AsyncIterator[bytes]:
            async with aclosing(serve(request, context)) as responses:
                async for response in responses:
                    data: bytes = serialize(response)
                    caller, size = CALLER.get(), len(data)
                    if caller.is_node:
                        yield data
                        continue
                    if (failure := self._excess(caller, size)) is not None:
                        self._on_cut(failure.reason)
                        await refuse(context, failure)
                    client = caller.client
                    self._hold(client, size)
                    try:
                        yield data
                    finally:
                        self._release(client, size)

        return held  # type: ignore[return-value]  # a generator is what it makes

    def _hold(self, client: str, size: int) -> None:
        self.count_bytes += size
        self._by_client[client] += size

    def _release(self, client: str, size: int) -> None:
        self.count_bytes -= size
        self._by_client[client] -= size
        if self._by_client[client] <= 0:
            del self._by_client[client]

    def _excess(self, caller: Caller, size: int) -> RpcFailure | None:
        """Why so many bytes more are too many; a client that has taken everything may always have one answer."""
        own = 0 if caller.is_node else self._by_client.get(caller.client, 0)
        if not own:
            return None
        limits = self._limits
        if limits.bytes_per_client_max and own + size >= limits.bytes_per_client_max:
            return _too_much(f"this client has not taken {own} bytes of answers", "client_unread_bytes_max")
        most = limits.bytes_max
        # Who has less than its share goes on, however much others leave lying.
        if most and self.count_bytes + size >= most and (own + size) * len(self._by_client) >= most:
            message = f"clients have not taken {self.count_bytes} bytes of answers, this one {own} of them"
            return _too_much(message, "grpc_unread_bytes_max")
        return None


def _too_much(message: str, limit: str) -> RpcFailure:
    return RpcFailure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "UNREAD_ANSWERS", message, {"limit": limit}, RETRY_AFTER_MS
    )
