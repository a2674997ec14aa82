"""The follower's side of replication: what is taken into the log, and what is acknowledged when.

Promises: entries go only where the leader's do not agree, and never at or below the commit index; nothing is
acknowledged before it, and the term it is acknowledged in, are durable; the commit index follows the leader's only
over entries that were checked against this leader's log.
"""

from __future__ import annotations

from orchestrator.replication.frames import Ack, Append, CommitNotice, Heartbeat, Reject, WireEntry
from orchestrator.replication.state import SyncObj


class Follower:
    def __init__(self, raft: SyncObj) -> None:
        self._raft = raft
        self._term = 0
        self._leader: str | None = None
        # Up to here the log is known to be the leader's of `_term`.
        self._verified = 0
        self._leader_commit = 0
        self._round = 0
        self._acked = -1
        self._ack_due = False
        # While a snapshot replaces the database, the log must not move; the end of what came meanwhile.
        self.installing = False
        self._missed = 0

    def hear(self, term: int, leader: str) -> None:
        """Called for every message of the leader of `term`, before the message itself."""
        if (term, leader) != (self._term, self._leader):
            self._term, self._leader = term, leader
            # Whatever is committed is in every later leader's log.
            self._verified = self._raft.commit_index
            self._leader_commit = 0
            self._round = 0
            self._acked = -1
            self._missed = 0

    def on_heartbeat(self, message: Heartbeat) -> None:
        self._round = max(self._round, message.round)
        self._ack_due = True
        self._follow_commit(message.commit_index)

    def on_notice(self, message: CommitNotice) -> None:
        self._follow_commit(message.commit_index)

    def on_append(self, message: Append) -> None:
        raft = self._raft
        prev_index, entries = message.prev_index, message.entries
        if self.installing:
            self._missed = max(self._missed, prev_index + len(entries))
            return
        if prev_index > raft.last_index or (
            prev_index > raft.commit_index and raft.journal.term_at(prev_index) != message.prev_term
        ):
            self._reject(message)
            return
        last = prev_index + len(entries)
        self._take(prev_index, entries)
        if last <= raft.last_index:
            self._verified = max(self._verified, last)
        self._follow_commit(message.commit_index)
        # Not acknowledged by its durability if it brought nothing new.
        self._ack_due = self._ack_due or raft.journal.durable_index >= last

    def _take(self, prev_index: int, entries: list[WireEntry]) -> None:
        raft = self._raft
        index = prev_index
        for entry in entries:
            index += 1
            term = raft.journal.term_at(index)
            if index <= raft.commit_index:
                if term not in (None, entry.term):
                    raise AssertionError(
                        f"the leader's entry {index} is of term {entry.term}, but term {term} was committed here"
                    )
                continue
            if term is not None:
                if term == entry.term:
                    continue
                raft.journal.truncate_from(index)
            raft.journal.append(index, entry.term, entry.kind, entry.data)

    def _reject(self, message: Append) -> None:
        raft = self._raft
        hint = raft.journal.last_index_with_term_at_most(message.prev_index, message.prev_term)
        self._send_reject(message.prev_index, max(hint, min(raft.commit_index, raft.last_index)))

    def _send_reject(self, prev_index: int, hint: int) -> None:
        raft = self._raft
        raft.send(str(self._leader), Reject(raft.term, prev_index, hint, raft.journal.term_at(hint) or 0))

    def _follow_commit(self, leader_commit: int) -> None:
        self._leader_commit = max(self._leader_commit, leader_commit)
        commit = min(self._leader_commit, self._verified)
        if commit > self._raft.commit_index:
            self._raft.commit_index = commit

    def stands_at(self, index: int) -> None:
        """A snapshot was installed: up to `index` everything is committed, and durable."""
        self._verified = max(self._verified, index)
        self._ack_due = True
        self._follow_commit(self._leader_commit)
        if self._missed > index and self._follows():
            # The leader takes it for being on its way, and would wait.
            self._send_reject(self._missed, self._raft.commit_index)
        self._missed = 0

    def _follows(self) -> bool:
        raft = self._raft
        return self._leader is not None and raft.leader == self._leader and raft.term == self._term

    def send_ack(self) -> None:
        raft = self._raft
        if self._leader is None or not self._follows():
            return
        match = min(self._verified, raft.journal.durable_index)
        if match <= self._acked and not self._ack_due:
            return
        if raft.hard_state.durable.term < self._term:
            return
        self._ack_due = False
        self._acked = match
        raft.send(self._leader, Ack(self._term, match, self._round))
