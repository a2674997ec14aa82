"""PySyncObj's raft state under typed names, and the only transitions between roles.

The class must be named `SyncObj`: then `self.__x` is mangled as in the library, and what is private there can be
read, and overridden, here. Nothing else in this package knows the library's private names.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable

import pysyncobj  # type: ignore[import-untyped]  # the package has no types
import pysyncobj.journal  # type: ignore[import-untyped]  # the package has no types
import pysyncobj.syncobj  # type: ignore[import-untyped]  # the package has no types
from pysyncobj.node import Node  # type: ignore[import-untyped]  # the package has no types

from orchestrator.replication.frames import Outgoing
from orchestrator.replication.ports import Clock
from orchestrator.replication.raft_log import RaftLog
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.transport import Peer, PeerTransport


class Role(enum.Enum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"
    # Follows, and is counted nowhere: until it has caught up, or was promoted.
    LEARNER = "learner"
    # Not yet, or not, a member: neither votes nor acknowledges.
    FORMING = "forming"
    AWAITING_ADMISSION = "awaiting_admission"


_FOLLOWER, _CANDIDATE, _LEADER = 0, 1, 2
_ROLES = {_FOLLOWER: Role.FOLLOWER, _CANDIDATE: Role.CANDIDATE, _LEADER: Role.LEADER}


class IdlePoller:
    """The sockets are in the asyncio loop; the library's own poll has nothing to wait for."""

    def subscribe(self, descr: int, callback: object, eventMask: int) -> None: ...
    def unsubscribe(self, descr: int) -> None: ...
    def poll(self, timeout: float) -> None: ...


def _install_seams() -> None:
    """The library makes its journal and poller by module functions: let ours pass, leave others' alone."""
    make_journal = pysyncobj.syncobj.createJournal
    make_poller = pysyncobj.syncobj.createPoller
    pysyncobj.syncobj.createJournal = lambda given: given if isinstance(given, RaftLog) else make_journal(given)
    pysyncobj.syncobj.createPoller = lambda given: given if isinstance(given, IdlePoller) else make_poller(given)


_install_seams()


class SyncObj(pysyncobj.SyncObj):  # type: ignore[misc]  # the base class has no types
    def __init__(
        self,
        *,
        transport: PeerTransport,
        settings: RaftSettings,
        clock: Clock,
        rng: random.Random,
        log: RaftLog,
        wake: Callable[[], None],
    ) -> None:
        # All of it before the library's constructor, which looks at every attribute of the instance.
        self.name: str = transport.identity.node
        self.nodes: dict[str, Node] = transport.nodes
        self.settings = settings
        self.clock = clock
        self.rng = rng
        self.log = log
        self.journal = log.journal
        self.hard_state = log.hard_state
        self.wake = wake
        # Called after every change of (role, term, leader).
        self.on_transition: Callable[[], None] = lambda: None
        self.__peers = transport
        self.__announced: tuple[Role, int, str | None] | None = None
        self.__connected: set[str] = set()
        self._count_by(frozenset(self.nodes), frozenset(), is_voter=True)
        conf = pysyncobj.SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,
            dynamicMembershipChange=False,
            commandsWaitLeader=False,
            raftMinTimeout=settings.election_timeout_min_ms / 1000,
            raftMaxTimeout=settings.election_timeout_max_ms / 1000,
            appendEntriesPeriod=settings.heartbeat_interval_ms / 1000,
            connectionTimeout=settings.silence_limit_ms / 1000,
            leaderFallbackTimeout=settings.election_timeout_max_ms / 1000,
            journalFile=log,
            fullDumpFile=None,
            useFork=False,
            appendEntriesBatchSizeBytes=settings.batch_bytes_max,
            pollerType=IdlePoller(),
        )
        own = self.nodes[self.name]
        self.__raftCommitIndex: int
        super().__init__(own, [node for node in self.nodes.values() if node != own], conf, transport=transport)
        self.__raftLastApplied = self.__raftCommitIndex
        if self.__raftCurrentTerm > log.getCurrentTerm():
            # The log, or the database it was reset to, has seen a later term than the hard state.
            self.__setCurrentTerm(self.__raftCurrentTerm, None)
        self.defer_election()

    # -- what raft knows -----------------------------------------------------------------------------------------

    @property
    def role(self) -> Role:
        return _ROLES[self.__raftState]

    @property
    def term(self) -> int:
        term: int = self.__raftCurrentTerm
        return term

    @property
    def voted_for(self) -> str | None:
        voted_for: str | None = self.__votedForNodeId
        return voted_for

    @property
    def leader(self) -> str | None:
        return self.__raftLeader.id if self.__raftLeader is not None else None

    @property
    def last_index(self) -> int:
        return self.journal.last_index

    @property
    def last_term(self) -> int:
        return self.journal.last_term

    @property
    def no_op_index(self) -> int | None:
        """The entry with which this leader's term began."""
        index: int | None = self.__noopIDx
        return index

    @property
    def commit_index(self) -> int:
        index: int = self.__raftCommitIndex
        return index

    @commit_index.setter
    def commit_index(self, index: int) -> None:
        if index < self.__raftCommitIndex or index > self.last_index:
            raise AssertionError(
                f"commit index may not go from {self.__raftCommitIndex} to {index}, the log ends at {self.last_index}"
            )
        self.__raftCommitIndex = index
        self.__leaderCommitIndex = index

    @property
    def handed_out_index(self) -> int:
        """Committed and durable here: what the applier may see."""
        index: int = self.__raftLastApplied
        return index

    @handed_out_index.setter
    def handed_out_index(self, index: int) -> None:
        self.__raftLastApplied = index

    @property
    def election_deadline(self) -> float:
        deadline: float = self.__raftElectionDeadline
        return deadline

    def defer_election(self) -> None:
        self.__raftElectionDeadline = self.clock.monotonic() + self.__generateRaftTimeout()

    # -- peers ---------------------------------------------------------------------------------------------------

    def _count_by(self, voters: frozenset[str], learners: frozenset[str], *, is_voter: bool) -> None:
        """The configuration in force: who votes, who only receives, and whether this node is one of the former."""
        self.voters, self.learners, self.is_voter = voters, learners, is_voter
        # What follows from it is asked in every tick.
        self.majority = len(voters) // 2 + 1
        self.other_voters = sorted(voters - {self.name})
        # Whom a leader sends to: members and learners.
        self.peers = sorted((voters | learners) - {self.name})

    def reconfigure(
        self, voters: frozenset[str], learners: frozenset[str], renewed: set[str], *, is_voter: bool
    ) -> None:
        """Another configuration is in force; `renewed` peers have lost what was known of them."""
        self._count_by(voters, learners, is_voter=is_voter)
        others = {self.nodes.setdefault(name, Peer(name)) for name in self.peers}
        for node in [node for node in self.__raftMatchIndex if node not in others or node.id in renewed]:
            self.__raftMatchIndex.pop(node, None)
            self.__raftNextIndex.pop(node, None)
            self.__lastResponseTime.pop(node, None)
        for node in others - self.__raftMatchIndex.keys():
            self.__raftMatchIndex[node] = 0
            self.__raftNextIndex[node] = self.last_index + 1
        self.__otherNodes = others

    def __onNodeConnected(self, node: Node) -> None:
        super().__onNodeConnected(node)
        self.__connected.add(node.id)

    def __onNodeDisconnected(self, node: Node) -> None:
        super().__onNodeDisconnected(node)
        self.__connected.discard(node.id)

    def connected(self, name: str) -> bool:
        return name in self.__connected

    def next_index(self, name: str) -> int:
        index: int = self.__raftNextIndex[self.nodes[name]]
        return index

    def set_next_index(self, name: str, index: int) -> None:
        self.__raftNextIndex[self.nodes[name]] = index

    def match_index(self, name: str) -> int:
        index: int = self.__raftMatchIndex.get(self.nodes[name], 0)
        return index

    def raise_match_index(self, name: str, index: int) -> None:
        if index > self.match_index(name):
            self.__raftMatchIndex[self.nodes[name]] = index

    def forget_match_index(self, name: str) -> None:
        self.__raftMatchIndex[self.nodes[name]] = 0

    def last_contact(self, name: str) -> float:
        moment: float = self.__lastResponseTime.get(self.nodes[name], 0.0)
        return moment

    def contacted(self, name: str) -> None:
        self.__lastResponseTime[self.nodes[name]] = self.clock.monotonic()

    def send(self, name: str, message: Outgoing) -> bool:
        return self.__peers.send(self.nodes[name], message)

    # -- transitions ---------------------------------------------------------------------------------------------

    def follow(self, term: int, leader: str | None) -> None:
        """A follower of `term`, which is not below ours."""
        if term > self.term:
            self.__setCurrentTerm(term, None)
        if self.role is not Role.FOLLOWER:
            self.defer_election()
        self.__raftLeader = self.nodes.setdefault(leader, Peer(leader)) if leader is not None else None
        self.__setState(_FOLLOWER)
        self.announce()

    def vote_for(self, name: str) -> None:
        self.__setCurrentTerm(self.term, name)

    def campaign(self) -> None:
        """A candidate of the next term, with its own vote, which counts once it is durable."""
        self.__raftLeader = None
        self.__setState(_CANDIDATE)
        self.__setCurrentTerm(self.term + 1, self.name)
        self.announce()

    def lead(self) -> None:
        if self.hard_state.durable.term != self.term or self.hard_state.durable.voted_for != self.name:
            raise AssertionError("a leader's own vote must be durable before it leads")
        self.__onBecomeLeader()
        for name in self.peers:
            self.contacted(name)
        self.announce()

    def announce(self) -> None:
        current = (self.role, self.term, self.leader)
        if current != self.__announced:
            self.__announced = current
            self.on_transition()
        self.wake()

    def __generateRaftTimeout(self) -> float:
        settings = self.settings
        return self.rng.uniform(settings.election_timeout_min_ms, settings.election_timeout_max_ms) / 1000
