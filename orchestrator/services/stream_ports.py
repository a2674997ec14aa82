"""What the services that publish to streams and consume them need of Redis, as small protocols.

All that waits for Redis raises `RedisUnavailable` (to be tried again) or `RedisRefused` (this will not be done as it
is); what reads a stream may raise `OpenAgain`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.streams import Appended, Found, Opened

Failure = RedisUnavailable | RedisRefused


class Reader(Protocol):
    """One stream, read by its consumer group on a connection of its own."""

    async def open(self, cursor: str, *, begun: bool) -> Opened:
        """`cursor`: the id of the last entry that was taken up; not `begun`: none was yet, and it is a time."""

    async def read_new(self, most: int, block_ms: int) -> Sequence[Found]:
        """The next entries in order, none if there is none for so long. If others were given some before these and
        have not acknowledged them, then those."""

    async def read_pending(self, most: int) -> Sequence[Found]:
        """Of the entries that were given to anybody and are not acknowledged, the first ones in their order."""

    async def acknowledge(self, entry_ids: Sequence[str]) -> None: ...

    async def lag(self) -> int | None:
        """How many entries were delivered to nobody yet; None if Redis can't tell."""

    async def close(self) -> None: ...


class Streams(Protocol):
    """Redis, as far as a leader uses it."""

    async def wait_connected(self) -> None:
        """Returns when there is a connection."""

    async def append(self, stream: str, entries: Sequence[Mapping[str, bytes]]) -> Appended: ...

    def reader(self, stream: str, namespace: str) -> Reader:
        """There is one consumer group for each namespace."""
