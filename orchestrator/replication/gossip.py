"""Small facts each node tells all others a few times a second: its wall clock, and a dict the server fills."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from orchestrator.replication.frames import Gossip, GossipValue, gossip_values
from orchestrator.replication.ports import Clock
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.transport import PeerTransport

SAMPLES_MAX = 8


class Gossiper:
    def __init__(self, transport: PeerTransport, clock: Clock, settings: RaftSettings) -> None:
        self._transport = transport
        self._clock = clock
        self._settings = settings
        self._own: dict[str, GossipValue] = {}
        self._changed = False
        self._peers: dict[str, dict[str, GossipValue]] = {}
        self._offsets: dict[str, deque[int]] = {}
        self._largest_offsets: dict[str, int] = {}
        self._due_at = 0.0
        self._sent_at = float("-inf")

    def set(self, facts: dict[str, GossipValue]) -> None:
        if facts != self._own:
            self._own = dict(facts)
            self._changed = True

    def tick(self, now: float) -> None:
        # A change goes out soon, but not more often than heartbeats.
        soon = self._changed and now >= self._sent_at + self._settings.heartbeat_interval_ms / 1000
        if now < self._due_at and not soon:
            return
        self._changed = False
        self._sent_at = now
        self._due_at = now + self._settings.gossip_interval_ms / 1000
        self._transport.broadcast(Gossip(self._clock.wall_ms(), dict(self._own)))

    def hurry(self) -> None:
        """A peer has just connected: do not let it wait."""
        self._due_at = 0.0

    def on_gossip(self, name: str, message: Gossip) -> bool:
        offset = message.wall_ms - self._clock.wall_ms()
        samples = self._offsets.setdefault(name, deque(maxlen=SAMPLES_MAX))
        samples.append(offset)
        self._largest_offsets[name] = max(samples)
        if message.data is not None:
            self._peers[name] = gossip_values(message.data)
        return True

    def forget(self, names: Iterable[str]) -> None:
        """What nodes said that are members no longer."""
        for name in names:
            self._peers.pop(name, None)
            self._offsets.pop(name, None)
            self._largest_offsets.pop(name, None)

    def peers(self) -> dict[str, dict[str, GossipValue]]:
        return {name: dict(facts) for name, facts in self._peers.items()}

    def clock_offsets(self) -> dict[str, int]:
        """Peer's wall clock minus ours: the largest of the last samples, since delay only ever lowers one."""
        return dict(self._largest_offsets)
