"""What the replicated log knows of itself and of the cluster: read at any time, changed by nobody here."""

from __future__ import annotations

from orchestrator.replication import configuration as configurations
from orchestrator.replication.configuration import Member
from orchestrator.replication.core import SyncObj
from orchestrator.replication.errors import Stopped
from orchestrator.replication.frames import GossipValue
from orchestrator.replication.gossip import Gossiper
from orchestrator.replication.in_step import InStep
from orchestrator.replication.membership import Membership, Standing
from orchestrator.replication.state import Role
from orchestrator.replication.status import Status, describe
from orchestrator.replication.transport import PeerTransport


class LogKnowledge:
    """The reading half of `ReplicatedLog`, which makes these parts when it starts."""

    _raft: SyncObj | None
    _membership: Membership
    _transport: PeerTransport
    _gossiper: Gossiper
    _in_step: InStep

    @property
    def _core(self) -> SyncObj:
        if self._raft is None:
            raise Stopped("the replicated log was not started")
        return self._raft

    @property
    def role(self) -> Role:
        standing = self._membership.standing
        if standing is Standing.FORMING:
            return Role.FORMING
        if standing in (Standing.AWAITING_ADMISSION, Standing.REMOVED):
            return Role.AWAITING_ADMISSION
        learns = self._core.role is Role.FOLLOWER and not self._core.is_voter
        return Role.LEARNER if learns else self._core.role

    @property
    def leader(self) -> str | None:
        return self._core.leader

    @property
    def term(self) -> int:
        return self._core.term

    @property
    def ready_to_lead(self) -> bool:
        """Leads, and its own term's no-op is committed: it knows everything its predecessors acknowledged."""
        return self._core.barrier.ready()

    @property
    def quorum(self) -> int:
        """How many members are a majority now."""
        return self._core.majority

    @property
    def last_index(self) -> int:
        return self._core.last_index

    @property
    def durable_index(self) -> int:
        return self._core.journal.durable_index

    @property
    def commit_index(self) -> int:
        return self._core.commit_index

    def status(self) -> Status:
        flushed_index = self._in_step.flushed_index
        return describe(self._core, self._membership, self._transport, role=self.role, flushed_index=flushed_index)

    def candidates(self) -> dict[str, Member]:
        """Nodes that are connected and could be admitted, by name."""
        return self._membership.candidates()

    def configuration_at(self, index: int) -> bytes:
        """The members as of the entry at `index`, to be stored with a database that stands there."""
        return configurations.encode_stored(self._membership.at(index))

    def peer_gossip(self) -> dict[str, dict[str, GossipValue]]:
        """Peer name -> the last dict heard of it."""
        self._core  # noqa: B018 - raises before start
        return self._gossiper.peers()

    def other_voters(self) -> dict[str, bool]:
        """Each other member that votes -> whether it is connected."""
        raft = self._core
        return {name: raft.connected(name) for name in raft.other_voters}

    def peer_clock_offsets(self) -> dict[str, int]:
        """Other member -> its wall clock minus ours, ms; if connected, for those of others may be long corrected."""
        raft, offsets = self._core, self._gossiper.clock_offsets()
        return {name: offsets[name] for name in raft.other_voters if name in offsets and raft.connected(name)}
