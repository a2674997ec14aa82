"""Streams of Redis: entries written in order, and read in order by one reader at a time of a consumer group.

How far a reader has come is known outside of Redis, as the id of an entry, the cursor. The group says the same to
whoever looks at Redis, and hands out again what was read and never acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.line import Line
from orchestrator.integrations.redis.link import RedisLink

START = "0-0"
# Pending entries that are taken over, and entries that are acknowledged, by one command.
_AT_ONCE = 500

logger = logging.getLogger(__name__)


class Appended(NamedTuple):
    """The first `written` entries are in the stream; `failure`: why the next one is not."""

    written: int
    failure: RedisUnavailable | RedisRefused | None = None


class Found(NamedTuple):
    entry_id: str
    fields: Mapping[bytes, bytes]


class Opened(Enum):
    FOUND = "found"
    MADE = "made"  # there was no group
    DATA_LOST = "data lost"  # the stream has not got as far as the cursor: Redis is older than it was, or another


class Standing(NamedTuple):
    """`lag`: entries that nobody was given yet; None if Redis can't tell. `pending`: given, and not acknowledged."""

    length: int
    lag: int | None
    pending: int


class OpenAgain(Exception):
    """The reader has no group to read: it was never opened, or somebody has deleted the stream or the group."""


async def append(link: RedisLink, stream: str, entries: Sequence[Mapping[str, bytes]], length_max: int) -> Appended:
    """All in one transaction, in order; each has at least one field. `length_max`: of the stream, about; 0: no limit.

    After a RedisUnavailable nobody may know whether they were written: all were, or none.
    """
    limit = ("MAXLEN", "~", length_max) if length_max else ()
    try:
        answers = await link.transact([("XADD", stream, *limit, "*", *_words(entry)) for entry in entries])
    except (RedisUnavailable, RedisRefused) as failure:
        return Appended(0, failure)
    for position, found in enumerate(answers):
        if isinstance(found, RedisRefused):
            return Appended(position, found)
    return Appended(len(answers))


class StreamReader:
    """The one reader of a group, as its `consumer`. For one caller at a time, but for `standing` and `lag`.

    On a connection of its own, so that whatever was found when it was opened holds for as long as it reads: the next
    server may have lost its data. So after a RedisUnavailable, and after OpenAgain, it has to be opened again.

    An older reader may not know yet that it is not the one any more, and be given entries. They are taken from it
    before anything behind them is returned. So whoever reads on acknowledges first what was returned before, or gets it
    again. All methods raise RedisUnavailable and RedisRefused.
    """

    def __init__(self, link: RedisLink, stream: str, group: str, consumer: str) -> None:
        self._link = link
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._line: Line | None = None
        # Entries that were given to a reader and are in the stream no more.
        self.vanished = 0

    async def open(self, cursor: str, *, begun: bool) -> Opened:
        """`cursor`: what is behind it was taken up. `begun`: by then an entry was, so that the stream had got there.

        After DATA_LOST all that is in the stream is read, as far as the group has not had it.
        """
        await self.close()
        self._line = await self._link.line()
        stream, groups = await self._ask_all(("XINFO", "STREAM", self._stream), ("XINFO", "GROUPS", self._stream))
        about = {} if _is_no_such_key(stream) else _pairs(stream)
        is_lost = begun and await self._is_behind(about, cursor)
        found = [group for group in map(_pairs, groups) if group[b"name"] == self._group.encode()] if about else []
        if not found:
            await self._ask("XGROUP", "CREATE", self._stream, self._group, START if is_lost else cursor, "MKSTREAM")
        elif not is_lost:
            await self._align(cursor, found[0][b"last-delivered-id"].decode())
        if is_lost:
            return Opened.DATA_LOST
        return Opened.FOUND if found else Opened.MADE

    async def close(self) -> None:
        if self._line is not None:
            await self._line.close()
            self._line = None

    async def read_new(self, most: int, block_ms: int) -> list[Found]:
        """What nobody was given yet, in order; waits for the first at most so long, 0: not at all. Raises OpenAgain."""
        block = ("BLOCK", block_ms) if block_ms else ()
        entries, pending = await self._ask_all(
            ("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", most, *block, "STREAMS", self._stream, ">"),
            ("XPENDING", self._stream, self._group),
            wait_ms=block_ms,
        )
        if pending[0] != sum(len(given) for _, given in entries or ()):
            # Others were given some before these, and what is behind those must not be taken up first.
            return await self.read_pending(most)
        return await self._readable(entries)

    async def read_pending(self, most: int) -> list[Found]:
        """The first of what was given to this or another reader and is not acknowledged, in order. Raises OpenAgain."""
        while True:
            held = await self._ask("XPENDING", self._stream, self._group)
            if any(consumer != self._consumer.encode() for consumer, _ in held[3] or ()):
                await self._take_over()
            given = await self._ask("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", most,
                                    "STREAMS", self._stream, START)
            entries = await self._readable(given)
            if entries or not given or not given[0][1]:
                return entries

    async def acknowledge(self, entry_ids: Sequence[str]) -> None:
        for start in range(0, len(entry_ids), _AT_ONCE):
            await self._ask("XACK", self._stream, self._group, *entry_ids[start:start + _AT_ONCE])

    async def standing(self) -> Standing:
        """Asked over the link, so that it may be asked while the reader waits. Without a group all is 0."""
        length, groups = await self._link.execute_all([("XLEN", self._stream), ("XINFO", "GROUPS", self._stream)])
        if isinstance(length, RedisRefused):
            raise length
        for group in () if isinstance(groups, RedisRefused) else map(_pairs, groups):
            if group[b"name"] == self._group.encode():
                # Before Redis 7 it was not counted.
                return Standing(length, group.get(b"lag"), group[b"pending"])
        return Standing(length, 0, 0)

    async def lag(self) -> int | None:
        """The one of `standing`."""
        return (await self.standing()).lag

    async def _is_behind(self, about: Mapping[bytes, Any], cursor: str) -> bool:
        """Whether the entry at the cursor was never in this stream, though one was: an older copy goes on as it."""
        if not about:
            return True
        if _position(about[b"last-generated-id"].decode()) < _position(cursor):
            return True
        # It has overtaken the cursor meanwhile. Before Redis 7 it did not say what was deleted.
        first, deleted = about[b"first-entry"], about.get(b"max-deleted-entry-id")
        if cursor == START or not first or deleted is None:
            return False
        if _position(first[0].decode()) > _position(cursor) or _position(deleted.decode()) >= _position(cursor):
            return False
        return not await self._ask("XRANGE", self._stream, cursor, cursor)

    async def _align(self, cursor: str, delivered: str) -> None:
        """Moves the group to the cursor, where they differ by more than what is pending.

        It is behind if handlers were away for a while: what is before the cursor concerns nobody. It is ahead if the
        cluster was restored from a backup: what was acknowledged since then has to be read again. At the start the
        cursor is after DATA_LOST, and says nothing; what the group has had, if it came back, was taken up.
        """
        if cursor == START:
            return
        if _position(delivered) > _position(cursor):
            first = await self._ask("XRANGE", self._stream, f"({cursor}", delivered, "COUNT", 1)
            if not first:
                return
            entry_id = first[0][0]
            if await self._ask("XPENDING", self._stream, self._group, entry_id, entry_id, 1):
                return
        elif delivered == cursor:
            return
        await self._ask("XGROUP", "SETID", self._stream, self._group, cursor)

    async def _take_over(self) -> None:
        """All that is pending becomes this reader's."""
        start = START.encode()
        while True:
            start, *_ = await self._ask("XAUTOCLAIM", self._stream, self._group, self._consumer, 0, start,
                                        "COUNT", _AT_ONCE, "JUSTID")
            if start == START.encode():
                return

    async def _readable(self, answer: Any) -> list[Found]:
        """Entries that were deleted, or trimmed, since they were given are acknowledged."""
        given = answer[0][1] if answer else []
        gone = [entry_id.decode() for entry_id, fields in given if fields is None]
        if gone:
            self.vanished += len(gone)
            logger.warning("entries have vanished from a stream before they were handled", extra={
                "stream": self._stream, "group": self._group, "entries": len(gone), "first": gone[0]})
            await self.acknowledge(gone)
        return [Found(entry_id.decode(), _pairs(fields)) for entry_id, fields in given if fields is not None]

    async def _ask(self, *command: str | bytes | int) -> Any:
        return (await self._ask_all(command))[0]

    async def _ask_all(self, *commands: Sequence[str | bytes | int], wait_ms: int = 0) -> list[Any]:
        if self._line is None:
            raise OpenAgain(f"the reader of {self._stream} is not open")
        answers = await self._line.ask_all(commands, wait_ms=wait_ms)
        for found in answers:
            if isinstance(found, RedisRefused) and found.reason.startswith("NOGROUP"):
                raise OpenAgain(found.reason)
            if isinstance(found, RedisRefused) and not _is_no_such_key(found):
                raise found
        return answers


def _words(entry: Mapping[str, bytes]) -> Iterator[str | bytes]:
    for name, value in entry.items():
        yield name
        yield value


def _pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _is_no_such_key(found: Any) -> bool:
    return isinstance(found, RedisRefused) and found.reason.startswith("ERR no such key")


def _position(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)
