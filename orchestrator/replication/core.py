"""The raft node: PySyncObj's `SyncObj` with every method overridden that its bugs live in.

Driven by the event loop: `tick` runs soon after a message, a command or a finished fsync, and when a deadline
passes. Nothing here blocks, and nothing is caught: an error in a tick or a message stops the node.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from pysyncobj.node import Node  # type: ignore[import-untyped]  # the package has no types

from orchestrator.replication.barrier import ReadBarrier
from orchestrator.replication.follower import Follower
from orchestrator.replication.frames import (
    Ack,
    AnyMessage,
    Append,
    CommitNotice,
    Gossip,
    Heartbeat,
    PreVoteReply,
    PreVoteRequest,
    Reject,
    SnapshotAck,
    SnapshotBegin,
    SnapshotChunk,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from orchestrator.replication.gossip import Gossiper
from orchestrator.replication.leader import Replicator
from orchestrator.replication.ports import Clock
from orchestrator.replication.raft_log import RaftLog
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.snapshot_receiver import SnapshotReceiver
from orchestrator.replication.snapshots import SnapshotSender
from orchestrator.replication.state import Role
from orchestrator.replication.state import SyncObj as RaftState
from orchestrator.replication.transport import PeerTransport
from orchestrator.replication.votes import Elections


class SyncObj(RaftState):
    def __init__(
        self,
        *,
        transport: PeerTransport,
        settings: RaftSettings,
        clock: Clock,
        rng: random.Random,
        log: RaftLog,
        gossiper: Gossiper,
        wake: Callable[[], None],
        on_fatal: Callable[[BaseException], None],
        on_advance: Callable[[], None],
    ) -> None:
        self._on_fatal = on_fatal
        self._on_advance = on_advance
        self._gossiper = gossiper
        self.sender: SnapshotSender | None = None
        self.receiver: SnapshotReceiver | None = None
        super().__init__(transport=transport, settings=settings, clock=clock, rng=rng, log=log, wake=wake)
        self.barrier = ReadBarrier(self)
        self.elections = Elections(self)
        self.follower = Follower(self)
        self.replicator = Replicator(self, self.barrier, self._start_snapshot, on_fatal)
        # Set by the owner once this node is a member: before that it neither votes nor acknowledges.
        self.participating = False
        # They say True when nothing follows from a message: then no tick is needed.
        self._handlers: dict[type, Callable[[str, Any], bool | None]] = {
            Gossip: gossiper.on_gossip,
            PreVoteRequest: self.elections.on_pre_vote_request,
            PreVoteReply: self.elections.on_pre_vote_reply,
            VoteRequest: self.elections.on_vote_request,
            VoteReply: self.elections.on_vote_reply,
            TimeoutNow: self.elections.on_timeout_now,
            Append: self._from_leader(self.follower.on_append),
            Heartbeat: self._from_leader(self.follower.on_heartbeat),
            CommitNotice: self._from_leader(self.follower.on_notice),
            SnapshotBegin: self._from_leader(self._on_snapshot_begin),
            SnapshotChunk: self._from_leader(self._on_snapshot_chunk),
            Ack: self._to_leader(self.replicator.on_ack),
            Reject: self._to_leader(self.replicator.on_reject),
            SnapshotAck: self._to_leader(self._on_snapshot_ack),
        }

    # -- messages ------------------------------------------------------------------------------------------------

    def __onMessageReceived(self, node: Node, message: AnyMessage) -> None:
        if not self.participating:
            return
        try:
            quiet = self._handlers[type(message)](node.id, message)
        except Exception as error:  # noqa: BLE001 - an invariant does not hold: stop rather than guess
            self._on_fatal(error)
            return
        if not quiet:
            self.wake()

    def _from_leader(self, handle: Callable[[Any], None]) -> Callable[[str, Any], None]:
        def received(name: str, message: Any) -> None:
            if message.term < self.term:
                # Tells an old leader that its term is over.
                self.send(name, Ack(self.term, 0, 0))
                return
            if message.term > self.term or self.leader != name or self.role is not Role.FOLLOWER:
                if self.role is Role.LEADER and message.term == self.term:
                    raise AssertionError(f"{name} and {self.name} both lead term {self.term}")
                self.follow(message.term, name)
            self.elections.leader_heard()
            self.follower.hear(message.term, name)
            handle(message)

        return received

    def _to_leader(self, handle: Callable[[str, Any], bool | None]) -> Callable[[str, Any], bool | None]:
        def received(name: str, message: Any) -> bool | None:
            if message.term > self.term:
                self.follow(message.term, None)
            elif message.term == self.term and self.role is Role.LEADER and name in self.replicator.progress:
                return handle(name, message)
            return None

        return received

    def __onNodeConnected(self, node: Node) -> None:
        super().__onNodeConnected(node)
        self.replicator.peer_connected(node.id)
        self._gossiper.hurry()
        self.wake()

    def __onNodeDisconnected(self, node: Node) -> None:
        super().__onNodeDisconnected(node)
        self.wake()

    def reconfigure(
        self, voters: frozenset[str], learners: frozenset[str], renewed: set[str], *, is_voter: bool
    ) -> None:
        super().reconfigure(voters, learners, renewed, is_voter=is_voter)
        self.replicator.peers_changed(renewed)
        self.barrier.peers_changed(renewed)
        if self.sender is not None:
            for name in [name for name in self.sender.transfers if name in renewed or name not in self.peers]:
                self.sender.give_up(name)
        self.wake()

    # -- the tick ------------------------------------------------------------------------------------------------

    def _onTick(self, timeToWait: float = 0.0) -> None:
        self.tick(self.clock.monotonic())

    def flush_first(self) -> None:
        """Before a tick: a follower has nothing to do but to make durable what came, before what else it does."""
        if self.role is not Role.LEADER:
            self.journal.flush(stand_by=True)

    def tick(self, now: float) -> None:
        """Everything that follows from what has happened, and from the time."""
        if self.participating:
            self.elections.tick(now)
            leads = self.role is Role.LEADER
            if leads and not (self.is_voter and self.replicator.has_quorum_contact(now)):
                self.follow(self.term, None)
                leads = False
            if leads:
                self.replicator.advance_commit()
            self.__applyLogEntries()
            if leads:
                self.replicator.send(now)
            else:
                self.follower.send_ack()
            if self.receiver is not None:
                self.receiver.review()
        self.journal.flush()

    def next_deadline(self) -> float:
        if not self.participating:
            return float("inf")
        return self.replicator.next_deadline() if self.role is Role.LEADER else self.elections.next_deadline()

    def __applyLogEntries(self) -> bool:
        """Nothing is applied in the tick: what may be is handed out, and the applier takes it at its own pace."""
        index = min(self.commit_index, self.journal.durable_index)
        if index > self.handed_out_index:
            self.handed_out_index = index
            self._on_advance()
        return False

    def __sendAppendEntries(self) -> None:
        """Called at the begin of a leader's term."""
        self.replicator.send(self.clock.monotonic())

    def __onBecomeLeader(self) -> None:
        self.replicator.term_began()
        self.barrier.term_began()
        super().__onBecomeLeader()

    def _start_snapshot(self, name: str) -> None:
        if self.sender is not None:
            self.sender.start(name)

    def _on_snapshot_begin(self, message: SnapshotBegin) -> None:
        if self.receiver is not None:
            self.receiver.on_begin(message)

    def _on_snapshot_chunk(self, message: SnapshotChunk) -> None:
        if self.receiver is not None:
            self.receiver.on_chunk(message)

    def _on_snapshot_ack(self, name: str, message: SnapshotAck) -> None:
        if self.sender is not None:
            self.sender.on_ack(name, message)

    # -- what the library would do with pickle, fork or files ------------------------------------------------------

    def _checkCommandsToApply(self) -> None:
        """Commands do not queue here: they enter the log at once, or not at all."""

    def __tryLogCompaction(self) -> None:
        """The database is the snapshot; the journal is cut when its owner says what was flushed."""

    def __loadDumpFile(self, clearJournal: bool) -> None:
        raise NotImplementedError("snapshots are installed by the snapshot receiver")

    def __doApplyCommand(self, command: bytes) -> None:
        raise NotImplementedError("entries are applied by the owner of the database")

    def __changeCluster(self, request: object) -> bool:
        return False

    def __doChangeCluster(self, request: object, reverse: bool = False) -> bool:
        return False
