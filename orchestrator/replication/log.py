"""The replicated log as the rest of the server sees it: append on the leader, read what is committed on every node.

Promises: an entry that `committed` returns is fsynced on a majority and in this node's own journal, and every node
gets the same entries at the same indexes, each index once and in order, internal ones included. `append` promises
nothing by itself: the caller knows its entry took effect when `committed` returns (index, term) with its own term.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Container
from pathlib import Path

from orchestrator.replication import configuration as configurations
from orchestrator.replication.alarm import Alarm
from orchestrator.replication.changes import MembershipChanges
from orchestrator.replication.configuration import Member
from orchestrator.replication.core import SyncObj
from orchestrator.replication.durable import DurableState
from orchestrator.replication.errors import EntryTooLarge, NotLeader, Stopped
from orchestrator.replication.files import Files
from orchestrator.replication.frames import GossipValue
from orchestrator.replication.gossip import Gossiper
from orchestrator.replication.handing_out import Entry, HandingOut
from orchestrator.replication.handover import hand_over
from orchestrator.replication.identity import Identity
from orchestrator.replication.in_step import InStep
from orchestrator.replication.log_knowledge import LogKnowledge
from orchestrator.replication.membership import Membership, Standing
from orchestrator.replication.ports import Clock, Network, SnapshotSink, SnapshotSource, TcpNetwork
from orchestrator.replication.raft_log import RaftLog
from orchestrator.replication.release import THIS_RELEASE, Release
from orchestrator.replication.segment import EntryKind
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.signal import Signal
from orchestrator.replication.snapshot_receiver import SnapshotReceiver
from orchestrator.replication.snapshots import SnapshotSender
from orchestrator.replication.state import Role
from orchestrator.replication.status import PeerStatus, Status
from orchestrator.replication.tls import TlsContexts
from orchestrator.replication.transport import PeerTransport
from orchestrator.replication.worker import WorkerFactory, thread_worker

logger = logging.getLogger(__name__)

__all__ = ["KIND_COMMAND", "KIND_NO_OP", "Entry", "EntryKind", "PeerStatus", "ReplicatedLog", "Role", "Status"]

KIND_COMMAND = EntryKind.COMMANDS
KIND_NO_OP = EntryKind.NO_OP

# Between deadlines the node looks after its connections about this often.
IDLE_TICK_S = 0.05


class ReplicatedLog(LogKnowledge):
    def __init__(
        self,
        *,
        identity: Identity,
        listen: tuple[str, int],
        settings: RaftSettings,
        files: Files,
        data_dir: Path,
        applied_index: int,
        applied_term: int,
        applied_configuration: bytes = b"",
        snapshot_source: SnapshotSource,
        snapshot_sink: SnapshotSink,
        on_role_change: Callable[[Role, int], None],
        on_fatal: Callable[[BaseException], None],
        clock: Clock,
        random: random.Random,
        network: Network | None = None,
        workers: WorkerFactory = thread_worker,
        tls: TlsContexts = (None, None),
        on_sync_seconds: Callable[[float], None] = lambda seconds: None,
        release: Release = THIS_RELEASE,
    ) -> None:
        self._identity = identity
        self._listen = listen
        self._settings = settings
        self._files = files
        self._data_dir = data_dir
        self._applied = (applied_index, applied_term)
        self._applied_configuration = applied_configuration
        self._source = snapshot_source
        self._sink = snapshot_sink
        self._on_role_change = on_role_change
        self._on_fatal = on_fatal
        self._clock = clock
        self._random = random
        self._network = network or TcpNetwork()
        self._workers = workers
        self._tls = tls
        self._on_sync_seconds = on_sync_seconds
        self._release = release
        self._raft: SyncObj | None = None
        self._tick_soon = False
        self._stopped = False
        self._transferring = False
        self._role: tuple[Role, int] | None = None
        # Given when another node leads, or none.
        self._leader_changed = Signal()
        self._gossip: dict[str, GossipValue] = {}

    # -- life ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Opens the journal and joins the cluster. Raises JournalCorrupt, OSError (address in use, disk)."""
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._wake)
        self._durable = DurableState(
            self._files,
            self._data_dir,
            self._identity,
            self._settings,
            workers=self._workers,
            on_durable=self._durable_moved,
            on_error=self.fail,
            monotonic=self._clock.monotonic,
            on_sync_seconds=self._on_sync_seconds,
        )
        try:
            await self._durable.open(*self._applied)
            self._assemble()
            await self._transport.start()
        except BaseException:
            self._stopped = True
            self._durable.abort()
            raise
        self._membership.decide()
        self._review_role()
        self._wake()

    def _assemble(self) -> None:
        durable = self._durable
        self._membership = Membership(
            self._identity,
            durable.hard_state,
            durable.journal,
            stored=configurations.decode_stored(self._applied_configuration, self._identity.members),
            on_formed=self._formed,
            on_announce=self._announce,
            release=self._release,
        )
        self._transport = PeerTransport(
            identity=self._identity,
            membership=self._membership,
            settings=self._settings,
            network=self._network,
            clock=self._clock,
            rng=self._random,
            listen=self._listen,
            server_tls=self._tls[0],
            client_tls=self._tls[1],
            on_refused=self._refused,
            on_error=self.fail,
        )
        self._gossiper = Gossiper(self._transport, self._clock, self._settings)
        self._gossiper.set(self._gossip)
        raft_log = RaftLog(durable.journal, durable.hard_state, self._applied[0])
        raft = self._raft = SyncObj(
            transport=self._transport,
            settings=self._settings,
            clock=self._clock,
            rng=self._random,
            log=raft_log,
            gossiper=self._gossiper,
            wake=self._wake,
            on_fatal=self.fail,
            on_advance=self._notify,
        )
        self._handing_out = HandingOut(raft, lambda: self._stopped)
        self._exchange_snapshots(raft)
        raft.on_transition = self._transition
        self._changes = MembershipChanges(
            raft,
            self._membership,
            self._gossiper,
            may_append=lambda: not self._transferring,
            is_stopped=lambda: self._stopped,
            wait=self._handing_out.wait,
            hand_over=self.transfer_leadership,
        )
        self._changes.follow()
        durable.journal.on_configuration = self._membership.refresh
        raft.participating = self._membership.standing is Standing.FORMED

    def _exchange_snapshots(self, raft: SyncObj) -> None:
        durable = self._durable
        self._in_step = InStep(
            raft,
            durable,
            self._membership,
            self._handing_out,
            identity=self._identity,
            settings=self._settings,
            flushed_index=self._applied[0],
            notify=self._notify,
            wake=self._wake,
        )
        raft.sender = SnapshotSender(raft, self._source, self._files, durable.reader, raft.replicator.snapshot_done)
        raft.receiver = SnapshotReceiver(
            raft,
            self._sink,
            self._files,
            self._data_dir,
            durable.reader,
            installing=self._in_step.installing,
            preparing=durable.installing,
            withdrawn=durable.installed,
            installed=self._in_step.snapshot_installed,
            on_error=self.fail,
        )
        raft.receiver.take_stock()

    async def stop(self) -> None:
        """Closes connections, makes durable what is queued, and ends the threads."""
        if self._stopped:
            return
        self._end()
        await self._transport.stop()
        await self._durable.close()

    def abort(self) -> None:
        """Ends as a killed process would: connections drop, what is not yet written is lost."""
        if self._stopped:
            return
        self._end()
        self._transport.abort()
        self._durable.abort()

    def _end(self) -> None:
        self._stopped = True
        raft = self._core
        self._alarm.cancel()
        raft.barrier.fail()
        raft.replicator.stop()
        if raft.sender is not None:
            raft.sender.cancel()
        if raft.receiver is not None:
            raft.receiver.cancel()
        self._leader_changed.notify()
        self._notify()

    def fail(self, error: BaseException) -> None:
        """This node must not go on: connections drop at once, no vote or acknowledgement goes out. Told once."""
        if self._stopped:
            return
        self._end()
        self._transport.abort()
        # The threads end with the loop's next turn: this may run on one of their callbacks.
        self._loop.call_soon(self._durable.abort)
        self._on_fatal(error)

    # -- driving ---------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._tick_soon and not self._stopped:
            self._tick_soon = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        if self._stopped or self._raft is None:
            self._tick_soon = False
            return
        raft = self._raft
        try:
            # What is durable at once is acknowledged in this very tick: it asks for no other one.
            raft.flush_first()
            self._tick_soon = False
            if self._stopped:
                return
            now = self._clock.monotonic()
            raft.tick(now)
            self._membership.committed_up_to(raft.commit_index)
            self._changes.promote()
            self._gossiper.tick(now)
            self._transport.drop_silent()
        except Exception as error:  # noqa: BLE001 - an invariant does not hold: stop rather than guess
            self.fail(error)
            return
        self._alarm.set(min(max(raft.next_deadline() - now, 0.001), IDLE_TICK_S))

    def _durable_moved(self) -> None:
        if self._raft is not None and not self._stopped:
            self._membership.decide()
            self._wake()

    def _formed(self) -> None:
        self._durable.mark_formed()
        self._core.participating = True
        self._core.defer_election()
        self._announce()

    def _announce(self) -> None:
        """This node's standing or its configuration is another one: raft, the peers and the owner are told."""
        self._changes.follow()
        self._transport.announce()
        self._review_role()
        self._wake()

    def _refused(self, name: str) -> None:
        if self._core.participating:
            self._core.elections.leader_refused(name)

    def _transition(self) -> None:
        raft = self._core
        if raft.role is not Role.LEADER:
            raft.barrier.fail()
            if raft.sender is not None:
                raft.sender.cancel()
        self._review_role()
        self._leader_changed.notify()
        self._notify()

    def _review_role(self) -> None:
        current = (self.role, self.term)
        if current != self._role:
            self._role = current
            self._on_role_change(*current)

    def _notify(self) -> None:
        if self._raft is not None:
            self._handing_out.notify()

    # -- the log -----------------------------------------------------------------------------------------------------

    def append(self, data: bytes) -> tuple[int, int]:
        """Leader only. Returns the entry's (index, term); it is committed when `committed` returns that pair.

        If another term appears at the index, the entry never took effect. Raises NotLeader, EntryTooLarge, Stopped.
        """
        raft = self._core
        if self._stopped:
            raise Stopped("the replicated log has stopped")
        if raft.role is not Role.LEADER or self._transferring:
            raise NotLeader(self.leader if raft.role is not Role.LEADER else None)
        if len(data) > self._settings.entry_bytes_max:
            raise EntryTooLarge(f"an entry of {len(data)} bytes is over the limit of {self._settings.entry_bytes_max}")
        record = raft.journal.append(raft.last_index + 1, raft.term, EntryKind.COMMANDS, data)
        self._wake()
        return record.index, record.term

    async def committed(self, after: int, limit_bytes: int = 1 << 20) -> list[Entry]:
        """Waits for entries after `after`, then returns the next ones in order: at least one, about `limit_bytes`.

        Raises SnapshotInstalled(index, term) when a snapshot replaced the database beyond `after`: go on from there.
        While one is being installed nothing is returned. Raises Stopped.
        """
        self._core  # noqa: B018 - raises before start
        return await self._handing_out.committed(after, limit_bytes)

    async def barrier(self) -> int:
        """A read index: what is applied up to there, with everything acknowledged before this call, is linearizable.

        Raises NotLeader, or LostLeadership when no quorum confirmed.
        """
        if self._stopped:
            raise Stopped("the replicated log has stopped")
        return await self._core.barrier.wait()

    def flushed(self, index: int) -> None:
        """The database is durable up to `index`: the journal below it may go, but for a tail for slow followers."""
        self._core  # noqa: B018 - raises before start
        if not self._stopped:
            self._in_step.flushed(index)

    # -- leadership ------------------------------------------------------------------------------------------------

    async def transfer_leadership(self, among: Container[str] | None = None) -> bool:
        """Hands over to the most caught-up follower, or that of a few; True when this node no longer leads.

        `append` raises NotLeader meanwhile. False when nobody took over within two election timeouts: it still leads.
        """
        raft = self._core
        if self._stopped or raft.role is not Role.LEADER or self._transferring:
            return False
        self._transferring = True
        try:
            rather_not = {name for name, said in self.peer_gossip().items() if said.get("stands_back")}
            return await hand_over(raft, self._handing_out.wait, among, rather_not)
        finally:
            self._transferring = False

    async def wait_leader(self, timeout_s: float) -> str | None:
        """Who leads, once this node knows; None if it hears of nobody for so long, or stops."""
        deadline = self._loop.time() + timeout_s
        while self.leader is None and not self._stopped and (left := deadline - self._loop.time()) > 0:
            await self._leader_changed.wait(left)
        return self.leader

    def stand_back(self, why: str, does: bool) -> None:
        """Whether this node leaves the lead to others, for this reason; one that leads goes on until it hands over."""
        self._core.elections.stand_back(why, does)

    # -- members ---------------------------------------------------------------------------------------------------

    async def add_member(self, name: str, incarnation: str, address: str) -> None:
        """Admits a node as a learner; committed when it returns. It becomes a member by itself once it caught up.

        Raises MembershipError or NotLeader, LostLeadership (certain: no effect), OutcomeUnknown: then ask again.
        """
        self._core  # noqa: B018 - raises before start
        await self._changes.add(name, Member(incarnation, address))

    async def remove_member(self, name: str) -> None:
        """As `add_member`. A leader that is to go hands over, and raises NotLeader: ask the next one."""
        self._core  # noqa: B018 - raises before start
        await self._changes.remove(name)

    async def replace_member(self, name: str, incarnation: str, address: str | None = None) -> None:
        """As `add_member`, in the place of the member of this name, and at its address unless one is given."""
        self._core  # noqa: B018 - raises before start
        await self._changes.replace(name, incarnation, address)

    # -- gossip ------------------------------------------------------------------------------------------------------

    def set_gossip(self, facts: dict[str, GossipValue]) -> None:
        """What this node tells all others about itself; replaces what it said before."""
        self._gossip = dict(facts)
        if self._raft is not None:
            self._gossiper.set(facts)
