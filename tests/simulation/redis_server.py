"""A Redis for simulated nodes: streams and consumer groups as the server has them, and links that break with it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.testing.loop import VirtualLoop
from orchestrator.testing.machine import EPOCH_MS

Place = tuple[int, int]
Word = str | bytes | int
Command = Sequence[Word]

# One way, how long a link takes to see that there is a server again, and when it takes one that is silent for gone.
WAY_SECONDS = (0.0002, 0.01)
LOOK_SECONDS = (0.02, 0.15)
SILENT_SECONDS = 2.0
# How late one that waits for an entry hears of it, at the most.
POLL_SECONDS = 0.02
_NO_KEY = RedisRefused("ERR no such key")


@dataclass
class Group:
    last: Place
    pending: dict[Place, str] = field(default_factory=dict)  # by whom it is held


@dataclass
class Stream:
    entries: dict[Place, dict[bytes, bytes]] = field(default_factory=dict)
    last: Place = (0, 0)
    groups: dict[str, Group] = field(default_factory=dict)


class RedisServer:
    """What it has is gone when its data is lost; `written` is all that it ever took."""

    def __init__(self, loop: VirtualLoop, dice: Random) -> None:
        self.loop, self.dice = loop, dice
        self.streams: dict[str, Stream] = {}
        self.written: list[tuple[str, dict[str, bytes]]] = []
        self.is_up = True
        # Connections are of one of its lives.
        self.life = 0
        self.clock_ms = 0
        # Nodes that do not reach it.
        self.cut: set[str] = set()

    def kill(self) -> None:
        self.is_up = False
        self.life += 1

    def copy(self) -> dict[str, Stream]:
        """As it writes to its disk now and then."""
        return copy.deepcopy(self.streams)

    def start(self, data: dict[str, Stream] | None = None, *, clock_ms: int = 0) -> None:
        """`data`: what it has then, if not what it had. `clock_ms`: how much its clock is set forward, or back."""
        if data is not None:
            self.streams = data
        self.clock_ms += clock_ms
        self.is_up = True

    def add(self, stream: str, fields: dict[str, bytes]) -> str:
        """What any client does."""
        kept = self.streams.setdefault(stream, Stream())
        now = (EPOCH_MS + int(self.loop.now * 1000) + self.clock_ms, 0)
        kept.last = now if now > kept.last else (kept.last[0], kept.last[1] + 1)
        kept.entries[kept.last] = {name.encode(): value for name, value in fields.items()}
        self.written.append((stream, fields))
        return told(kept.last).decode()

    def do(self, command: Command) -> Any:
        """As RESP2 has it; a refusal is an answer."""
        name, *words = [each.decode() if isinstance(each, bytes) and at < 2 else each
                        for at, each in enumerate(command)]
        try:
            return _COMMANDS[str(name)](self, words)
        except RedisRefused as refused:
            return refused

    # -- commands --------------------------------------------------------------------------------------------------

    def _add(self, words: list[Any]) -> Any:
        stream, *rest = words
        rest = rest[rest.index("*") + 1 :]
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return self.add(stream, {str(name): _bytes(value) for name, value in pairs}).encode()

    def _length(self, words: list[Any]) -> Any:
        return len(self.streams.get(words[0], Stream()).entries)

    def _info(self, words: list[Any]) -> Any:
        what, stream = words
        kept = self._there(stream)
        if what == "STREAM":
            first = next((_entry(*each) for each in kept.entries.items()), None)
            return [b"length", len(kept.entries), b"last-generated-id", told(kept.last), b"first-entry", first,
                    b"max-deleted-entry-id", b"0-0"]
        return [
            [b"name", name.encode(), b"pending", len(group.pending), b"last-delivered-id", told(group.last),
             b"lag", sum(place > group.last for place in kept.entries)]
            for name, group in kept.groups.items()
        ]

    def _group(self, words: list[Any]) -> Any:
        what, stream, name, start = words[:4]
        if what == "CREATE":
            kept = self.streams.setdefault(stream, Stream()) if "MKSTREAM" in words else self._there(stream)
            if name in kept.groups:
                raise RedisRefused("BUSYGROUP Consumer Group name already exists")
            kept.groups[name] = Group(kept.last if start == "$" else place_of(start))
        else:
            self._of(stream, name).last = place_of(start)
        return b"OK"

    def _read(self, words: list[Any]) -> Any:
        name, consumer = words[1:3]
        most = int(words[words.index("COUNT") + 1])
        stream, start = words[words.index("STREAMS") + 1 :]
        group, kept = self._of(stream, name), self._there(stream)
        if start != ">":
            held = sorted(place for place, by in group.pending.items() if by == consumer and place > place_of(start))
            return [[stream.encode(), [_entry(place, kept.entries.get(place)) for place in held[:most]]]]
        new = [place for place in kept.entries if place > group.last][:most]
        for place in new:
            group.last = place
            group.pending[place] = consumer
        return [[stream.encode(), [_entry(place, kept.entries[place]) for place in new]]] if new else None

    def _pending(self, words: list[Any]) -> Any:
        group = self._of(words[0], words[1])
        held = sorted(group.pending)
        if len(words) > 2:
            found = _between(held, words[2], words[3])[: int(words[4])]
            return [[told(each), group.pending[each].encode(), 0, 1] for each in found]
        if not held:
            return [0, None, None, None]
        by = {name: sum(each == name for each in group.pending.values()) for name in group.pending.values()}
        counts = [[name.encode(), b"%d" % count] for name, count in by.items()]
        return [len(held), told(held[0]), told(held[-1]), counts]

    def _claim(self, words: list[Any]) -> Any:
        stream, name, consumer, _, start = words[:5]
        group, kept = self._of(stream, name), self._there(stream)
        most = int(words[words.index("COUNT") + 1])
        held = [each for each in sorted(group.pending) if each >= place_of(start)]
        taken, rest = held[:most], held[most:]
        gone = [each for each in taken if each not in kept.entries]
        for each in taken:
            group.pending[each] = consumer
        for each in gone:
            del group.pending[each]
        there = [told(each) for each in taken if each not in gone]
        return [told(rest[0]) if rest else b"0-0", there, [told(each) for each in gone]]

    def _acknowledge(self, words: list[Any]) -> Any:
        group = self._of(words[0], words[1])
        return sum(group.pending.pop(place_of(each), None) is not None for each in words[2:])

    def _range(self, words: list[Any]) -> Any:
        kept = self.streams.get(words[0], Stream())
        found = _between(kept.entries, words[1], words[2])
        return [_entry(each, kept.entries[each]) for each in found[: int(words[4]) if len(words) > 3 else None]]

    def _there(self, stream: str) -> Stream:
        if stream not in self.streams:
            raise _NO_KEY
        return self.streams[stream]

    def _of(self, stream: str, name: str) -> Group:
        group = self.streams.get(stream, Stream()).groups.get(name)
        if group is None:
            raise RedisRefused(f"NOGROUP No such key '{stream}' or consumer group '{name}'")
        return group


_COMMANDS: dict[str, Callable[[RedisServer, list[Any]], Any]] = {
    "XADD": RedisServer._add, "XLEN": RedisServer._length, "XINFO": RedisServer._info, "XGROUP": RedisServer._group,
    "XREADGROUP": RedisServer._read, "XPENDING": RedisServer._pending, "XAUTOCLAIM": RedisServer._claim,
    "XACK": RedisServer._acknowledge, "XRANGE": RedisServer._range,
}


def place_of(entry_id: Word) -> Place:
    text = entry_id.decode() if isinstance(entry_id, bytes) else str(entry_id)
    ms, _, number = text.partition("-")
    return int(ms), int(number or 0)


def _between(places: Iterable[Place], first: Word, last: Word) -> list[Place]:
    """As commands name both ends: `-` and `+`, an id, or what is behind one in a round bracket."""
    start, end = str(first), str(last)
    return [
        each for each in places
        if (start == "-" or each > place_of(start[1:]) if start[0] in "-(" else each >= place_of(start))
        and (end == "+" or each <= place_of(end))
    ]


def told(place: Place) -> bytes:
    return b"%d-%d" % place


def _bytes(value: Word) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _entry(place: Place, fields: dict[bytes, bytes] | None) -> list[Any]:
    flat = None if fields is None else [word for pair in fields.items() for word in pair]
    return [told(place), flat]


# --- how nodes reach it -----------------------------------------------------------------------------------------------


class ServerLink:
    """As a RedisLink."""

    def __init__(self, server: RedisServer, node: str, dice: Random) -> None:
        self.last_error = ""
        self.failures = 0
        self.dice = dice
        self._server, self._node = server, node
        self._is_connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._is_connected.is_set()

    async def wait_connected(self) -> None:
        await self._is_connected.wait()

    async def run(self) -> None:
        try:
            while True:
                life = self._server.life
                if self.reaches(life):
                    self._is_connected.set()
                while self.connected:
                    await asyncio.sleep(LOOK_SECONDS[0])
                    if not self.reaches(life):
                        self._is_connected.clear()
                        self.failures += 1
                        self.last_error = "the connection is lost"
                await asyncio.sleep(self.dice.uniform(*LOOK_SECONDS))
        finally:
            self._is_connected.clear()

    def reaches(self, life: int) -> bool:
        return self._server.is_up and self._server.life == life and self._node not in self._server.cut

    async def line(self) -> ServerLine:
        if not self.connected:
            raise RedisUnavailable("not connected", lost=True)
        return ServerLine(self, self._server, self._server.life)

    async def execute_all(self, commands: Sequence[Command]) -> list[Any]:
        return await (await self.line()).ask_all(commands)

    async def transact(self, commands: Sequence[Command]) -> list[Any]:
        # There is nobody else in between, anyway.
        return await self.execute_all(commands)


class ServerLine:
    """One connection: it is over with the life of the server, or when somebody has cut it and it is used."""

    def __init__(self, link: ServerLink, server: RedisServer, life: int) -> None:
        self._link, self._server, self._life = link, server, life
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False

    async def transact(self, commands: Sequence[Command]) -> list[Any]:
        # There is nobody else in between, anyway.
        return await self.ask_all(commands)

    async def ask_all(self, commands: Sequence[Command], *, wait_ms: int = 0) -> list[Any]:
        await self._way()
        answers = []
        for command in commands:
            answer = self._server.do(command)
            until = self._server.loop.now + wait_ms / 1000
            while answer is None and "BLOCK" in command and self._server.loop.now < until:
                await asyncio.sleep(POLL_SECONDS)
                self._check()
                answer = self._server.do(command)
            answers.append(answer)
        await self._way()
        return answers

    async def _way(self) -> None:
        """To the server, or back: what it was told has happened all the same."""
        await asyncio.sleep(self._link.dice.uniform(*WAY_SECONDS))
        if self._is_open and self._server.is_up and self._server.life == self._life \
                and not self._link.reaches(self._life):
            await asyncio.sleep(SILENT_SECONDS)
        self._check()

    def _check(self) -> None:
        if not self._is_open or not self._link.reaches(self._life):
            self._is_open = False
            raise RedisUnavailable("the connection is lost", lost=True)
