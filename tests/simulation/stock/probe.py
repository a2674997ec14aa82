"""Listens to one stock node, and notes what it does to its log against the rules of Raft."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from tests.simulation.stock.watcher import LogWatcher

if TYPE_CHECKING:
    from tests.simulation.stock.members import Register, StockMember

FALSE_ACK, WIPE, LIVELOCK, TORN, BAD_DUMP, CUT, UNSYNCED = "B1", "B2", "B4", "B7", "B10", "B11", "B13"
OLD_SNAPSHOT = "an older snapshot"


class Probe:
    """For as long as one process lives."""

    def __init__(self, member: StockMember, watcher: LogWatcher) -> None:
        self.member = member
        self.watcher = watcher
        self.name = member.name
        # index -> term of what the journal holds, as far as this process has come with changing it.
        self.held = member.held
        self._handled: Any = None
        self._commit_before = 0
        self._cut: dict[int, int] = {}
        self._shrinking = False
        self._loading = True
        self._wiped: dict[int, int] = {}
        self._led_term = 0
        self._commit = self._applied = 0
        self.journal: Any = None

    # -- the journal -----------------------------------------------------------------------------------------------

    def opened(self, journal: Any) -> None:
        """The node has read its journal: does it hold what the last process left in it?"""
        self.journal = journal
        found = {entry[1]: entry[2] for entry in journal[:]}
        self._compacted = min(self.held, default=0)
        gone = {index: term for index, term in self.held.items() if found.get(index) != term}
        if gone:
            bug = UNSYNCED if self.member.lost_power else self.member.interrupted or "a journal that forgets"
            self.watcher.lost(self.name, bug, gone)
            what = f"{self.name} starts with a journal that lost {min(gone)} to {max(gone)}"
            self.watcher.trace(self.name, f"{bug}: {what}")
            if any(self.watcher.is_committed(index, term) for index, term in gone.items()):
                self.watcher.note(bug, what)
        self.held.clear()
        self.held.update(found)
        made_up = [index for index, term in found.items() if index > 1 and (index, term) not in self.watcher.written]
        if made_up:
            self.member.broken = TORN
            self.watcher.note(TORN, f"{self.name} reads {made_up[0]}, which nobody wrote, from its journal")
        self.member.lost_power, self.member.interrupted = False, ""
        for name in ("add", "clear", "deleteEntriesFrom", "deleteEntriesTo"):
            original, changed = getattr(journal, name), getattr(self, "_" + name)
            setattr(journal, name, lambda *args, original=original, changed=changed: changed(original, *args))

    def _add(self, original: Any, command: Any, index: int, term: int) -> None:
        original(command, index, term)
        if not self._shrinking:
            self.held[index] = term
            self.watcher.holds(self.name, index, term)

    def _clear(self, original: Any) -> None:
        if not self._shrinking:
            self._wiped = dict(self.held)
            self.held.clear()
        original()

    def _deleteEntriesFrom(self, original: Any, position: int) -> None:
        cut = {entry[1]: entry[2] for entry in self.journal[position:]}
        entries = (self._handled or {}).get("entries", [])
        if not any(cut.get(entry[1], entry[2]) != entry[2] for entry in entries):
            self._cut = cut
            self.watcher.lost(self.name, CUT, cut)
        for index in cut:
            self.held.pop(index, None)
        original(position)

    def _deleteEntriesTo(self, original: Any, position: int) -> None:
        first = self.journal[position][1] if position < len(self.journal) else 1 << 62
        for index in [index for index in self.held if index < first]:
            del self.held[index]
        self._shrinking, self.member.interrupted = True, WIPE
        original(position)
        self._shrinking, self.member.interrupted = False, ""

    # -- ticks -----------------------------------------------------------------------------------------------------

    def applying(self, node: Register, command: bytes) -> None:
        index = node.raftLastApplied + 1
        term = self.held.get(index, 0)
        self.watcher.applies(self.name, index, term, zlib.crc32(command))

    def ticked(self, node: Register) -> None:
        if self._loading:
            self._loading = False
            self._check_wiped(node)
        self._check_progress(node)
        if node._isLeader() and node.raftCurrentTerm != self._led_term:
            self._led_term = node.raftCurrentTerm
            self.member.rejections.clear()
            self.watcher.elected(self.name, self._led_term, self.held.get, self.journal[0][1])

    def _check_progress(self, node: Register) -> None:
        commit, applied = node.raftCommitIndex, node.raftLastApplied
        if commit < self._commit:
            self.watcher.commit_fell(self.name, self._commit, commit)
        if applied < self._applied:
            self.watcher.note(OLD_SNAPSHOT, f"{self.name} goes back from {self._applied} to {applied}")
        self._commit, self._applied = commit, applied

    def _check_wiped(self, node: Register) -> None:
        """The dump was loaded: did the journal go with it?"""
        if node.raftLastApplied == 1:
            bug = UNSYNCED
            if self.member.has_dump:
                bug = self.member.broken = BAD_DUMP
                self.watcher.note(BAD_DUMP, f"{self.name} has a dump that it does not read, and goes on without")
            firsts = self.watcher.firsts
            covered = [index for index in range(2, self._compacted) if index in firsts and index not in self.held]
            self.watcher.lost(self.name, bug, {index: firsts[index].term for index in covered})
        last = self.journal[-1][1]
        wiped = {index: term for index, term in self._wiped.items() if index > last}
        if wiped:
            self.watcher.lost(self.name, WIPE, wiped)
            what = f"{self.name} starts from its dump of {last} and clears {min(wiped)} to {max(wiped)}"
            self.watcher.trace(self.name, what)
            if any(self.watcher.is_committed(index, term) for index, term in wiped.items()):
                self.watcher.note(WIPE, what)

    # -- messages --------------------------------------------------------------------------------------------------

    def before(self, sender: Any, message: Any) -> None:
        self._handled, self._cut, self._wiped = message, {}, {}
        self._commit_before = self.member.register.raftCommitIndex
        if message["type"] == "next_node_idx" and message["reset"]:
            self._rejected(sender.id, message["next_node_idx"])

    def after(self, sender: Any, message: Any) -> None:
        self._handled = None
        if message["type"] != "append_entries":
            return
        if "prevLogIdx" not in message:
            self._check_replaced()
            self._check_unverified(sender.id)
        cut = {index: term for index, term in self._cut.items() if self.held.get(index) != term}
        committed = [index for index, term in cut.items() if self.watcher.is_committed(index, term)]
        if committed:
            what = f"{self.name} cuts {min(committed)} to {max(committed)}, which are committed, without a conflict"
            self.watcher.note(CUT, what)
        self._check_progress(self.member.register)

    def _check_replaced(self) -> None:
        """A snapshot came in place of the journal: did it hold as much?"""
        if self._wiped:
            self.watcher.got_snapshot(self.name, self.journal[-1][1])
        gone = range(self.journal[-1][1] + 1, max(self._wiped, default=0) + 1)
        terms = {index: self._wiped.get(index) or self._first_term(index) for index in gone}
        self.watcher.lost(self.name, OLD_SNAPSHOT, {index: term for index, term in terms.items() if term is not None})

    def _check_unverified(self, leader: str) -> None:
        """A message without entries says nothing about ours: those that the leader has not must not be committed."""
        commit = self.member.register.raftCommitIndex
        theirs = self.member.held_by(leader)
        wrong = [
            index
            for index in range(self._commit_before + 1, commit + 1)
            if index in self.held and self.held[index] != theirs.get(index, self._first_term(index))
        ]
        if wrong:
            self.watcher.committed_wrongly(self.name, FALSE_ACK, wrong)
            self.watcher.note(FALSE_ACK, f"{self.name} takes {wrong[0]} to {wrong[-1]} for committed, unverified")

    def _first_term(self, index: int) -> int | None:
        first = self.watcher.firsts.get(index)
        return first.term if first is not None else None

    def _rejected(self, follower: str, next_index: int) -> None:
        """Back off and forward again: two rejections, and no entry of the follower's was ever found to match."""
        before = self.member.rejections.get(follower)
        self.member.rejections[follower] = next_index
        if before is not None and next_index > before:
            self.member.thrown_forward[follower] += 1
