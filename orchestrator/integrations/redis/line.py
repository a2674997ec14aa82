"""One connection to one Redis server: what was asked on it is answered in order, or the connection is over."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from redis.asyncio.connection import Connection, SSLConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from orchestrator.config import Address
from orchestrator.integrations.redis.access import Access
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable, failure_of, text_of
from orchestrator.integrations.redis.settings import Identity

Word = str | bytes | int
Command = Sequence[Word]
T = TypeVar("T")

logger = logging.getLogger(__name__)

# Commands and answers are made of and into bytes in Python: after so many, others get their turn.
_COMMANDS_AT_ONCE = 50
# What is larger is written in pieces, for what a socket does not take at once is copied.
_PIECE_BYTES = 256 * 1024


class Line:
    """For one caller at a time. An answer is what Redis sent: bytes, numbers, lists, None.

    After a failure, and after a caller that was cancelled, it is closed: what comes next on it would answer somebody
    else. `on_lost` hears of the failures after which this server is better left alone.
    """

    def __init__(
        self, connection: Connection, address: Address, timeout_ms: int, on_lost: Callable[[RedisUnavailable], None]
    ) -> None:
        self.address = address
        self._connection = connection
        self._timeout_ms = timeout_ms
        self._on_lost = on_lost

    @classmethod
    async def open(
        cls,
        address: Address,
        access: Access,
        identity: Identity,
        *,
        database: int = 0,
        timeout_ms: int,
        on_lost: Callable[[RedisUnavailable], None] = lambda failure: None,
    ) -> Line:
        """Connected, and let in. Raises RedisUnavailable."""
        password, context = await access.password(identity), await access.context()
        options: dict[str, Any] = {
            "host": address.host, "port": address.port, "db": database, "protocol": 2, "driver_info": None,
            # Its own limits, of which there would be one for each step.
            "socket_timeout": None, "socket_connect_timeout": None,
        }
        if password is not None:
            options |= {"username": identity.username or None, "password": password}
        connection: Connection = Connection(**options)
        if context is not None:
            secure = SSLConnection(**options)
            # It would read the files itself, on the loop.
            secure.ssl_context.context = context
            connection = secure
        line = cls(connection, address, timeout_ms, on_lost)
        await line._exchange(line._connected(identity))
        return line

    async def _connected(self, identity: Identity) -> None:
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                await self._connection.connect()  # type: ignore[no-untyped-call]  # the library's own gap
        except AuthenticationError as error:
            user = identity.username or "default"
            raise RedisUnavailable(f"{self.address} does not let the user {user!r} in, see {identity.setting}: "
                                   f"{text_of(error)}", lost=True) from None

    @property
    def is_open(self) -> bool:
        return bool(self._connection.is_connected)

    async def is_quiet(self) -> bool:
        """Whether it can be used: it is open, and nothing has come that nobody asked for, nor its end."""
        try:
            return self.is_open and not await self._connection.can_read()
        except RedisError:
            return False

    async def close(self) -> None:
        """At once; who waits for an answer gets a RedisUnavailable."""
        writer = self._connection._writer
        if writer is not None:
            # Closed, it would first wait until a server that hangs has taken what was written.
            writer.transport.abort()
        await self._connection.disconnect(nowait=True)

    async def ask(self, *command: Word, wait_ms: int = 0) -> Any:
        """One command, which by itself may take `wait_ms`. Raises RedisUnavailable and RedisRefused."""
        return granted(await self.ask_all([command], wait_ms=wait_ms))[0]

    async def ask_all(self, commands: Sequence[Command], *, wait_ms: int = 0) -> list[Any]:
        """All sent at once; what is refused is a RedisRefused among the answers. Raises RedisUnavailable."""
        return await self._exchange(self._asked(commands, wait_ms))

    async def transact(self, commands: Sequence[Command]) -> list[Any]:
        """The same, all at once or none. Raises RedisRefused, too, where Redis does not even try."""
        *queued, done = await self.ask_all([("MULTI",), *commands, ("EXEC",)])
        return list(granted([*queued, done])[-1])

    async def _asked(self, commands: Sequence[Command], wait_ms: int) -> list[Any]:
        for start in range(0, len(commands), _COMMANDS_AT_ONCE):
            for piece in _pieces(self._connection.pack_commands(commands[start:start + _COMMANDS_AT_ONCE])):
                if not self.is_open:
                    # The library would connect anew, maybe to a server that has lost its data since.
                    raise RedisUnavailable(f"{self.address}: the connection is closed")
                async with asyncio.timeout(self._timeout_ms / 1000):
                    await self._connection.send_packed_command(piece)
                await asyncio.sleep(0)
        found: list[Any] = []
        for number, _ in enumerate(commands, start=1):
            async with asyncio.timeout((self._timeout_ms + wait_ms) / 1000):
                try:
                    found.append(await self._connection.read_response(disable_decoding=True, timeout=math.inf))
                except ResponseError as error:
                    # read_response closes for what may not be an answer at all; this is one.
                    found.append(error)
            if number % _COMMANDS_AT_ONCE == 0:
                await asyncio.sleep(0)
        # All of them are read first: what is left would answer the next caller.
        return [self._said(each) for each in found]

    def _said(self, found: Any) -> Any:
        """An answer, or answers of a transaction; a RedisRefused is one. Raises RedisUnavailable."""
        if isinstance(found, list):
            return [self._said(each) if isinstance(each, RedisError) else each for each in found]
        if not isinstance(found, RedisError):
            return found
        failure = failure_of(found, str(self.address))
        if isinstance(failure, RedisUnavailable):
            raise failure
        return failure

    async def _exchange(self, exchange: Awaitable[T]) -> T:
        try:
            return await exchange
        except RedisUnavailable as unavailable:
            failure = unavailable
        except TimeoutError:
            failure = RedisUnavailable(f"{self.address}: no answer within {self._timeout_ms} ms", lost=True)
        except (RedisError, OSError) as error:
            # A connection that ends, no connection at all, nobody whom it lets in, or not Redis.
            failure = RedisUnavailable(f"{self.address}: {text_of(error)}", lost=True)
        except Exception as error:
            # The library trips over connections that break under it.
            logger.warning("a connection to Redis broke", exc_info=True)
            failure = RedisUnavailable(f"{self.address}: {type(error).__name__}: {error}", lost=True)
        except BaseException:
            await self.close()
            raise
        if failure.lost:
            await self.close()
            self._on_lost(failure)
        raise failure


def _pieces(packed: list[bytes]) -> Iterator[list[bytes]]:
    if sum(map(len, packed)) <= _PIECE_BYTES:
        yield packed
        return
    for part in packed:
        for start in range(0, len(part), _PIECE_BYTES):
            yield [part[start:start + _PIECE_BYTES]]


def granted(answers: list[Any]) -> list[Any]:
    """The same; raises the first RedisRefused among them."""
    for each in answers:
        if isinstance(each, RedisRefused):
            raise each
    return answers
