"""Streams of Redis: entries written in order, and read in order by one reader at a time of a consumer group.

How far a reader has come is known outside of Redis, as the id of an entry, the cursor. The group is put there when it
is opened, and tells the same to whoever looks at Redis.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.line import Command, Line
from orchestrator.integrations.redis.link import RedisLink

START = "0-0"
# Entries that one command names.
_AT_ONCE = 500
_SEQUENCE_MAX = 2**64 - 1

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

    An older reader may not know yet that it is not the one any more, be given entries, or put the group elsewhere. So
    the reader knows by itself how far it has come, and nothing is passed over. All methods raise RedisUnavailable and
    RedisRefused.
    """

    def __init__(self, link: RedisLink, stream: str, group: str, consumer: str) -> None:
        self._link = link
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._line: Line | None = None
        self._position = START
        # What was returned and is not acknowledged yet, in order.
        self._given: dict[str, None] = {}

    async def open(self, cursor: str, *, begun: bool) -> Opened:
        """`cursor`: what is behind it was taken up. `begun`: by then an entry was, so that the stream had got there.

        Then all that is behind the cursor is new, whoever was given it before. After DATA_LOST it is all that is in
        the stream, or as far as the group, which came back, has not had it.
        """
        await self.close()
        self._line = await self._link.line()
        stream, groups = await self._ask_all(("XINFO", "STREAM", self._stream), ("XINFO", "GROUPS", self._stream))
        about = {} if _is_no_such_key(stream) else _pairs(stream)
        is_lost = begun and await self._is_behind(about, cursor)
        found = [group for group in map(_pairs, groups) if group[b"name"] == self._group.encode()] if about else []
        self._position = START if is_lost else cursor
        if found:
            await self._settle(found[0])
        else:
            await self._ask("XGROUP", "CREATE", self._stream, self._group, self._position, "MKSTREAM")
        if is_lost:
            return Opened.DATA_LOST
        return Opened.FOUND if found else Opened.MADE

    async def close(self) -> None:
        self._given.clear()
        if self._line is not None:
            await self._line.close()
            self._line = None

    async def read_new(self, most: int, block_ms: int) -> list[Found]:
        """What comes next, in order; waits for the first at most so long, 0: not at all. Raises OpenAgain."""
        read = ("XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", most)
        new = ("STREAMS", self._stream, ">")
        answer, following = await self._ask_all(
            (*read, *(("BLOCK", block_ms) if block_ms else ()), *new),
            ("XRANGE", self._stream, f"({self._position}", "+", "COUNT", 1),
            wait_ms=block_ms,
        )
        given = answer[0][1] if answer else []
        if following and (not given or _position(given[0][0].decode()) > _position(following[0][0].decode())):
            # Somebody else was given what comes before these.
            _, answer = await self._transact(("XGROUP", "SETID", self._stream, self._group, self._position),
                                             (*read, *new))
            given = answer[0][1] if answer else []
        return await self._taken(given)

    async def read_pending(self, most: int) -> list[Found]:
        """The first of what `read_new` has returned since it was opened, and was not acknowledged."""
        while entry_ids := list(self._given)[:most]:
            answer = await self._ask("XRANGE", self._stream, entry_ids[0], entry_ids[-1])
            found = [_found(entry_id, fields) for entry_id, fields in answer if entry_id.decode() in self._given]
            there = {entry_id for entry_id, _ in found}
            if gone := [entry_id for entry_id in entry_ids if entry_id not in there]:
                logger.warning("entries have vanished from a stream before they were handled", extra={
                    "stream": self._stream, "group": self._group, "entries": len(gone), "first": gone[0]})
                await self.acknowledge(gone)
            if found:
                return found
        return []

    async def acknowledge(self, entry_ids: Sequence[str]) -> None:
        for start in range(0, len(entry_ids), _AT_ONCE):
            await self._ask("XACK", self._stream, self._group, *entry_ids[start:start + _AT_ONCE])
        for entry_id in entry_ids:
            self._given.pop(entry_id, None)

    async def standing(self) -> Standing:
        """Asked over the link, so that it may be asked while the reader waits. Without a group all is 0."""
        length, groups = await self._link.execute_all([("XLEN", self._stream), ("XINFO", "GROUPS", self._stream)])
        if isinstance(length, RedisRefused):
            raise length
        for group in () if isinstance(groups, RedisRefused) else map(_pairs, groups):
            if group[b"name"] == self._group.encode():
                # Before Redis 7 it was not counted.
                lag = group.get(b"lag")
                return Standing(length, None if lag is None else max(0, lag), group[b"pending"])
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

    async def _settle(self, group: Mapping[bytes, Any]) -> None:
        """Puts the group where this reader is: nothing is pending, and what comes next was given to nobody.

        It is ahead if a reader did not come to its end, or the cluster was restored from a backup, and behind if nobody
        followed the stream for a while. At its start the reader is there after DATA_LOST: what a group has had that
        came back was taken up, for the stream had got further.
        """
        delivered = group[b"last-delivered-id"].decode()
        pending = await self._pending()
        if self._position == START:
            self._position = _before(pending[0]) if pending else delivered
        if delivered == self._position and not pending:
            return
        counted: tuple[str | int, ...] = ()
        again = [entry_id for entry_id in pending if _position(entry_id) > _position(self._position)]
        if again and group.get(b"entries-read") is not None:
            # So that Redis goes on telling the lag: where what was given is what is pending.
            first = await self._ask("XRANGE", self._stream, f"({self._position}", "+", "COUNT", 1)
            if first and first[0][0].decode() == again[0]:
                counted = ("ENTRIESREAD", max(0, group[b"entries-read"] - len(again)))
        commands: list[Command] = [("XGROUP", "SETID", self._stream, self._group, self._position, *counted)]
        for start in range(0, len(pending), _AT_ONCE):
            commands.append(("XACK", self._stream, self._group, *pending[start:start + _AT_ONCE]))
        await self._transact(*commands)

    async def _pending(self) -> list[str]:
        """The ids of all that is pending, whoever holds it, in order."""
        found: list[str] = []
        start = "-"
        while page := await self._ask("XPENDING", self._stream, self._group, start, "+", _AT_ONCE):
            found += (entry[0].decode() for entry in page)
            start = f"({found[-1]}"
        return found

    async def _taken(self, given: list[Any]) -> list[Found]:
        """What is new of it. The rest was acknowledged, and is given again as somebody has put the group back."""
        found = [_found(entry_id, fields) for entry_id, fields in given]
        again = [each.entry_id for each in found if _position(each.entry_id) <= _position(self._position)]
        new = found[len(again):]
        if new:
            self._position = new[-1].entry_id
            self._given.update(dict.fromkeys(each.entry_id for each in new))
        if repeated := [entry_id for entry_id in again if entry_id not in self._given]:
            await self.acknowledge(repeated)
        return new

    def _opened(self) -> Line:
        if self._line is None:
            raise OpenAgain(f"the reader of {self._stream} is not open")
        return self._line

    async def _ask(self, *command: str | bytes | int) -> Any:
        return (await self._ask_all(command))[0]

    async def _ask_all(self, *commands: Sequence[str | bytes | int], wait_ms: int = 0) -> list[Any]:
        return self._granted(await self._opened().ask_all(commands, wait_ms=wait_ms))

    async def _transact(self, *commands: Command) -> list[Any]:
        return self._granted(await self._opened().transact(commands))

    def _granted(self, answers: list[Any]) -> list[Any]:
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


def _found(entry_id: bytes, fields: list[bytes]) -> Found:
    return Found(entry_id.decode(), _pairs(fields))


def _is_no_such_key(found: Any) -> bool:
    return isinstance(found, RedisRefused) and found.reason.startswith("ERR no such key")


def _position(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _before(entry_id: str) -> str:
    """The id before it."""
    milliseconds, sequence = _position(entry_id)
    return f"{milliseconds}-{sequence - 1}" if sequence else f"{milliseconds - 1}-{_SEQUENCE_MAX}"
