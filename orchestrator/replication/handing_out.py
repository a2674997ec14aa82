"""Committed entries, handed out in order to whoever applies them; and the signal that something moved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.replication.core import SyncObj
from orchestrator.replication.errors import SnapshotInstalled, Stopped
from orchestrator.replication.segment import EntryKind
from orchestrator.replication.signal import Signal


@dataclass(frozen=True, slots=True)
class Entry:
    index: int
    term: int
    # COMMANDS, or an internal one, which only moves the index for whoever applies commands.
    kind: EntryKind
    data: bytes


class HandingOut(Signal):
    """The signal is given when the log, the role or the database moved, or this node stops."""

    def __init__(self, raft: SyncObj, is_stopped: Callable[[], bool]) -> None:
        super().__init__()
        self._raft = raft
        self._is_stopped = is_stopped
        # A snapshot replaced the database at this (index, term).
        self._installed: tuple[int, int] | None = None

    def snapshot_installed(self, index: int, term: int) -> None:
        self._installed = (index, term)

    async def committed(self, after: int, limit_bytes: int) -> list[Entry]:
        """See the log's."""
        raft = self._raft
        while True:
            if self._is_stopped():
                raise Stopped("the replicated log has stopped")
            if not raft.follower.installing:
                if self._installed is not None and after < self._installed[0]:
                    raise SnapshotInstalled(*self._installed)
                if after < raft.journal.base_index:
                    raise ValueError(
                        f"entries after {after} were flushed, and the journal begins after {raft.journal.base_index}"
                    )
                if after < raft.handed_out_index:
                    generation = self._installed
                    records = await raft.journal.read(after + 1, limit_bytes)
                    last = raft.handed_out_index
                    entries = [
                        Entry(record.index, record.term, EntryKind(record.kind), record.data)
                        for record in records
                        if record.index <= last
                    ]
                    if entries and generation == self._installed and not raft.follower.installing:
                        return entries
                    await asyncio.sleep(0)
                    continue
            await self.wait()
