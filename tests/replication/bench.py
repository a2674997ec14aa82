"""One raft node, n1 unless said otherwise, on a bench: messages go in by hand, its own are kept, time stands still."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from orchestrator.replication.core import SyncObj
from orchestrator.replication.files import Files
from orchestrator.replication.frames import AnyMessage, EncodedAppend, Outgoing, VoteReply, WireEntry
from orchestrator.replication.gossip import Gossiper
from orchestrator.replication.hard_state import HardState
from orchestrator.replication.identity import Identity
from orchestrator.replication.journal import Journal
from orchestrator.replication.membership import Membership
from orchestrator.replication.ports import TcpNetwork
from orchestrator.replication.raft_log import RaftLog
from orchestrator.replication.segment import EntryKind
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.state import Role
from orchestrator.replication.transport import PeerTransport
from tests.replication.journals import Disk
from tests.replication.power_loss import PowerLossFiles


class StillClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return int(self.now * 1000)


class Bench:
    def __init__(
        self,
        size: int = 3,
        settings: RaftSettings | None = None,
        *,
        files: Files | None = None,
        directory: Path = Path("/data/raft"),
        cache_bytes: int = 1 << 20,
        name: str = "n1",
        prefill: Callable[[Journal], None] = lambda journal: None,
    ) -> None:
        names = [f"n{number}" for number in range(1, size + 1)]
        if files is None:
            files = powered = PowerLossFiles()
            powered.make_durable_directory(directory.parent)
        self.disk = Disk(files, directory, cache_bytes=cache_bytes)
        prefill(self.disk.journal)
        self.disk.hard_state.current = self.disk.hard_state.durable = HardState(0, None, dict.fromkeys(names, "i"))
        self.clock = StillClock()
        self.settings = settings or RaftSettings()
        identity = Identity(cluster_id="c", node=name, incarnation="i", members=dict.fromkeys(names, "host:1"))
        rng = random.Random(1)
        membership = Membership(identity, self.disk.hard_state, self.disk.journal)
        transport = PeerTransport(
            identity=identity,
            membership=membership,
            settings=self.settings,
            network=TcpNetwork(),
            clock=self.clock,
            rng=rng,
            listen=("", 0),
            server_tls=None,
            client_tls=None,
            on_refused=lambda name: None,
            on_error=self.fail,
        )
        self.sent: list[tuple[str, Outgoing]] = []
        self.errors: list[BaseException] = []
        self.raft = SyncObj(
            transport=transport,
            settings=self.settings,
            clock=self.clock,
            rng=rng,
            log=RaftLog(self.disk.journal, self.disk.hard_state, 0),
            gossiper=Gossiper(transport, self.clock, self.settings),
            wake=lambda: None,
            on_fatal=self.fail,
            on_advance=lambda: None,
        )
        self.raft.participating = True
        self.raft.send = self._catch  # type: ignore[method-assign]  # what it says is caught
        self.transport = transport
        for other in names:
            if other != name:
                transport._onNodeConnected(transport.nodes[other])

    def fail(self, error: BaseException) -> None:
        self.errors.append(error)

    def _catch(self, name: str, message: Outgoing) -> bool:
        self.sent.append((name, message))
        return True

    def role(self) -> Role:
        return self.raft.role

    def hear(self, name: str, message: AnyMessage) -> None:
        self.raft._handlers[type(message)](name, message)

    def tick(self, after_ms: int = 0) -> list[tuple[str, Outgoing]]:
        """What it says in one tick, and said since the last."""
        self.clock.now += after_ms / 1000
        self.raft.doTick()
        return self.take()

    def take(self) -> list[tuple[str, Outgoing]]:
        sent, self.sent = self.sent, []
        return sent

    def take_appends(self, name: str) -> list[EncodedAppend]:
        self.raft.doTick()
        return [message for to, message in self.take() if to == name and isinstance(message, EncodedAppend)]

    async def settle(self) -> None:
        """The disk has caught up."""
        self.disk.journal.flush()
        await self.disk.queue.drain()

    async def lead(self) -> None:
        self.raft.elections._campaign(transfer=False)
        await self.settle()
        self.tick()
        for name in self.raft.peers[: self.raft.majority - 1]:
            self.hear(name, VoteReply(self.raft.term, True))
        assert self.raft.role is Role.LEADER


def entries(*terms: int) -> list[WireEntry]:
    return [WireEntry(term, EntryKind.COMMANDS, b"%d" % term) for term in terms]
