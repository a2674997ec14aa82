"""What a run has come to so far: all that the screen shows and the last line says."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

# A kill counts for the pauses that begin or go on within this time after it.
KILL_REACH_S = 10.0
EVENTS_KEPT = 8


@dataclass(frozen=True)
class NodeView:
    """One node, as it says of itself; `role` is leader, follower, candidate or down."""

    name: str
    role: str
    term: int = 0
    applied: int = 0
    # Entries that others have and this node does not.
    lag: int = 0


@dataclass(frozen=True)
class Kill:
    node: str
    at_s: float


@dataclass
class Scoreboard:
    """Told by the demo's parts as things happen, in seconds since the start; `listener` hears what is worth a line."""

    orders: int
    seed: int
    nodes: list[NodeView] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    events: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    acknowledged_count: int = 0
    shipped: int = 0
    compensated: int = 0
    # The lines that end the run: the audit.
    verdict: list[str] = field(default_factory=list)
    listener: Callable[[float, str], None] | None = None
    _acknowledgements: dict[str, list[float]] = field(default_factory=dict)
    _per_second: Counter[int] = field(default_factory=Counter)

    def acknowledged(self, at_s: float, client: str) -> None:
        """A client has the cluster's word for one more order."""
        self.acknowledged_count += 1
        self._acknowledgements.setdefault(client, []).append(at_s)
        self._per_second[int(at_s)] += 1

    def finished(self, shipped: bool) -> None:
        if shipped:
            self.shipped += 1
        else:
            self.compensated += 1

    def killed(self, at_s: float, node: str) -> None:
        self.kills.append(Kill(node, at_s))
        self.happened(at_s, f"kill -9 of the leader, node {node}, with {self.in_flight} orders in flight")

    def happened(self, at_s: float, what: str) -> None:
        self.events.append((at_s, what))
        if self.listener is not None:
            self.listener(at_s, what)

    @property
    def in_flight(self) -> int:
        """Acknowledged and not yet finished."""
        return self.acknowledged_count - self.shipped - self.compensated

    def per_second(self, until_s: float) -> list[int]:
        """Acknowledgements in each second from the start."""
        return [self._per_second[second] for second in range(int(until_s) + 1)]

    def pause_s(self, kill: Kill) -> float | None:
        """The longest time that any client was without an acknowledgement around the kill; None while it lasts."""
        longest = None
        for times in self._acknowledgements.values():
            for before, after in pairwise(times):
                if after > kill.at_s and before < kill.at_s + KILL_REACH_S:
                    longest = max(longest or 0.0, after - before)
        return longest

    @property
    def longest_pause_s(self) -> float:
        return max((self.pause_s(kill) or 0.0 for kill in self.kills), default=0.0)
