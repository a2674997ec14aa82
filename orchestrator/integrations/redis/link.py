"""A node's link to Redis: it is kept connected for as long as it runs, and nobody waits for Redis who need not.

While it is not connected, whatever is asked fails at once with RedisUnavailable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from orchestrator.config import Address
from orchestrator.file_watch import OffLoop
from orchestrator.integrations.redis.access import Access
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.line import Command, Line, Word
from orchestrator.integrations.redis.sentinels import Sentinels
from orchestrator.integrations.redis.session import Session
from orchestrator.integrations.redis.settings import RedisSettings

# Between two tries, doubled from the first; each is made shorter by chance, for all nodes lose Redis together.
RETRY_MIN_S, RETRY_MAX_S = 0.05, 5.0
# How often an idle link finds out whether it still holds.
LOOK_S = 2.0
# A connection that held for so long was a good one: after it the first try follows at once.
STEADY_S = 10.0

logger = logging.getLogger(__name__)


class RedisLink:
    """`run` must be running. `monotonic`: seconds. `read_file` blocks, raises OSError.

    `connected`: whether there is a server that has let this node in. `last_error`: why it was lost or could not be
    reached, until it is connected again. `failures`: how often that happened. It may run again after it was cancelled.
    """

    def __init__(
        self,
        settings: RedisSettings,
        *,
        monotonic: Callable[[], float],
        random: Random,
        read_file: Callable[[Path], bytes] = Path.read_bytes,
        off_loop: OffLoop = asyncio.to_thread,
    ) -> None:
        self.last_error = ""
        self.failures = 0
        self._settings = settings
        self._monotonic = monotonic
        self._random = random
        self._access = Access(settings.tls, read_file, off_loop)
        self._sentinels = Sentinels(settings.endpoints, settings.sentinel_master, self._sentinel_line) \
            if settings.sentinel_master else None
        self._session: Session | None = None
        self._is_connected = asyncio.Event()
        # What was said last of a failure.
        self._told = ""

    @property
    def connected(self) -> bool:
        return self._is_connected.is_set()

    @property
    def address(self) -> Address | None:
        """Of the server that it is connected to."""
        return self._session.address if self._session is not None and self.connected else None

    async def wait_connected(self) -> None:
        await self._is_connected.wait()

    async def run(self) -> None:
        """Connects, and connects again, until it is cancelled."""
        tries = 0
        try:
            while True:
                since: float | None = None
                try:
                    session, line = await self._connect()
                    since = self._monotonic()
                    await self._hold(session, line)
                except RedisUnavailable as failure:
                    self._failed(failure)
                finally:
                    await self._disconnect()
                was_steady = since is not None and self._monotonic() - since > STEADY_S
                tries = 0 if was_steady else tries + 1
                await asyncio.sleep(self._pause_s(tries))
        finally:
            if self._sentinels is not None:
                await self._sentinels.close()

    async def execute(self, *command: Word) -> Any:
        """What Redis answers. Raises RedisUnavailable and RedisRefused."""
        async with self._connected_session().borrowed() as line:
            return await line.ask(*command)

    async def execute_all(self, commands: Sequence[Command]) -> list[Any]:
        """All sent at once; what is refused is a RedisRefused among the answers. Raises RedisUnavailable."""
        async with self._connected_session().borrowed() as line:
            return await line.ask_all(commands)

    async def transact(self, commands: Sequence[Command]) -> list[Any]:
        """The same as one transaction. Raises RedisRefused, too, where Redis does not even try."""
        async with self._connected_session().borrowed() as line:
            return await line.transact(commands)

    async def line(self) -> Line:
        """A connection for the caller alone, who closes it; for commands that block. Raises RedisUnavailable."""
        return await self._connected_session().line()

    def _connected_session(self) -> Session:
        if self._session is None:
            raise RedisUnavailable(self.last_error or "not connected to Redis yet", lost=True)
        return self._session

    async def _connect(self) -> tuple[Session, Line]:
        """And the connection by which the session is looked after. Raises RedisUnavailable."""
        if self._sentinels is None:
            address = self._settings.endpoints[0]
        else:
            address = await self._sentinels.master()
        session = Session(address, self._redis_line, self._lost)
        line = await session.line()
        try:
            await self._check(line)
        except BaseException:
            await session.close()
            raise
        self._session = session
        self._is_connected.set()
        logger.info("connected to Redis", extra={"address": str(address), "after": self.last_error})
        self.last_error = self._told = ""
        return session, line

    async def _check(self, line: Line) -> None:
        """Whether it is ready for commands, and of several the one to use. Raises RedisUnavailable."""
        try:
            await line.ask("PING")
            role = (await line.ask("ROLE"))[0].decode()
        except RedisRefused as refused:
            # Whoever may not ask finds out by the first write.
            logger.debug("Redis does not say what it is", extra={"error": str(refused)})
            return
        if role == "sentinel":
            raise RedisUnavailable(f"{line.address} is a Sentinel, see redis_sentinel_master", lost=True)
        if role != "master":
            if self._sentinels is not None:
                await self._sentinels.turn_from()
            raise RedisUnavailable(f"{line.address} is no master but a {role}", lost=True)

    async def _hold(self, session: Session, line: Line) -> None:
        """Looks after the connection until it is lost. Raises the RedisUnavailable by which it was."""
        # Side by side: who looks may wait for Sentinels that do not answer.
        ends = [asyncio.create_task(session.lost()), asyncio.create_task(self._look(session, line))]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    end.result()
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _look(self, session: Session, line: Line) -> None:
        """Raises RedisUnavailable when the server should be left."""
        complaint = ""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await line.ask("PING")
            except RedisRefused:
                pass  # an answer
            if self._sentinels is None:
                continue
            try:
                address = await self._sentinels.master()
            except RedisUnavailable as failure:
                # Redis itself is there. Without Sentinels there is no other master, either.
                if complaint != str(failure):
                    complaint = str(failure)
                    logger.warning("nobody looks after Redis: %s", failure)
                continue
            complaint = ""
            if address != session.address:
                # It may not know it yet, and what it takes from now on is lost.
                raise RedisUnavailable(f"{session.address} is the master no more: {address} is", lost=True)

    async def _redis_line(self, address: Address, on_lost: Callable[[RedisUnavailable], None]) -> Line:
        settings = self._settings
        line = await Line.open(address, self._access, settings.redis, database=settings.database,
                               timeout_ms=settings.timeout_ms, on_lost=on_lost)
        if settings.client_name:
            try:
                await line.ask("CLIENT", "SETNAME", settings.client_name)
            except RedisRefused as refused:
                logger.debug("Redis does not list this node by its name", extra={"error": str(refused)})
            except BaseException:
                await line.close()
                raise
        return line

    async def _sentinel_line(self, address: Address) -> Line:
        return await Line.open(address, self._access, self._settings.sentinel, timeout_ms=self._settings.timeout_ms)

    def _lost(self, failure: RedisUnavailable) -> None:
        """What is asked from now on fails; `run` does the rest."""
        self._is_connected.clear()
        self.last_error = str(failure)

    def _failed(self, failure: RedisUnavailable) -> None:
        self.failures += 1
        self.last_error = str(failure)
        if self._told != self.last_error:
            self._told = self.last_error
            logger.warning("no Redis: %s", failure)

    async def _disconnect(self) -> None:
        session, self._session = self._session, None
        self._is_connected.clear()
        if session is not None:
            await session.close()

    def _pause_s(self, tries: int) -> float:
        longest: float = min(RETRY_MAX_S, RETRY_MIN_S * 2 ** min(tries, 20))
        return longest * (0.5 + self._random.random() / 2)
