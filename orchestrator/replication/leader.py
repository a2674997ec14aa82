"""The leader's side of replication: who gets which entries when, what their acknowledgements mean, what is committed.

Promises: an entry is sent to a follower once per connection; bytes in flight are bounded; `next_index` never goes
back because of a late acknowledgement; an index is committed only with an entry of the current term that a majority
holds durably, this node's own copy included only as far as it is durable.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.replication.barrier import ReadBarrier
from orchestrator.replication.frames import Ack, CommitNotice, EncodedAppend, Heartbeat, Reject, wire_entry
from orchestrator.replication.segment import WIRE_OVERHEAD_BYTES, Record
from orchestrator.replication.state import Role, SyncObj

logger = logging.getLogger(__name__)


class Mode(enum.Enum):
    PROBE = "probe"  # where the logs agree is not known: one small message at a time
    REPLICATE = "replicate"  # entries stream, many in flight
    SNAPSHOT = "snapshot"  # the journal no longer holds what it needs


@dataclass(slots=True)
class Progress:
    mode: Mode = Mode.PROBE
    probed_at: float | None = None
    # (last index, bytes) of each message on its way, and their sum.
    in_flight: deque[tuple[int, int]] = field(default_factory=deque)
    in_flight_bytes: int = 0
    reading: bool = False
    # Read back from disk, to be sent next.
    read_ahead: list[Record] = field(default_factory=list)
    commit_sent: int = 0

    def forget_flight(self) -> None:
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self.probed_at = None

    def landed(self, index: int) -> None:
        while self.in_flight and self.in_flight[0][0] <= index:
            self.in_flight_bytes -= self.in_flight.popleft()[1]


class Replicator:
    def __init__(
        self,
        raft: SyncObj,
        barrier: ReadBarrier,
        start_snapshot: Callable[[str], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._raft = raft
        self._barrier = barrier
        self._start_snapshot = start_snapshot
        self._on_error = on_error
        self.progress: dict[str, Progress] = {name: Progress() for name in raft.peers}
        self._heartbeat_at = 0.0
        # When followers are to be told of the commit index, if nothing else tells them first.
        self._notice_at: float | None = None
        # A majority was heard so lately that nobody has to look before this.
        self._contact_until = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()

    # -- role and connections ------------------------------------------------------------------------------------

    def term_began(self) -> None:
        """Called before the first entry of this node's own term is sent."""
        self.progress = {name: Progress() for name in self._raft.peers}
        self._heartbeat_at = 0.0
        self._notice_at = None
        self._contact_until = float("-inf")

    def peers_changed(self, renewed: set[str]) -> None:
        """Another configuration is in force; of `renewed` peers nothing is known any more."""
        kept = {name: progress for name, progress in self.progress.items() if name not in renewed}
        self.progress = {name: kept.get(name) or Progress() for name in self._raft.peers}
        self._contact_until = float("-inf")
        now = self._raft.clock.monotonic()
        if self._raft.role is Role.LEADER:
            for name in sorted(self.progress.keys() - kept.keys()):
                # Nothing was heard of it yet, and nothing counts on it before it has caught up.
                self._raft.contacted(name)
        self._heartbeat_at = min(self._heartbeat_at, now)

    def peer_connected(self, name: str) -> None:
        """What was in flight on the old connection may be lost: ask the follower where it stands."""
        if name not in self.progress:
            return
        transferring = self.progress[name].mode is Mode.SNAPSHOT
        self.progress[name] = Progress(mode=Mode.SNAPSHOT if transferring else Mode.PROBE)
        raft = self._raft
        if raft.role is Role.LEADER:
            raft.set_next_index(name, raft.last_index + 1)
            self._heartbeat_at = 0.0

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    # -- sending -------------------------------------------------------------------------------------------------

    def send(self, now: float) -> None:
        """At most one message of entries to each follower; heartbeats when due or when readers wait."""
        raft = self._raft
        heartbeat = self._barrier.begin()
        if now >= self._heartbeat_at:
            heartbeat = True
            self._heartbeat_at = now + raft.settings.heartbeat_interval_ms / 1000
        for name in raft.peers:
            if not raft.connected(name):
                continue
            if heartbeat:
                self._send_heartbeat(name)
            self._send_entries(name, now)
        self._send_notices(now)

    def next_deadline(self) -> float:
        return self._heartbeat_at if self._notice_at is None else min(self._heartbeat_at, self._notice_at)

    def _send_heartbeat(self, name: str) -> None:
        raft = self._raft
        self.progress[name].commit_sent = raft.commit_index
        raft.send(name, Heartbeat(raft.term, raft.commit_index, self._barrier.round))

    def _send_notices(self, now: float) -> None:
        raft = self._raft
        commit_index = raft.commit_index
        behind = [
            name
            for name, progress in self.progress.items()
            if progress.commit_sent < commit_index and raft.connected(name)
        ]
        if not behind:
            self._notice_at = None
        elif self._notice_at is None:
            self._notice_at = now + raft.settings.commit_notice_ms / 1000
        elif now >= self._notice_at:
            self._notice_at = None
            for name in behind:
                self.progress[name].commit_sent = commit_index
                raft.send(name, CommitNotice(raft.term, commit_index))

    def _send_entries(self, name: str, now: float) -> None:
        raft, progress = self._raft, self.progress[name]
        settings = raft.settings
        next_index = raft.next_index(name)
        if progress.mode is Mode.SNAPSHOT or progress.reading:
            return
        if next_index > raft.last_index and (
            progress.mode is Mode.REPLICATE or raft.match_index(name) == raft.last_index
        ):
            return
        if progress.mode is Mode.PROBE:
            # Asked again only after a long silence: the follower may have been busy with something else.
            if progress.probed_at is not None and now < progress.probed_at + settings.election_timeout_max_ms / 1000:
                return
        elif progress.in_flight_bytes >= settings.in_flight_bytes_max:
            return
        prev_term = raft.journal.term_at(next_index - 1)
        if prev_term is None:
            progress.mode = Mode.SNAPSHOT
            progress.forget_flight()
            self._start_snapshot(name)
            return
        records = self._records(name, progress, next_index) if next_index <= raft.last_index else []
        if not records and next_index <= raft.last_index:
            return
        message = EncodedAppend(
            raft.term, next_index - 1, prev_term, raft.commit_index, [wire_entry(record) for record in records]
        )
        if not raft.send(name, message):
            return
        progress.commit_sent = raft.commit_index
        if progress.mode is Mode.PROBE:
            progress.forget_flight()
            progress.probed_at = now
        if not records:
            return
        size = sum(len(record.data) + WIRE_OVERHEAD_BYTES for record in records)
        progress.in_flight.append((records[-1].index, size))
        progress.in_flight_bytes += size
        if progress.mode is Mode.PROBE:
            return
        raft.set_next_index(name, records[-1].index + 1)
        if records[-1].index < raft.last_index:
            raft.wake()

    def _records(self, name: str, progress: Progress, start: int) -> list[Record]:
        settings = self._raft.settings
        limit = settings.probe_bytes_max if progress.mode is Mode.PROBE else settings.batch_bytes_max
        read_ahead, progress.read_ahead = progress.read_ahead, []
        if (
            read_ahead
            and read_ahead[0].index == start
            and self._raft.journal.term_at(read_ahead[-1].index) == read_ahead[-1].term
        ):
            return read_ahead
        cached = self._raft.journal.cached(start, limit)
        if cached is None:
            progress.reading = True
            task = asyncio.get_running_loop().create_task(self._read(name, progress, start, limit))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return []
        return cached

    async def _read(self, name: str, progress: Progress, start: int, limit: int) -> None:
        """Old entries come from disk, off the loop; only this follower waits for them."""
        try:
            progress.read_ahead = await self._raft.journal.read(start, limit)
        except Exception as error:  # noqa: BLE001 - an unreadable journal stops the node
            self._on_error(error)
        finally:
            progress.reading = False
            self._raft.wake()

    # -- answers -------------------------------------------------------------------------------------------------

    def on_ack(self, name: str, message: Ack) -> bool:
        """Only acknowledgements of the current term get here. Says whether it told nothing new, as most do."""
        raft, progress = self._raft, self.progress[name]
        raft.contacted(name)
        self._barrier.echoed(name, message.round)
        if message.match_index > raft.last_index:
            raise AssertionError(
                f"{name} acknowledges index {message.match_index}, but this leader's log ends at {raft.last_index}"
            )
        quiet = progress.mode is Mode.REPLICATE and self._changes_nothing(name, message.match_index)
        raft.raise_match_index(name, message.match_index)
        progress.landed(message.match_index)
        if progress.mode is Mode.SNAPSHOT:
            return quiet
        if message.match_index + 1 >= raft.next_index(name):
            # Up to there the logs agree: so what a probe carried is on its way, and will be taken.
            progress.mode = Mode.REPLICATE
            raft.set_next_index(name, max([message.match_index, *(last for last, _ in progress.in_flight)]) + 1)
        return quiet

    def _changes_nothing(self, name: str, match_index: int) -> bool:
        """Whether an acknowledgement neither commits anything nor makes room for what is to be sent."""
        raft = self._raft
        if match_index <= raft.match_index(name):
            return True
        # A learner's may make a member of it.
        return match_index <= raft.commit_index and raft.next_index(name) > raft.last_index and name in raft.voters

    def on_reject(self, name: str, message: Reject) -> None:
        raft, progress = self._raft, self.progress[name]
        raft.contacted(name)
        if progress.mode is Mode.SNAPSHOT:
            return
        if progress.mode is Mode.PROBE and message.prev_index != raft.next_index(name) - 1:
            return
        if message.prev_index <= raft.match_index(name):
            if progress.mode is Mode.REPLICATE:
                return
            self._lost(name, message)
        # The follower agrees at most up to the hint; of ours, skip everything of later terms in one step.
        agreed = raft.journal.last_index_with_term_at_most(
            min(message.hint_index, message.prev_index), message.hint_term
        )
        if message.hint_index < raft.journal.base_index:
            agreed = message.hint_index
        progress.mode = Mode.PROBE
        progress.forget_flight()
        progress.read_ahead = []
        raft.set_next_index(name, max(min(agreed + 1, message.prev_index), raft.match_index(name) + 1))

    def _lost(self, name: str, message: Reject) -> None:
        """What is asked now was acknowledged once: that disk did not keep it, and at its start this looked like a
        torn tail. Sent again it is as safe as before; to leave it so would be to count on a copy that is gone."""
        logger.error(
            "%s acknowledged entries up to %d, and now it has none after %d: its disk lost what was durable; "
            "they are sent again, but it should be replaced",
            name,
            self._raft.match_index(name),
            message.hint_index,
        )
        self._raft.forget_match_index(name)

    def snapshot_done(self, name: str, index: int | None) -> None:
        """The follower stands at `index` of the snapshot that was sent; None when the transfer failed."""
        progress = self.progress.get(name)
        if self._raft.role is not Role.LEADER or progress is None or progress.mode is not Mode.SNAPSHOT:
            return
        progress.mode = Mode.PROBE
        progress.forget_flight()
        if index is not None:
            self._raft.raise_match_index(name, index)
            self._raft.set_next_index(name, self._raft.match_index(name) + 1)
        self._raft.wake()

    # -- commit and quorum ---------------------------------------------------------------------------------------

    def advance_commit(self) -> None:
        raft = self._raft
        if raft.commit_index == raft.last_index:
            return
        matches = [raft.journal.durable_index, *[raft.match_index(name) for name in raft.other_voters]]
        matches.sort(reverse=True)
        index = matches[raft.majority - 1]
        if index > raft.commit_index and raft.journal.term_at(index) == raft.term:
            raft.commit_index = index

    def has_quorum_contact(self, now: float) -> bool:
        if now < self._contact_until:
            return True
        raft = self._raft
        timeout = raft.settings.election_timeout_max_ms / 1000
        # This node, and of the others those that were heard last.
        heard = sorted((raft.last_contact(name) for name in raft.other_voters), reverse=True)
        heard.insert(0, now)
        # Until then this goes on to hold, for whoever is heard is heard later and later.
        self._contact_until = heard[raft.majority - 1] + timeout
        return now < self._contact_until

    def reachable(self, now: float) -> set[str]:
        """Peers that answered within an election timeout, and this node."""
        raft = self._raft
        limit = now - raft.settings.election_timeout_max_ms / 1000
        return {raft.name} | {
            name for name in raft.peers if raft.connected(name) and raft.last_contact(name) > limit
        }

    def caught_up(self, name: str, index: int) -> bool:
        """Holds `index`, and lacks at most `learner_lag_entries_max` of what this leader has."""
        raft, progress = self._raft, self.progress[name]
        match = raft.match_index(name)
        close = match >= raft.last_index - raft.settings.learner_lag_entries_max
        return progress.mode is Mode.REPLICATE and match >= index and close
