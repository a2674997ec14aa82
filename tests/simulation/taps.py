"""Listens to a node's replicated log where a promise is given, and compares with what its platters hold.

A lost acknowledgement needs several misfortunes at once to show; the broken promise behind it shows by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c
import msgspec

from orchestrator.replication.frames import VoteReply
from orchestrator.replication.hard_state import HardState
from orchestrator.replication.log import EntryKind, ReplicatedLog, Role
from orchestrator.testing.disk import SimulatedDisk
from tests.simulation.watcher import Watcher

if TYPE_CHECKING:
    from orchestrator.replication.journal import Journal

HARD_STATE = "/data/raft/hard_state"


class LogTaps:
    """Put on one log, for as long as its process lives."""

    def __init__(self, holder: str, node: str, log: ReplicatedLog, disk: SimulatedDisk, watcher: Watcher) -> None:
        self._holder, self._node = holder, node
        self._log = log
        self._disk = disk
        self._watcher = watcher
        # What was cut last: (index, term).
        self._cut: tuple[int, int | None] | None = None
        self._committed_when_elected = 0
        raft: Any = log._core
        self._journal: Journal = raft.journal
        self._tap_journal(raft.journal)
        self._tap_transport(log._transport)
        first, last = self._journal.first_index, self._journal.last_index
        watcher.opened(holder, first - 1, {at: self._journal.term_at(at) or 0 for at in range(first, last + 1)})

    def elected(self) -> None:
        term, membership = self._log.term, self._log._membership
        self._committed_when_elected = self._log.commit_index
        durable = self._durable_state()
        if (durable.term, durable.voted_for) == (term, self._node):
            self._watcher.voted(self._holder, term, self._node)
        self._watcher.elected(self._holder, self._node, term, membership.configuration)

    def applied(self) -> None:
        """A leader commits by counting entries of its own term only."""
        commit = self._log.commit_index
        if self._log.role is Role.LEADER and commit > self._committed_when_elected:
            term = self._journal.term_at(commit)
            if term is not None and term != self._log.term:
                what = f"{self._node} leads term {self._log.term} and committed up to {commit}, of term {term}"
                self._watcher.violated(f"{what}, by counting")

    def _tap_journal(self, journal: Any) -> None:
        truncate_from, append = journal.truncate_from, journal.append

        def truncating(index: int) -> None:
            if index <= journal.last_index:
                self._cut = (index, journal.term_at(index))
                if index <= self._log.commit_index:
                    self._watcher.violated(f"{self._node} cuts index {index}, which it knows to be committed")
            truncate_from(index)

        def appending(index: int, term: int, kind: int, data: bytes) -> Any:
            if self._cut == (index, term):
                self._watcher.violated(f"{self._node} cut index {index} of term {term} without a conflict")
            self._cut = None
            if kind == EntryKind.CONFIGURATION:
                # In force at once, long before it is on any disk.
                self._watcher.configurations.wrote(index, term, data)
                if self._log.role is Role.LEADER:
                    self._change(term)
            return append(index, term, kind, data)

        journal.truncate_from, journal.append = truncating, appending

    def _change(self, term: int) -> None:
        """One change of the members at a time, and none before the term's own entries are committed."""
        commit, last = self._log.commit_index, self._log._membership.index
        if last > commit or self._journal.term_at(commit) != term:
            told = f"{self._node} changes the members in term {term}, when {commit} is committed"
            self._watcher.violated(f"{told}, of term {self._journal.term_at(commit)}, and the last change is {last}")

    def _tap_transport(self, transport: Any) -> None:
        send = transport.send

        def sending(node: Any, message: Any) -> bool:
            if isinstance(message, VoteReply) and message.granted:
                self._vote(node.id, message.term)
            return bool(send(node, message))

        transport.send = sending

    def _vote(self, candidate: str, term: int) -> None:
        self._watcher.voted(self._holder, term, candidate)
        state = self._durable_state()
        if (state.term, state.voted_for) != (term, candidate):
            told = f"{self._node} votes for {candidate} in term {term}"
            self._watcher.violated(f"{told}, and its disk says {state.voted_for} in {state.term}")

    def _durable_state(self) -> HardState:
        raw = self._disk.on_platters(HARD_STATE)
        state = HardState()
        if len(raw) > 4 and google_crc32c.value(raw[4:]).to_bytes(4, "big") == raw[:4]:
            state = msgspec.msgpack.decode(raw[4:], type=HardState)
        return state
