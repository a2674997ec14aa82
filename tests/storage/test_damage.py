"""Damage is told to the owner of the database whoever comes across it, and a copy that fails leaves nothing behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import apsw
import pytest

from orchestrator.engine.model import Table
from orchestrator.storage import schema
from orchestrator.storage.errors import DatabaseCorrupt, DiskFailed, StorageClosed
from tests.storage.samples import Store, put_timer
from tests.storage.test_copies import Node, filled, follower, leader

__all__ = ["follower", "leader"]  # fixtures


def damage(store: Store, statement: str) -> list[BaseException]:
    """Changes the file behind the database's back; what its owner is told from then on."""
    connection = apsw.Connection(str(store.database.path))
    connection.execute(statement)
    connection.close()
    told: list[BaseException] = []
    store.database.on_damage = told.append
    return told


TASK_BODY = "UPDATE task SET body = CAST(body || x'00' AS BLOB)"


async def test_a_read_that_finds_damage_tells_it(leader: Node) -> None:
    model, copy = await filled(leader)
    copy.release()
    told = damage(leader.store, TASK_BODY)
    namespace, workflow_id = next(key[:2] for table, key in model.rows if table is Table.TASK)  # type: ignore[misc]  # strings
    with pytest.raises(DatabaseCorrupt):
        await leader.store.database.load_execution(str(namespace), str(workflow_id))
    assert [type(error) for error in told] == [DatabaseCorrupt]


async def test_a_search_that_finds_damage_tells_it(leader: Node) -> None:
    told = damage(leader.store, "SELECT 1")

    def broken(connection: apsw.Connection) -> None:
        with schema.corruption_named():
            raise apsw.CorruptError("database disk image is malformed")

    with pytest.raises(DatabaseCorrupt):
        await leader.store.database.search(broken)
    assert [type(error) for error in told] == [DatabaseCorrupt]


async def test_a_copy_that_was_refused_elsewhere_is_read_before_the_next_one_goes_out(leader: Node) -> None:
    _, copy = await filled(leader)
    copy.release()
    (await leader.copies.copy(check=True)).release()
    told = damage(leader.store, TASK_BODY)
    (await leader.copies.copy()).release()
    assert told == []
    with pytest.raises(DatabaseCorrupt, match="so is it"):
        await leader.copies.copy(check=True)
    assert [type(error) for error in told] == [DatabaseCorrupt]
    assert list((leader.store.database.path.parent / "copies").iterdir()) == []


class RefusingFile(apsw.VFSFile):
    """Like SQLite's own on a disk that has become read-only: a write that fails is an error of input and output."""

    def __init__(self, disk: RefusingDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)  # type: ignore[arg-type]  # None is a temporary file's name, and allowed
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._disk.refuses:
            raise apsw.IOError("disk I/O error")
        super().xWrite(data, offset)


class RefusingDisk(apsw.VFS):
    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.refuses = 0

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return RefusingFile(self, name, flags)

    def xGetLastError(self) -> tuple[int, str]:
        return self.refuses, os.strerror(self.refuses)


@pytest.mark.parametrize(("reason", "said"), [
    (errno.EROFS, errno.EROFS), (errno.EDQUOT, errno.EDQUOT), (errno.EIO, errno.EIO), (errno.ENOENT, errno.EIO),
])
async def test_what_the_system_says_of_a_failed_write_is_told(tmp_path: Path, reason: int, said: int) -> None:
    """Who reads it has to make the disk writable, or room, or to replace it."""
    disk = RefusingDisk(f"refusing-{reason}")
    store = Store(tmp_path / "state.db", vfs=disk.name)
    try:
        disk.refuses = reason
        store.stage([put_timer(1)], 1)
        with pytest.raises(StorageClosed):
            await store.flusher.drain()
        (failed,) = store.errors
        assert isinstance(failed, DiskFailed) and failed.errno == said and os.strerror(said) in str(failed)
        disk.refuses = 0
    finally:
        await store.close()


@pytest.mark.parametrize("step", ["size", "sha256"])
async def test_a_copy_that_fails_leaves_nothing(leader: Node, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, copy = await filled(leader)
    copy.release()

    def fails(path: Path) -> Any:
        raise OSError(28, "No space left on device")

    files = leader.store.database.files
    monkeypatch.setattr(files, step, fails)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            await leader.copies.copy()
    monkeypatch.undo()
    assert list((leader.store.database.path.parent / "copies").iterdir()) == []
    (await leader.copies.copy()).release()


