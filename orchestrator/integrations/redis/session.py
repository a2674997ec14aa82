"""The connections to one server, from the moment when it was found to be the one until it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from orchestrator.config import Address
from orchestrator.integrations.redis.failures import RedisUnavailable
from orchestrator.integrations.redis.line import Line

# At once, besides those that block; more wait for one of these.
LINES_MAX = 8
# Of those that are being opened at once: each handshake takes its time on the loop.
OPENING_MAX = 4

OpenLine = Callable[[Address, Callable[[RedisUnavailable], None]], Awaitable[Line]]


class Session:
    """`on_lost` is called once, at once, unless the session is closed before."""

    def __init__(self, address: Address, open_line: OpenLine, on_lost: Callable[[RedisUnavailable], None]) -> None:
        self.address = address
        self._on_lost = on_lost
        self._open_line = open_line
        self._slots = asyncio.Semaphore(LINES_MAX)
        self._opening = asyncio.Semaphore(OPENING_MAX)
        self._lines: set[Line] = set()
        self._idle: list[Line] = []
        self._lost = asyncio.Event()
        self._why = "the link was closed"

    async def line(self) -> Line:
        """A new one, for whoever closes it. Raises RedisUnavailable."""
        async with self._opening:
            self._check()
            line = await self._open_line(self.address, self.lose)
        if self._lost.is_set():
            await line.close()
            self._check()
        # Those that their owners have closed.
        self._lines = {each for each in self._lines if each.is_open}
        self._lines.add(line)
        return line

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Line]:
        """For a command or two that do not block. Raises RedisUnavailable."""
        async with self._slots:
            line = await self._idle_line() or await self.line()
            try:
                yield line
            finally:
                # It is closed unless all was answered.
                if line.is_open:
                    self._idle.append(line)

    async def _idle_line(self) -> Line | None:
        self._check()
        while self._idle:
            line = self._idle.pop()
            if await line.is_quiet():
                return line
            # The server closes what is idle for too long.
            await line.close()
        return None

    def _check(self) -> None:
        if self._lost.is_set():
            raise RedisUnavailable(self._why, lost=True)

    def lose(self, why: RedisUnavailable) -> None:
        """Nothing more is asked of this server; what is under way ends when the session is closed."""
        if not self._lost.is_set():
            self._why = str(why)
            self._lost.set()
            self._on_lost(why)

    async def lost(self) -> None:
        """Raises the RedisUnavailable for which the server is lost, once it is."""
        await self._lost.wait()
        self._check()

    async def close(self) -> None:
        """Whoever waits for an answer gets a RedisUnavailable."""
        self._lost.set()
        for line in self._lines:
            await line.close()
        self._lines.clear()
        self._idle.clear()
