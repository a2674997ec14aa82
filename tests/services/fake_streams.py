"""A Redis of dictionaries: streams, one consumer group for each namespace, and whatever failure a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.streams import Appended, Found, OpenAgain, Opened

Entry = tuple[str, dict[bytes, bytes]]


@dataclass
class Group:
    """Delivered is what stands up to `last`; of that, what is `pending` was not acknowledged."""

    last: str
    pending: dict[str, None] = field(default_factory=dict)


def place(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)


class FakeStreams:
    """`before` and `after` are called around each thing that is done, with its name, and may raise."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Entry]] = {}
        self.groups: dict[tuple[str, str], Group] = {}
        self.before: Callable[[str, str], None] = lambda what, stream: None
        self.after: Callable[[str, str], None] = lambda what, stream: None
        self.connected = asyncio.Event()
        self.connected.set()
        self.done: list[tuple[str, str]] = []
        self.stirred = asyncio.Event()
        self.next_ms = 2_000_000_000_000
        self.readers: list[FakeReader] = []

    async def wait_connected(self) -> None:
        await self.connected.wait()

    async def around(self, what: str, stream: str) -> None:
        """Before it is done."""
        await asyncio.sleep(0)
        if not self.connected.is_set():
            raise RedisUnavailable("not connected")
        self.before(what, stream)
        self.done.append((what, stream))

    def add(self, stream: str, entry_id: str = "", **fields: str | bytes) -> str:
        """As any other client does."""
        entry_id = entry_id or f"{self.next_ms}-0"
        self.next_ms += 1
        values = {name.encode(): value if isinstance(value, bytes) else value.encode()
                  for name, value in fields.items()}
        self.entries.setdefault(stream, []).append((entry_id, values))
        self.stirred.set()
        return entry_id

    def lose_data(self) -> None:
        self.entries.clear()
        self.groups.clear()
        self.next_ms = 1_000

    async def append(self, stream: str, entries: Sequence[Mapping[str, bytes]]) -> Appended:
        written = 0
        try:
            await self.around("append", stream)
            for fields in entries:
                self.before("entry", stream)
                self.add(stream, **fields)
                written += 1
            self.after("append", stream)
        except RedisUnavailable as failure:
            # Nobody knows how much of it was written.
            return Appended(0, failure)
        except RedisRefused as failure:
            return Appended(written, failure)
        return Appended(written, None)

    def reader(self, stream: str, namespace: str) -> FakeReader:
        reader = FakeReader(self, stream, namespace)
        self.readers.append(reader)
        return reader


class FakeReader:
    def __init__(self, streams: FakeStreams, stream: str, namespace: str) -> None:
        self._streams = streams
        self._stream = stream
        self._key = (stream, namespace)
        self.is_closed = False

    async def open(self, cursor: str, *, begun: bool) -> Opened:
        await self._streams.around("open", self._stream)
        entries = self._streams.entries.get(self._stream, [])
        group = self._streams.groups.get(self._key)
        last = max((place(entry_id) for entry_id, _ in entries), default=(0, 0))
        is_lost = begun and last < place(cursor)
        if group is None:
            self._streams.groups[self._key] = Group("0-0" if is_lost else cursor)
        self._streams.after("open", self._stream)
        if is_lost:
            return Opened.DATA_LOST
        return Opened.MADE if group is None else Opened.FOUND

    async def read_new(self, most: int, block_ms: int) -> list[Found]:
        await self._streams.around("read_new", self._stream)
        found = self._new(most)
        if not found:
            self._streams.stirred.clear()
            try:
                async with asyncio.timeout(block_ms / 1000):
                    await self._streams.stirred.wait()
            except TimeoutError:
                return []
            found = self._new(most)
        self._streams.after("read_new", self._stream)
        # As a real one does where others were given something before.
        return found if len(self._group().pending) == len(found) else self._pending(most)

    def _new(self, most: int) -> list[Found]:
        """Are given to somebody, whether he hears of it or not."""
        group = self._group()
        entries = self._streams.entries.get(self._stream, [])
        new = [entry for entry in entries if place(entry[0]) > place(group.last)][:most]
        for entry_id, _ in new:
            group.last = entry_id
            group.pending[entry_id] = None
        return [Found(entry_id, fields) for entry_id, fields in new]

    async def read_pending(self, most: int) -> list[Found]:
        await self._streams.around("read_pending", self._stream)
        return self._pending(most)

    def _pending(self, most: int) -> list[Found]:
        known = dict(self._streams.entries.get(self._stream, []))
        pending = sorted(self._group().pending, key=place)[:most]
        return [Found(entry_id, known[entry_id]) for entry_id in pending]

    async def acknowledge(self, ids: Sequence[str]) -> None:
        await self._streams.around("acknowledge", self._stream)
        group = self._group()
        for entry_id in ids:
            group.pending.pop(entry_id, None)
        self._streams.after("acknowledge", self._stream)

    async def lag(self) -> int | None:
        await self._streams.around("lag", self._stream)
        last = place(self._group().last)
        return sum(place(entry_id) > last for entry_id, _ in self._streams.entries.get(self._stream, []))

    async def close(self) -> None:
        self.is_closed = True

    def _group(self) -> Group:
        group = self._streams.groups.get(self._key)
        if group is None:
            raise OpenAgain("the group has gone")
        return group
