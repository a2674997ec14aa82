"""Copies of this node's database for whoever keeps them elsewhere: what they are, and their bytes piece by piece.

A backup is a copy as a follower would get it, made once the database has everything that was asked for. It takes room
on this node's disk until it is sent; one at a time, so that nobody fills the disk by asking again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import apsw

from orchestrator.engine.model import Meta, Table
from orchestrator.engine.resident import Session
from orchestrator.storage import schema
from orchestrator.storage.backup_file import BackupHeader, BackupReader
from orchestrator.storage.copies import Copies, DatabaseCopy, verify
from orchestrator.storage.database import Database
from orchestrator.storage.errors import (
    BackupInProgress,
    BackupRoomMissing,
    BackupUnfit,
    DatabaseCorrupt,
    SnapshotCorrupt,
    WrongCluster,
)
from orchestrator.storage.reading import read_residents
from orchestrator.storage.schema import Identity

PIECE_BYTES = 256 << 10
# What is left on the disk beside a copy, for the journal and for what is written meanwhile.
ROOM_LEFT_BYTES = 256 << 20


@dataclass(frozen=True)
class OpenBackup:
    """A backup that is being sent."""

    header: BackupHeader
    sha256: bytes
    pieces: Callable[[], AsyncIterator[bytes]]  # in order, once


class Backups:
    """`settle` returns once everything that is applied now is in the database; `room_bytes` is what the disk has."""

    def __init__(
        self, database: Database, copies: Copies, *, node: str, version: str, settle: Callable[[], Awaitable[None]],
        room_bytes: Callable[[], int], on_ended: Callable[[bool, float], None] = lambda is_whole, seconds: None,
    ) -> None:
        self._database = database
        self._copies = copies
        self._node = node
        self._version = version
        self._settle = settle
        self._room_bytes = room_bytes
        self._on_ended = on_ended  # whether all of it was taken, and after how many seconds
        self._busy = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenBackup]:
        """What is applied now, or later. Raises BackupInProgress, BackupRoomMissing, DatabaseCorrupt."""
        if self._busy:
            raise BackupInProgress("this node makes a backup already: wait for its end, or ask another node")
        self._busy = True
        time = asyncio.get_running_loop().time
        began, is_whole = time(), False
        try:
            self._check_room()
            await self._settle()
            copy = await self._copies.copy()
            try:
                header = await self._copies.read(lambda: self._header(copy))
                yield OpenBackup(header, bytes.fromhex(copy.checksum), lambda: self._pieces(copy))
                is_whole = True
            finally:
                await self._copies.read(copy.release)
        finally:
            self._busy = False
            self._on_ended(is_whole, time() - began)

    def _check_room(self) -> None:
        needed, room = self._database.file_bytes + ROOM_LEFT_BYTES, self._room_bytes()
        if room < needed:
            raise BackupRoomMissing(
                f"a backup needs {needed >> 20} MiB on the disk of this node's data directory while it is sent, and "
                f"{room >> 20} MiB are free: ask another node, or make room"
            )

    async def _pieces(self, copy: DatabaseCopy) -> AsyncIterator[bytes]:
        file = await self._copies.read(lambda: copy.path.open("rb"))
        with file:
            while piece := await self._copies.read(lambda: file.read(PIECE_BYTES)):
                yield piece

    def _header(self, copy: DatabaseCopy) -> BackupHeader:
        return header_of(copy.path, self._database.identity, node=self._node, version=self._version,
                         size_bytes=copy.size, vfs=self._database.vfs)


def header_of(
    path: Path, identity: Identity, *, node: str, version: str, size_bytes: int, vfs: str | None = None
) -> BackupHeader:
    """What a copy of a database is. Blocks; raises DatabaseCorrupt."""
    connection = schema.connect(str(path), vfs, read_only=True)
    try:
        applied, meta = schema.read_applied(connection), meta_of(connection)
        return BackupHeader(
            cluster_id=identity.cluster_id,
            recovery_epoch=identity.recovery_epoch,
            node=node,
            version=version,
            index=applied.index,
            term=applied.term,
            log_time_ms=meta.log_time_ms,
            behaviour_level=meta.behaviour_level,
            content_hash=f"{applied.content_hash:032x}",
            size_bytes=size_bytes,
            executions=connection.execute("SELECT count(*) FROM execution").get,
            live_executions=meta.live_executions,
            workflow_definitions=_count(connection, Table.WORKFLOW_DEFINITION),
            task_definitions=_count(connection, Table.TASK_DEFINITION),
            schedules=_count(connection, Table.SCHEDULE),
        )
    finally:
        connection.close()


def meta_of(connection: apsw.Connection) -> Meta:
    """The row of counters; as at the beginning of everything if there is none yet. Blocks."""
    with closing(read_residents(connection)) as rows:
        first = next(rows, None)
    return first[2] if first is not None and isinstance(first[2], Meta) else Meta()


def sessions_of(connection: apsw.Connection) -> list[Session]:
    """All worker sessions, in the order of their ids. Blocks."""
    return [row for table, _, row in read_residents(connection) if table is Table.SESSION]


def _count(connection: apsw.Connection, table: Table) -> int:
    found: int = connection.execute("SELECT count(*) FROM resident WHERE table_number = ?", (int(table),)).get
    return found


def extract(backup: Path, target: Path, progress: Callable[[int], None] = lambda size_bytes: None) -> BackupHeader:
    """Unpacks the database of a backup and reads all of it: `target` is what was backed up, or nothing is there.

    Blocks. `progress` is called with the bytes that each piece adds. Raises BackupUnfit, SchemaVersionUnsupported.
    """
    try:
        with BackupReader(backup) as reader, target.open("xb") as file:
            header = reader.header
            for piece in reader.pieces():
                file.write(piece)
                progress(len(piece))
            file.flush()
            os.fsync(file.fileno())
        applied = verify(target, Identity(header.cluster_id, header.recovery_epoch))
        if (applied.index, applied.term, f"{applied.content_hash:032x}") != (
            header.index, header.term, header.content_hash
        ):
            raise BackupUnfit(f"{backup}: its database is not that of its header")
    except (SnapshotCorrupt, DatabaseCorrupt, WrongCluster) as error:
        _remove(target)
        raise BackupUnfit(f"{backup}: {error}") from error
    except BaseException:
        _remove(target)
        raise
    _remove_log(target)
    return header


def restamp(path: Path, identity: Identity, configuration: bytes) -> None:
    """Makes the database that of another cluster, or of another epoch, with other members; no row changes.

    One transaction, durable when this returns. Blocks.
    """
    connection = schema.connect(str(path), None)
    try:
        applied = schema.read_applied(connection)
        values = {
            "cluster_id": identity.cluster_id,
            "recovery_epoch": identity.recovery_epoch,
            **schema.applied_meta(schema.Applied(
                applied.index, applied.term, configuration, applied.chain_hash, applied.content_hash)),
        }
        with connection:
            schema.write_meta(connection, values)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.close()


def _beside(path: Path) -> Iterator[Path]:
    for suffix in ("-wal", "-shm"):
        yield path.with_name(path.name + suffix)


def _remove(path: Path) -> None:
    for each in (path, *_beside(path)):
        each.unlink(missing_ok=True)


def _remove_log(path: Path) -> None:
    """Of SQLite, which has removed it itself if it could."""
    for each in _beside(path):
        each.unlink(missing_ok=True)
