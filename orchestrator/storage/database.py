"""The node's database: one connection that writes, a few that read, and none of them in the loop.

Reads of an execution see everything that was staged before the read was asked for, committed or not. An error of the
database is never hidden: what was read is what was written, or the call raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import apsw

from orchestrator.engine.model import ExecutionKey, RowKey, Table
from orchestrator.storage import schema
from orchestrator.storage.errors import StorageClosed, StorageError
from orchestrator.storage.files import DatabaseFiles, RealFiles
from orchestrator.storage.lanes import Lane, LaneFactory, ThreadLane
from orchestrator.storage.reading import in_order, read_executions, read_residents
from orchestrator.storage.schema import Applied, Identity
from orchestrator.storage.staged import Batch, Overlay, StagedRow
from orchestrator.storage.writing import Committed, Writer

T = TypeVar("T")

_EXECUTIONS_PER_READ = 256


@dataclass(frozen=True)
class DatabaseSettings:
    cache_bytes: int = 64 << 20  # of the writer; each reader has a quarter
    readers: int = 2  # of executions
    wal_pages: int = 4000  # moved into the database file at this number
    wal_bytes_kept: int = 64 << 20  # a log that grew while a copy was made shrinks to this
    check_on_open: bool = False  # reads every page: seconds per gigabyte


class Reader:
    """A connection and the lane it is used in. Its lock is held until the job has ended, whoever is cancelled."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.lock = asyncio.Lock()
        self.connection: apsw.Connection | None = None

    async def run(self, job: Callable[[apsw.Connection], T]) -> T:
        return await asyncio.shield(self._run(job))

    async def _run(self, job: Callable[[apsw.Connection], T]) -> T:
        async with self.lock:
            return await self.run_locked(job)

    async def run_locked(self, job: Callable[[apsw.Connection], T]) -> T:
        connection = self.connection
        if connection is None:
            raise StorageClosed("the database is closed")
        return await self.lane.run(lambda: job(connection))

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class _Request:
    def __init__(self, key: ExecutionKey, staged: list[tuple[int, list[StagedRow]]]) -> None:
        self.key = key
        self.staged = staged
        self.future: asyncio.Future[dict[tuple[Table, RowKey], Any]] = asyncio.get_running_loop().create_future()


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
        self._closed = False
        self._requests: list[_Request] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self._connect()
        self._write_lane = lanes("database-writer")
        self._write_lock = asyncio.Lock()
        self._readers = [Reader(lanes(f"database-reader-{number}")) for number in range(settings.readers)]
        self._idle = list(self._readers)
        self.searcher = Reader(lanes("database-search"))
        self._connect_readers()

    @classmethod
    def open(
        cls, path: Path | str, *, cluster_id: str, recovery_epoch: int = 0, vfs: str | None = None,
        settings: DatabaseSettings | None = None, lanes: LaneFactory = ThreadLane, files: DatabaseFiles | None = None,
    ) -> Database:
        """Opens the database, or makes it. Blocks: it belongs to the start of the node."""
        identity = Identity(cluster_id, recovery_epoch)
        return cls(Path(path), identity, vfs, settings or DatabaseSettings(), lanes, files or RealFiles())

    def applied(self) -> Applied:
        """Where the database stands: what is said here survives power loss."""
        return self._writer.applied

    def load_resident(self) -> Iterator[tuple[Table, RowKey, Any]]:
        """All resident rows as committed, read while they are taken. Blocks: for the start, or a thread."""
        connection = schema.connect(str(self.path), self.vfs, read_only=True)
        try:
            yield from read_residents(connection)
        finally:
            connection.close()

    async def load_execution(self, namespace: str, workflow_id: str) -> list[tuple[Table, RowKey, Any]]:
        """The rows of an execution, header first; empty if there is none. Calls of one turn share one read."""
        if self._closed:
            raise StorageClosed("the database is closed")
        key = (namespace, workflow_id)
        request = _Request(key, self.overlay.capture(key))
        self._requests.append(request)
        if self._idle:
            self._start_pump(self._idle.pop())
        return in_order(await request.future)

    async def commit(self, batches: Sequence[Batch]) -> Committed:
        """For the flusher: returns once the batches survive power loss."""

        async def commit() -> Committed:
            async with self._write_lock:
                if self._closed:
                    raise StorageClosed("the database is closed")
                return await self._write_lane.run(lambda: self._writer.commit(batches))

        return await asyncio.shield(commit())

    async def replace(self, incoming: Path) -> None:
        """Puts another, verified database file in this one's place, durably and whole or not at all."""
        locks = [self._write_lock, self.searcher.lock, *(reader.lock for reader in self._readers)]
        held: list[asyncio.Lock] = []
        try:
            for lock in locks:
                await lock.acquire()
                held.append(lock)
            await self._write_lane.run(lambda: self._replace(incoming))
        finally:
            for lock in held:
                lock.release()

    async def close(self) -> None:
        """Waits for what is running; what was staged and not flushed is dropped."""
        self._closed = True
        if self._pumps:
            await asyncio.wait(self._pumps)
        async with self._write_lock, self.searcher.lock:
            for reader in [*self._readers, self.searcher]:
                reader.lane.close()
                reader.close()
            self._write_lane.close()
            self._connection.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def _start_pump(self, reader: Reader) -> None:
        pump = asyncio.get_running_loop().create_task(self._pump(reader), name="database reads")
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    async def _pump(self, reader: Reader) -> None:
        try:
            while self._requests:
                async with reader.lock:
                    batch = self._requests[:_EXECUTIONS_PER_READ]
                    del self._requests[:_EXECUTIONS_PER_READ]
                    await self._serve(reader, batch)
        finally:
            self._idle.append(reader)

    async def _serve(self, reader: Reader, batch: list[_Request]) -> None:
        keys = [request.key for request in batch]
        try:
            loaded = await reader.run_locked(lambda connection: read_executions(connection, keys))
        except Exception as error:  # noqa: BLE001 - it is for each of those who asked
            for request in batch:
                if not request.future.done():
                    request.future.set_exception(error)
            return
        for request, rows in zip(batch, loaded.executions, strict=True):
            for index, staged in request.staged:
                # What was committed before the read is in it already, and may have been changed since.
                if index > loaded.applied_index:
                    _lay_over(rows, staged)
            if not request.future.done():
                request.future.set_result(rows)

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
                schema.quick_check(connection)
            self._writer = Writer(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _connect_readers(self) -> None:
        for reader in [*self._readers, self.searcher]:
            reader.connection = schema.connect(
                str(self.path), self.vfs, cache_bytes=self.settings.cache_bytes // 4, read_only=True
            )

    def _replace(self, incoming: Path) -> None:
        for reader in [*self._readers, self.searcher]:
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


def _lay_over(rows: dict[tuple[Table, RowKey], Any], staged: list[StagedRow]) -> None:
    for change in staged:
        if change.row is None:
            rows.pop((change.table, change.key), None)
        else:
            rows[change.table, change.key] = change.row
