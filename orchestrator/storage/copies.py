"""Copies of the database for a follower or a backup, and the installation of one that was received.

A copy is one read transaction in a thread of its own: writing goes on meanwhile. What was received replaces the live
database only after every row of it was checked against its content hash; until then nothing is touched.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator.storage import schema
from orchestrator.storage.database import Database
from orchestrator.storage.errors import DatabaseCorrupt, SnapshotCorrupt
from orchestrator.storage.flusher import Flusher
from orchestrator.storage.lanes import LaneFactory, ThreadLane, run_in
from orchestrator.storage.reading import content_hash
from orchestrator.storage.schema import Applied, Identity
from orchestrator.storage.stamps import Stamp, stamp_of

T = TypeVar("T")

_PREFIX = "copy-"


@dataclass(frozen=True)
class DatabaseCopy:
    """A file that stays until `release` is called."""

    path: Path
    index: int
    term: int
    size: int
    checksum: str  # sha256, hexadecimal
    configuration: bytes
    release: Callable[[], None]


class Copies:
    """Makes and installs copies, one at a time. `directory` is on the same file system as the database."""

    def __init__(
        self, database: Database, flusher: Flusher, directory: Path, *, lanes: LaneFactory = ThreadLane
    ) -> None:
        self._database = database
        self._flusher = flusher
        self._directory = directory
        self._lane = lanes("database-copies")
        self._busy = asyncio.Lock()
        self._numbers = itertools.count(1)

    def remove_leftovers(self) -> None:
        """Of a process that ended while it made copies. Blocks: for the start."""
        files = self._database.files
        files.make_directory(self._directory)
        for name in files.listdir(self._directory):
            if name.startswith(_PREFIX):
                files.remove(self._directory / name)

    async def copy(self, *, check: bool = False) -> DatabaseCopy:
        """A copy of what is flushed now, or later; with `check`, all of it is read first. Raises DatabaseCorrupt."""
        path = self._directory / f"{_PREFIX}{next(self._numbers)}.db"
        copying = self._alone(lambda: self._copy(path, check=check))
        making = asyncio.get_running_loop().create_task(copying, name="database copy")
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(_release)
            raise

    async def read(self, job: Callable[[], T]) -> T:
        """What a blocking job finds in a copy."""
        return await run_in(self._lane, job)

    async def stamp(self, path: Path) -> Stamp:
        """What a file that was received says of itself. Raises SnapshotCorrupt."""
        try:
            return await run_in(self._lane, lambda: stamp_of(path, self._database.vfs))
        except DatabaseCorrupt as error:
            raise SnapshotCorrupt(f"{path.name}: {error}") from error

    async def install(self, path: Path, index: int, term: int) -> None:
        """Replaces the database by the file, once that is verified; what was staged is forgotten.

        The applier must stand still, and read the resident rows anew. The file is gone afterwards.
        """
        await asyncio.shield(self._install(path, index, term))

    def close(self) -> None:
        self._lane.close()

    async def _alone(self, job: Callable[[], DatabaseCopy]) -> DatabaseCopy:
        async with self._busy:
            with self._database.damage_told():
                return await run_in(self._lane, job)

    async def _install(self, path: Path, index: int, term: int) -> None:
        database = self._database
        async with self._busy:
            await run_in(self._lane, lambda: self._prepare(path, index, term))
            async with self._flusher.suspended():
                await database.replace(path)

    # -- blocking --------------------------------------------------------------------------------------------------

    def _copy(self, path: Path, *, check: bool) -> DatabaseCopy:
        files = self._database.files
        if files.exists(path):
            files.remove(path)
        try:
            return self._written_copy(path, check=check)
        except BaseException:
            # As on a full disk, which the attempts would keep full.
            for name in files.listdir(self._directory):
                if name.startswith(path.name):
                    files.remove(self._directory / name)
            raise

    def _written_copy(self, path: Path, *, check: bool) -> DatabaseCopy:
        database, files = self._database, self._database.files
        connection = schema.connect(str(database.path), database.vfs)
        try:
            with schema.corruption_named():
                connection.execute("VACUUM INTO ?", (str(path),))
        finally:
            connection.close()
        if check:
            try:
                verify(path, database.identity, vfs=database.vfs)
            except SnapshotCorrupt as error:
                raise DatabaseCorrupt(f"a copy of this database is damaged, and so is it: {error}") from error
        made = schema.connect(str(path), database.vfs)
        try:
            applied = schema.read_applied(made)
        finally:
            made.close()
        return DatabaseCopy(
            path, applied.index, applied.term, files.size(path), files.sha256(path), applied.configuration,
            lambda: files.remove(path),
        )

    def _prepare(self, path: Path, index: int, term: int) -> None:
        database = self._database
        applied = verify(path, database.identity, vfs=database.vfs)
        if (applied.index, applied.term) != (index, term):
            raise SnapshotCorrupt(
                f"the copy stands at index {applied.index} of term {applied.term}, not at {index} of {term}"
            )
        database.files.sync(path)


def _release(making: asyncio.Task[DatabaseCopy]) -> None:
    """Nobody waits for the copy any more."""
    if not making.cancelled() and making.exception() is None:
        making.result().release()


def verify(path: Path, identity: Identity, *, vfs: str | None = None) -> Applied:
    """Reads all of a database and raises unless it is whole, and this cluster's. Blocks."""
    try:
        connection = schema.connect(str(path), vfs)
        try:
            schema.check(connection, identity)
            schema.full_check(connection)
            applied = schema.read_applied(connection)
            found = content_hash(connection)
        finally:
            connection.close()
    except DatabaseCorrupt as error:
        raise SnapshotCorrupt(f"{path.name}: {error}") from error
    if found != applied.content_hash:
        raise SnapshotCorrupt(f"{path.name}: the rows are not those of its content hash")
    return applied
