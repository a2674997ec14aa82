"""Stock PySyncObj nodes in one process, ticked by hand, on a clock and a network that stand still by themselves."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pysyncobj
import pytest
from pysyncobj import SyncObjConf, syncobj
from pysyncobj.node import Node
from pysyncobj.transport import Transport

PERIOD_SECONDS = 0.2  # longer than the library's own between two sends


class Clock:
    """Moves a little with each look at it, as no loop of the library's ends otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1e-4
        return self.now


class Wires:
    """Between all nodes of a test: in order, and lossless unless they are cut."""

    def __init__(self) -> None:
        self.ends: dict[str, Wire] = {}
        self.under_way: deque[tuple[str, str, Any]] = deque()
        self.cut: set[str] = set()

    def deliver(self) -> int:
        """What is under way now."""
        count = len(self.under_way)
        for _ in range(count):
            sender, receiver, message = self.under_way.popleft()
            if not {sender, receiver} & self.cut:
                self.ends[receiver]._onMessageReceived(Node(sender), message)
        return count

    def isolate(self, name: str) -> None:
        self.cut.add(name)
        self._tell(name, lambda end, node: end._onNodeDisconnected(node))

    def heal(self, name: str) -> None:
        self.cut.discard(name)
        self._tell(name, lambda end, node: end._onNodeConnected(node))

    def _tell(self, name: str, tell: Callable[[Wire, Node], None]) -> None:
        for other in self.ends.keys() - {name}:
            tell(self.ends[other], Node(name))
            tell(self.ends[name], Node(other))


class Wire(Transport):  # type: ignore[misc]  # the library has no types
    def __init__(self, wires: Wires, name: str) -> None:
        super().__init__(None, None, [])
        self._wires = wires
        self._name = name
        wires.ends[name] = self

    def send(self, node: Any, message: Any) -> bool:
        # To nodes that nobody runs nothing comes.
        if not {self._name, node.id} & self._wires.cut and node.id in self._wires.ends:
            self._wires.under_way.append((self._name, node.id, message))
            return True
        return False


class Journalist(pysyncobj.SyncObj):  # type: ignore[misc]  # as above
    """Writes down what was committed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.written: list[Any] = []

    @pysyncobj.replicated  # type: ignore[untyped-decorator]  # as above
    def write(self, item: Any) -> int:
        self.written.append(item)
        return len(self.written)

    @pysyncobj.replicated  # type: ignore[untyped-decorator]  # as above
    def write_and_fail(self, item: Any) -> None:
        self.written.append(item)
        raise RuntimeError("a bug of the user's")


class Stock:
    """Some nodes, all connected."""

    def __init__(self, clock: Clock, names: str = "abc", **conf: Any) -> None:
        self.clock = clock
        self.names = names
        self.wires = Wires()
        self.nodes: dict[str, Any] = {}
        self.acknowledged: list[Any] = []
        self.refused: list[tuple[Any, int]] = []
        for name in names:
            self.start(name, **conf)
        for here, there in itertools.permutations(names, 2):
            self.wires.ends[here]._onNodeConnected(Node(there))

    def start(self, name: str, **conf: Any) -> Any:
        others = [Node(other) for other in self.names if other != name]
        settings = SyncObjConf(autoTick=False, **conf)
        self.nodes[name] = Journalist(Node(name), others, conf=settings, transport=Wire(self.wires, name))
        return self.nodes[name]

    def __getitem__(self, name: str) -> Any:
        return self.nodes[name]

    def private(self, name: str, attribute: str) -> Any:
        return getattr(self.nodes[name], f"_SyncObj__{attribute}")

    def log(self, name: str) -> list[tuple[int, int]]:
        """(index, term) of each entry."""
        return [(index, term) for _, index, term in self.private(name, "raftLog")[:]]

    def hear(self, name: str, sender: str, **message: Any) -> None:
        self.wires.ends[name]._onMessageReceived(Node(sender), message)

    def round(self, names: str = "") -> None:
        """A tick of each, and what they say is heard."""
        self.clock.now += PERIOD_SECONDS
        for name in names or self.names:
            if name in self.nodes:
                self.nodes[name].doTick()
        self.wires.deliver()

    def rounds(self, count: int = 6, names: str = "") -> None:
        for _ in range(count):
            self.round(names)

    def elect(self, name: str) -> Any:
        for other in self.nodes.values():
            other._SyncObj__raftElectionDeadline = self.clock.now + 1e6
        node = self.nodes[name]
        node._SyncObj__raftElectionDeadline = 0
        node.doTick()
        while self.wires.deliver():
            pass
        assert node._isLeader()
        return node

    def write(self, name: str, item: Any) -> None:
        def told(result: Any, reason: int) -> None:
            if reason == pysyncobj.FAIL_REASON.SUCCESS:
                self.acknowledged.append(item)
            else:
                self.refused.append((item, reason))

        self.nodes[name].write(item, callback=told)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(syncobj, "monotonicTime", clock)
    return clock
