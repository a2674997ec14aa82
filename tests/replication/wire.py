"""Several benches on one wire: what one says is encoded, decoded and heard by the other in a later turn, in order.

Every message is kept, so that a test can count. A connection that breaks loses what was on its way, in both directions.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.replication.frames import AnyMessage, FrameReader, encode_frame
from orchestrator.replication.journal import Journal
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.state import Role
from tests.replication.bench import Bench


@dataclass(frozen=True)
class Sent:
    turn: int
    source: str
    target: str
    message: AnyMessage
    bytes: int


class Wire:
    def __init__(
        self,
        size: int = 3,
        settings: RaftSettings | None = None,
        *,
        dice: random.Random | None = None,
        prefill: Callable[[str, Journal], None] = lambda name, journal: None,
    ) -> None:
        names = [f"n{number}" for number in range(1, size + 1)]
        self.dice = dice
        self.benches = {
            name: Bench(size, settings, name=name, prefill=lambda journal, name=name: prefill(name, journal))  # type: ignore[misc]  # a default binds
            for name in names
        }
        self.sent: list[Sent] = []
        self.turns = 0
        # (from, to) -> (the turn in which it arrives, frame), in order.
        self._on_its_way: dict[tuple[str, str], deque[tuple[int, bytes]]] = {
            (one, other): deque() for one in names for other in names if one != other
        }
        self._cut: set[str] = set()

    def __getitem__(self, name: str) -> Bench:
        return self.benches[name]

    def cut(self, name: str) -> None:
        """Nothing reaches this node, or leaves it."""
        self._cut.add(name)
        for pair in self._on_its_way:
            if name in pair:
                self.break_connection(*pair, again=False)

    def mend(self, name: str) -> None:
        self._cut.discard(name)
        for other in self.benches:
            if other != name:
                self._tell(name, other, connected=True)

    def break_connection(self, one: str, other: str, *, again: bool = True) -> None:
        for pair in ((one, other), (other, one)):
            self._on_its_way[pair].clear()
        self._tell(one, other, connected=False)
        if again:
            self._tell(one, other, connected=True)

    def _tell(self, one: str, other: str, *, connected: bool) -> None:
        for here, there in ((one, other), (other, one)):
            transport = self.benches[here].transport
            tell = transport._onNodeConnected if connected else transport._onNodeDisconnected
            tell(transport.nodes[there])

    async def turn(self, after_ms: int = 1) -> None:
        """Everybody hears what has arrived, ticks once and has its disk catch up."""
        self.turns += 1
        for (source, target), frames in self._on_its_way.items():
            while frames and frames[0][0] <= self.turns:
                for message in FrameReader(1 << 30).feed(frames.popleft()[1]):
                    self.benches[target].hear(source, message)
        for name, bench in self.benches.items():
            for target, message in bench.tick(after_ms):
                self._send(name, target, encode_frame(message))
            await bench.settle()

    def _send(self, source: str, target: str, frame: bytes) -> None:
        if source in self._cut or target in self._cut:
            return
        frames = self._on_its_way[source, target]
        arrives = self.turns + (1 if self.dice is None else self.dice.randint(1, 4))
        frames.append((max(arrives, frames[-1][0] if frames else 0), frame))
        [message] = FrameReader(1 << 30).feed(frame)
        self.sent.append(Sent(self.turns, source, target, message, len(frame)))

    async def until(self, what: str, condition: Callable[[], bool], turns_max: int = 3000) -> int:
        """How many turns it took."""
        for turn in range(turns_max):
            if condition():
                return turn
            await self.turn()
        raise AssertionError(f"after {turns_max} turns still not: {what}")

    async def elect(self, name: str) -> Bench:
        bench = self.benches[name]
        bench.raft.elections._campaign(transfer=True)
        await self.until(f"{name} to lead", lambda: bench.raft.role is Role.LEADER)
        return bench

    def close(self) -> None:
        for bench in self.benches.values():
            assert not bench.errors
            bench.disk.close()
