"""What holds for calls and streams whoever makes them: how many are open, and for how long one may not be read."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from orchestrator.rpc.errors import RpcFailure

NOT_READ = "NOT_READ"
RETRY_AFTER_MS = 1_000
# Of the time that a client has to take what it is sent.
_LOOKS = 4
NEVER = float("inf")
CALLS_PER_TURN = 32


@dataclass(frozen=True)
class CallLimits:
    """0 is no limit."""

    calls_max: int = 0
    calls_per_client_max: int = 0
    read_timeout_seconds: float = 0.0


class OpenCalls:
    """Those that are open, streams among them; `on_cut` is told why a stream was ended."""

    def __init__(self, limits: CallLimits, on_cut: Callable[[str], None] = lambda reason: None) -> None:
        self._limits = limits
        self._on_cut = on_cut
        self._count = 0
        self._by_client: Counter[str] = Counter()
        self._sending: set[_Sending] = set()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        return self._count

    def begin(self, client: str, *, is_node: bool) -> None:
        """Raises RpcFailure if there are too many; else `end` has to follow."""
        limits = self._limits
        if not is_node:
            if limits.calls_max and self._count >= limits.calls_max:
                raise _too_many(f"this node has {self._count} calls open", "grpc_calls_max")
            if limits.calls_per_client_max and self._by_client[client] >= limits.calls_per_client_max:
                raise _too_many(f"this client has {limits.calls_per_client_max} calls open", "client_calls_max")
        self._count += 1
        self._by_client[client] += 1

    def end(self, client: str) -> None:
        self._count -= 1
        self._by_client[client] -= 1
        if self._by_client[client] <= 0:
            del self._by_client[client]

    # -- streams that are not read -----------------------------------------------------------------------------------

    @contextmanager
    def sending(self) -> Iterator[_Sending]:
        """For the task of a stream: it is cancelled when the client does not take what it is sent."""
        task = asyncio.current_task()
        assert task is not None
        sending = _Sending(task, asyncio.get_running_loop())
        self._sending.add(sending)
        self._arm()
        try:
            yield sending
        finally:
            self._sending.discard(sending)

    def _arm(self) -> None:
        if self._timer is None and self._sending and self._limits.read_timeout_seconds:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._limits.read_timeout_seconds / _LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        since = asyncio.get_running_loop().time() - self._limits.read_timeout_seconds
        for sending in [each for each in self._sending if each.since < since]:
            self._sending.discard(sending)
            self._on_cut(NOT_READ)
            sending.task.cancel()
        self._arm()


class Pace:
    """So many calls begin in one turn of the loop, others in the next ones: heartbeats are not behind all of them."""

    def __init__(self, per_turn: int = CALLS_PER_TURN) -> None:
        self._per_turn = self._left = per_turn
        self._is_armed = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def begin_now(self) -> bool:
        """Whether one may begin in this turn; else `wait` has to."""
        if not self._is_armed:
            self._is_armed = True
            asyncio.get_running_loop().call_soon(self._next)
        if self._left <= 0 or self._waiting:
            return False
        self._left -= 1
        return True

    async def wait(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def _next(self) -> None:
        self._left = self._per_turn
        self._is_armed = bool(self._waiting)
        if not self._is_armed:
            return
        while self._waiting and self._left:
            waiting = self._waiting.popleft()
            if not waiting.done():  # who asked may have gone
                waiting.set_result(None)
                self._left -= 1
        asyncio.get_running_loop().call_soon(self._next)


class _Sending:
    """A stream; `since` is when it began to write what is not taken yet."""

    __slots__ = ("since", "task", "time")

    def __init__(self, task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.task = task
        self.time = loop.time
        self.since = NEVER


def _too_many(message: str, limit: str) -> RpcFailure:
    return RpcFailure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", message, {"limit": limit}, RETRY_AFTER_MS
    )
