"""The journal and the database kept in step: what is flushed may leave the one, a snapshot replaces both."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.replication import configuration as configurations
from orchestrator.replication.core import SyncObj
from orchestrator.replication.durable import DurableState
from orchestrator.replication.handing_out import HandingOut
from orchestrator.replication.identity import Identity
from orchestrator.replication.membership import Membership
from orchestrator.replication.settings import RaftSettings


class InStep:
    def __init__(
        self,
        raft: SyncObj,
        durable: DurableState,
        membership: Membership,
        handing_out: HandingOut,
        *,
        identity: Identity,
        settings: RaftSettings,
        flushed_index: int,
        notify: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self._raft = raft
        self._durable = durable
        self._membership = membership
        self._handing_out = handing_out
        self._identity = identity
        self._settings = settings
        self._notify = notify
        self._wake = wake
        self.flushed_index = flushed_index

    def flushed(self, index: int) -> None:
        """See the log's."""
        self.flushed_index = max(self.flushed_index, index)
        raft = self._raft
        limit = self.flushed_index
        pinned = raft.sender.pinned_index() if raft.sender is not None else None
        if pinned is not None:
            limit = min(limit, pinned)
        journal = raft.journal
        journal.remove_below(
            journal.removable_below(limit, self._settings.journal_tail_entries, self._settings.journal_tail_bytes)
        )
        self._durable.disk.kick()

    def installing(self, busy: bool) -> None:
        """A snapshot is about to replace the database, or was, or could not."""
        self._raft.follower.installing = busy
        if not busy:
            self._notify()

    async def snapshot_installed(self, index: int, term: int, configuration: bytes = b"") -> None:
        """The database is the snapshot: the journal goes on from there."""
        raft = self._raft
        # First, so that no older one is in force for a moment when the journal forgets its own.
        self._membership.snapshot_installed(configurations.decode_stored(configuration, self._identity.members))
        self._handing_out.snapshot_installed(index, term)
        if raft.journal.term_at(index) != term:
            raft.journal.reset(index, term)
        await self._durable.disk.drain()
        self._durable.installed()
        self.flushed_index = max(self.flushed_index, index)
        if index > raft.commit_index:
            raft.commit_index = index
        raft.follower.stands_at(index)
        self._wake()
