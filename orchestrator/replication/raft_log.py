"""The journal and the hard state, in the shape in which PySyncObj wants its journal.

Position 0 is the base, the (index, term) that a snapshot or nothing at all stands for, so the log is never empty.
"""

from __future__ import annotations

import msgspec

from orchestrator.replication.hard_state import HardStateFile
from orchestrator.replication.journal import Journal

LogTuple = tuple[bytes, int, int]


class RaftLog:
    def __init__(self, journal: Journal, hard_state: HardStateFile, commit_index: int) -> None:
        self.journal = journal
        self.hard_state = hard_state
        self._commit_index = commit_index

    def add(self, command: bytes, index: int, term: int) -> None:
        """The library's commands begin with their type, which is our entry's kind."""
        self.journal.append(index, term, command[0], command[1:])

    def __len__(self) -> int:
        return self.journal.last_index - self.journal.base_index + 1

    def __getitem__(self, position: int) -> LogTuple:
        """Only the two ends are ever asked for this way; entries are read through the journal."""
        if position == -1:
            return b"", self.journal.last_index, self.journal.last_term
        if position == 0:
            return b"", self.journal.base_index, self.journal.base_term
        raise IndexError(f"position {position}: only the ends of the log are addressed by position")

    def deleteEntriesFrom(self, position: int) -> None:
        self.journal.truncate_from(self.journal.base_index + position)

    def getCurrentTerm(self) -> int:
        return self.hard_state.current.term

    def getVotedForNodeId(self) -> str | None:
        return self.hard_state.current.voted_for

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:
        current = self.hard_state.current
        self.hard_state.save(msgspec.structs.replace(current, term=term, voted_for=voted_for))

    def getRaftCommitIndex(self) -> int:
        return self._commit_index

    def setRaftCommitIndex(self, index: int) -> None:
        """Not kept: a new leader's no-op tells it again."""

    def onOneSecondTimer(self) -> None:
        """Nothing is due by the second."""

    def _destroy(self) -> None:
        """Closed by its owner."""
