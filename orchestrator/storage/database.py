"""The node's database: one connection that writes, a few that read, and none of them in the loop.

Reads of an execution see everything that was staged before the read was asked for, committed or not. An error of the
database is never hidden: what was read is what was written, or the call raises.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import apsw

from orchestrator.engine.model import ExecutionKey
from orchestrator.storage import schema
from orchestrator.storage.errors import DatabaseCorrupt, DiskFailed, StorageClosed, StorageError
from orchestrator.storage.files import DatabaseFiles, RealFiles
from orchestrator.storage.lanes import Lane, LaneFactory, ThreadLane, run_in
from orchestrator.storage.names import Names, count_names, read_names
from orchestrator.storage.reading import LoadedExecutions, StoredRow, lay_over, read_executions, read_residents
from orchestrator.storage.schema import Applied, Identity
from orchestrator.storage.staged import Batch, Change, Overlay
from orchestrator.storage.stamps import write_stamp
from orchestrator.storage.writing import Committed, Writer

T = TypeVar("T")

_EXECUTIONS_PER_READ = 256
# Between two pages of names: nobody waits for them, and the loop has other things to do.
_NAMES_PAUSE_SECONDS = 0.01
_SCRUB_CACHE_BYTES = 1 << 20


@dataclass(frozen=True)
class DatabaseSettings:
    cache_bytes: int = 64 << 20  # of the writer; each reader has a quarter
    readers: int = 2  # of executions
    wal_pages: int = 2000  # moved into the database file at this number
    wal_bytes_kept: int = 64 << 20  # a log that grew while a copy was made shrinks to this
    check_on_open: bool = False  # reads every page: seconds per gigabyte


class Reader:
    """A connection and the lane it is used in."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.connection: apsw.Connection | None = None

    @property
    def opened(self) -> apsw.Connection:
        if self.connection is None:
            raise StorageClosed("the database is closed")
        return self.connection

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class _Request:
    def __init__(self, key: ExecutionKey, staged: list[tuple[int, list[Change]]]) -> None:
        self.key = key
        self.staged = staged
        self.future: asyncio.Future[list[StoredRow]] = asyncio.get_running_loop().create_future()

    def answer(self, rows: list[StoredRow], applied_index: int) -> None:
        if self.future.done():
            return
        for index, staged in self.staged:
            # What was committed before the read is in it already, and may have been changed since.
            if index > applied_index:
                rows = lay_over(rows, staged)
        self.future.set_result(rows)


class Database:
    """Made by `open`, which blocks; everything else is for the loop unless it says otherwise."""

    def __init__(
        self, path: Path, identity: Identity, vfs: str | None, settings: DatabaseSettings, lanes: LaneFactory,
        files: DatabaseFiles,
    ) -> None:
        self.path = path
        self.identity = identity
        self.vfs = vfs
        self.settings = settings
        self.files = files
        self.overlay = Overlay()
        self.names = Names()
        # Told when what is stored is not what was written, whoever asked for it: the node must stop.
        self.on_damage: Callable[[BaseException], None] = lambda error: None
        self._closed = False
        self._requests: deque[_Request] = deque()
        # A read was submitted and has not yet taken its requests: it will take those that come until then.
        self._read_waits = False
        self._paused = False
        self._all_idle: asyncio.Future[None] | None = None
        self._connect()
        self._write_lane = lanes("database-writer")
        self._write_lock = asyncio.Lock()
        self._readers = [Reader(lanes(f"database-reader-{number}")) for number in range(settings.readers)]
        self._idle = list(self._readers)
        self._searcher = Reader(lanes("database-search"))
        self._search_lock = asyncio.Lock()
        self._scrubber = Reader(lanes("database-scrub-reader"))
        self._scrub_lock = asyncio.Lock()
        self._connect_readers()

    @classmethod
    def open(
        cls, path: Path | str, *, cluster_id: str, recovery_epoch: int = 0, vfs: str | None = None,
        settings: DatabaseSettings | None = None, lanes: LaneFactory = ThreadLane, files: DatabaseFiles | None = None,
    ) -> Database:
        """Opens the database, or makes it. Blocks: it belongs to the start of the node."""
        identity = Identity(cluster_id, recovery_epoch)
        return cls(Path(path), identity, vfs, settings or DatabaseSettings(), lanes, files or RealFiles())

    def sign(self, software: str) -> None:
        """This release has it from now on. Blocks: for the start."""
        write_stamp(self._connection, software)

    def applied(self) -> Applied:
        """Where the database stands: what is said here survives power loss."""
        return self._writer.applied

    @property
    def file_bytes(self) -> int:
        """The size of the database file once its log is moved into it."""
        return self._writer.file_bytes

    @property
    def free_bytes(self) -> int:
        """The part of it that is free for reuse: what was purged leaves it behind."""
        return self._writer.free_bytes

    def load_resident(self) -> Iterator[StoredRow]:
        """All resident rows as committed, read while they are taken. Blocks: for the start, or a thread."""
        connection = schema.connect(str(self.path), self.vfs, read_only=True)
        try:
            yield from read_residents(connection)
        finally:
            connection.close()

    async def load_execution(self, namespace: str, workflow_id: str) -> list[StoredRow]:
        """The rows of an execution, header first; empty if there is none. Calls that wait share one read."""
        if self._closed:
            raise StorageClosed("the database is closed")
        key = (namespace, workflow_id)
        if not self.names.may_have(key):
            return []
        request = _Request(key, self.overlay.capture(key))
        self._requests.append(request)
        self._read_more()
        return await request.future

    async def learn_names(self) -> None:
        """Fills the filter of names whenever it has to be, until cancelled."""
        while True:
            await self.names.wanted.wait()
            count = await self.search(count_names)
            filling = self.names.begin(count, self.overlay.executions())
            last = ("", "")
            while page := await self.search(partial(read_names, after=last)):
                if not self.names.is_filling(filling):
                    break
                for last in page:
                    filling.add(last)
                await asyncio.sleep(_NAMES_PAUSE_SECONDS)
            if self.names.is_filling(filling):
                self.names.filled()

    async def search(self, job: Callable[[apsw.Connection], T]) -> T:
        """Runs one query that may take long; one at a time, on a connection of their own."""
        return await self._alone(self._searcher, self._search_lock, job)

    async def scrub(self, job: Callable[[apsw.Connection], T]) -> T:
        """As `search`, on a connection that no search waits for."""
        return await self._alone(self._scrubber, self._scrub_lock, job)

    async def _alone(self, reader: Reader, lock: asyncio.Lock, job: Callable[[apsw.Connection], T]) -> T:
        async def read() -> T:
            async with lock:
                connection = reader.opened
                with self.damage_told():
                    return await run_in(reader.lane, lambda: job(connection))

        # The lock is held until the query has ended, whoever is cancelled.
        return await asyncio.shield(read())

    @contextmanager
    def damage_told(self) -> Iterator[None]:
        """Passes on what shows that this database is damaged, and tells its owner."""
        try:
            yield
        except (DatabaseCorrupt, DiskFailed) as error:
            self.on_damage(error)
            raise

    async def commit(self, batches: Sequence[Batch]) -> Committed:
        """For the flusher: returns once the batches survive power loss."""

        async def commit() -> Committed:
            async with self._write_lock:
                if self._closed:
                    raise StorageClosed("the database is closed")
                return await run_in(self._write_lane, lambda: self._writer.commit(batches))

        # The lock is held until the transaction has ended, whoever is cancelled; then its failure is nobody's.
        committing = asyncio.ensure_future(commit())
        committing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(committing)

    async def replace(self, incoming: Path) -> None:
        """Puts another, verified database file in this one's place, durably and whole or not at all."""
        async with self._write_lock, self._search_lock, self._scrub_lock:
            await self._pause_reads()
            try:
                await run_in(self._write_lane, lambda: self._replace(incoming))
            finally:
                self.names.forget()
                self._paused = False
                self._read_more()

    async def close(self) -> None:
        """Waits for what is running; what was staged and not flushed is dropped."""
        self._closed = True
        async with self._write_lock, self._search_lock, self._scrub_lock:
            await self._pause_reads()
            while self._requests:
                self._requests.popleft().future.set_exception(StorageClosed("the database is closed"))
            for reader in [*self._readers, self._searcher, self._scrubber]:
                reader.lane.close()
                reader.close()
            self._write_lane.close()
            self._connection.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def _read_more(self) -> None:
        while self._requests and self._idle and not self._read_waits and not self._paused:
            self._read_waits = True
            self._read(self._idle.pop())

    def _read(self, reader: Reader) -> None:
        connection = reader.connection
        taken: list[_Request] = []

        def read() -> LoadedExecutions:
            # In this order: a request that comes after the first line starts another read.
            self._read_waits = False
            while self._requests and len(taken) < _EXECUTIONS_PER_READ:
                try:
                    taken.append(self._requests.popleft())
                except IndexError:  # another reader was faster
                    break
            if connection is None:
                raise StorageClosed("the database is closed")
            return read_executions(connection, [request.key for request in taken])

        def done(loaded: LoadedExecutions | None, error: BaseException | None) -> None:
            self._idle.append(reader)
            if loaded is not None:
                for request, rows in zip(taken, loaded.executions, strict=True):
                    request.answer(rows, loaded.applied_index)
            elif error is not None:
                if isinstance(error, DatabaseCorrupt | DiskFailed):
                    self.on_damage(error)
                for request in taken:
                    if not request.future.done():
                        request.future.set_exception(error)
            if self._all_idle is not None and len(self._idle) == len(self._readers):
                if not self._all_idle.done():
                    self._all_idle.set_result(None)
                self._all_idle = None
            self._read_more()

        reader.lane.submit(read, done)

    async def _pause_reads(self) -> None:
        self._paused = True
        if len(self._idle) < len(self._readers):
            self._all_idle = asyncio.get_running_loop().create_future()
            await self._all_idle

    # -- connections: blocking -------------------------------------------------------------------------------------

    def _connect(self) -> None:
        connection = schema.connect(str(self.path), self.vfs, cache_bytes=self.settings.cache_bytes)
        try:
            connection.wal_autocheckpoint(self.settings.wal_pages)
            connection.pragma("journal_size_limit", self.settings.wal_bytes_kept)
            if schema.is_blank(connection):
                schema.create(connection, self.identity)
                # SQLite syncs the directory for its log, and not for the database file itself.
                self.files.sync_directory(self.path.parent)
            schema.check(connection, self.identity)
            if self.settings.check_on_open:
                schema.full_check(connection)
            with schema.corruption_named():
                self._writer = Writer(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _connect_readers(self) -> None:
        for reader in [*self._readers, self._searcher, self._scrubber]:
            # What is to show damage on the disk keeps little in memory.
            cache = _SCRUB_CACHE_BYTES if reader is self._scrubber else self.settings.cache_bytes // 4
            reader.connection = schema.connect(str(self.path), self.vfs, cache_bytes=cache, read_only=True)

    def _replace(self, incoming: Path) -> None:
        for reader in [*self._readers, self._searcher, self._scrubber]:
            reader.close()
        # The old log must not be there when the new file is: it would be replayed into it.
        busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # type: ignore[misc]  # the pragma always has a row
        if busy:
            raise StorageError("the database is in use by somebody else: its log cannot be removed")
        self._connection.close()
        directory = self.path.parent
        for suffix in ("-wal", "-shm"):
            beside = self.path.with_name(self.path.name + suffix)
            if self.files.exists(beside):
                self.files.remove(beside)
        self.files.sync_directory(directory)
        self.files.rename(incoming, self.path)
        self.files.sync_directory(directory)
        if incoming.parent != directory:
            self.files.sync_directory(incoming.parent)
        self._connect()
        self._connect_readers()
