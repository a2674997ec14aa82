"""Opens what a node keeps on disk, and refuses to start when the pieces do not fit together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from orchestrator.replication import identity as identity_file
from orchestrator.replication.errors import JournalCorrupt
from orchestrator.replication.files import Files
from orchestrator.replication.hard_state import HardStateFile
from orchestrator.replication.identity import Identity
from orchestrator.replication.journal import Journal
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.worker import DiskQueue, WorkerFactory, call

DIRECTORY = "raft"


class DurableState:
    """Journal, hard state and identity on one ordered disk queue, with its worker; a second worker only reads."""

    def __init__(
        self,
        files: Files,
        data_dir: Path,
        identity: Identity,
        settings: RaftSettings,
        *,
        workers: WorkerFactory,
        on_durable: Callable[[], None],
        on_error: Callable[[BaseException], None],
        monotonic: Callable[[], float] = lambda: 0.0,
        on_sync_seconds: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.files = files
        self.data_dir = data_dir
        self.identity = identity
        self.directory = data_dir / DIRECTORY
        self.writer = workers(f"journal of {identity.node}")
        self.reader = workers(f"journal reader of {identity.node}")
        self.disk = DiskQueue(self.writer, on_error, monotonic, on_sync_seconds)
        self.hard_state = HardStateFile(files, self.directory, self.disk, on_durable)
        self.journal = Journal(
            files,
            self.directory,
            self.disk,
            self.reader,
            segment_bytes=settings.journal_segment_bytes,
            cache_bytes=settings.journal_cache_bytes,
            on_durable=on_durable,
        )

    async def open(self, applied_index: int, applied_term: int) -> None:
        if applied_index == 0 and applied_term != 0:
            raise ValueError("a database at index 0 has applied nothing: its term must be 0")
        await call(self.reader, lambda: self._load(applied_index))
        await self._reconcile(applied_index, applied_term)
        if self.hard_state.durable.configuration is not None:
            self.mark_formed()

    def _load(self, applied_index: int) -> None:
        journal_found = self.files.exists(self.directory) and any(
            name.endswith(".journal") for name in self.files.listdir(self.directory)
        )
        hard_state_found = self.files.exists(self.directory) and self.hard_state.load()
        formed = self.identity.formed or self.hard_state.durable.configuration is not None or applied_index > 0
        if formed and not (journal_found and hard_state_found):
            raise JournalCorrupt(
                f"this node is a member of a formed cluster, but {self.directory} lacks its "
                f"{'hard state' if journal_found else 'journal'}: entries or votes it gave would be forgotten, "
                "so it must not start"
            )
        self.journal.open()
        if not hard_state_found and self.journal.last_index > 0:
            raise JournalCorrupt(f"{self.directory} has a journal but no hard state")
        if self.hard_state.durable.term < self.journal.last_term:
            # A term is durable before any entry of it.
            raise JournalCorrupt(
                f"{self.directory} has entries of term {self.journal.last_term}, and a hard state of term "
                f"{self.hard_state.durable.term}: that one is old, and votes given since are forgotten"
            )

    async def _reconcile(self, applied_index: int, applied_term: int) -> None:
        journal = self.journal
        if applied_index < journal.base_index:
            raise JournalCorrupt(
                f"the database stands at index {applied_index}, but the journal begins after "
                f"{journal.base_index}: what lies between is missing"
            )
        if journal.term_at(applied_index) != applied_term:
            # The database only ever holds what is committed, and what was in this journal: unless a snapshot was
            # installed, and the journal has not moved yet.
            if self.hard_state.durable.installing != (applied_index, applied_term):
                raise JournalCorrupt(
                    f"the database stands at index {applied_index} of term {applied_term}, and the journal ends at "
                    f"{journal.last_index} of term {journal.last_term}: it has lost entries that this node "
                    "acknowledged"
                )
            journal.reset(applied_index, applied_term)
            await self.disk.drain()
        self.installed()

    async def installing(self, index: int, term: int) -> None:
        """A snapshot's database is about to be put in place; durable when this returns."""
        self._save_installing((index, term))
        await self.disk.drain()

    def installed(self) -> None:
        """The journal begins where the database stands, durably."""
        self._save_installing(None)

    def _save_installing(self, snapshot: tuple[int, int] | None) -> None:
        self.hard_state.save(msgspec.structs.replace(self.hard_state.current, installing=snapshot))

    def mark_formed(self) -> None:
        if not self.identity.formed:
            self.identity = msgspec.structs.replace(self.identity, formed=True)
            identity = self.identity
            self.disk.add(lambda: identity_file.save(self.files, self.data_dir, identity))
            self.disk.kick()

    async def close(self) -> None:
        """Everything queued becomes durable first."""
        try:
            await self.disk.drain()
        finally:
            self.abort()

    def abort(self) -> None:
        """Lets a running write finish, drops the rest."""
        self.writer.close()
        self.reader.close()
        self.journal.close()
