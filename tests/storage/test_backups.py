"""Backups of a node's database: what they say of it, one at a time, and what becomes of them elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from orchestrator.engine.model import Meta, Table
from orchestrator.storage import schema
from orchestrator.storage.backup_file import BackupHeader, BackupWriter
from orchestrator.storage.backups import Backups, extract, restamp
from orchestrator.storage.database import Database
from orchestrator.storage.errors import BackupInProgress, BackupRoomMissing, BackupUnfit, WrongCluster
from orchestrator.storage.schema import Identity
from tests.storage.samples import CLUSTER, put_execution, put_timer, scan
from tests.storage.test_copies import Node


class Source(Node):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.room_bytes = 1 << 40
        self.ended: list[bool] = []
        self.backups = Backups(
            self.store.database, self.copies, node="n1", version="7", settle=self.store.flusher.flush_now,
            room_bytes=lambda: self.room_bytes, on_ended=self._ended,
        )

    def _ended(self, is_whole: bool, seconds: float) -> None:
        assert seconds >= 0
        self.ended.append(is_whole)

    @property
    def copies_kept(self) -> list[str]:
        return [path.name for path in (self.store.database.path.parent / "copies").iterdir()]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Source]:
    made = Source(tmp_path / "node")
    made.store.stage([(Table.META, (), Meta(log_time_ms=5000, live_executions=2), True)], 1)
    made.store.stage([put_execution("a"), put_execution("b"), *(put_timer(n) for n in range(1, 50))], 2)
    yield made
    await made.close()


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_file())


async def saved(node: Source, path: Path) -> BackupHeader:
    async with node.backups.open() as backup:
        with BackupWriter(path, backup.header) as writer:
            async for piece in backup.pieces():
                writer.write(piece)
            writer.finish(backup.sha256)
    return backup.header


async def test_a_backup_has_what_was_staged_before_and_says_what_it_is(node: Source, tmp_path: Path) -> None:
    header = await saved(node, tmp_path / "file")
    assert (header.cluster_id, header.recovery_epoch, header.node, header.version) == (CLUSTER, 0, "n1", "7")
    assert (header.index, header.term, header.log_time_ms, header.live_executions) == (2, 1, 5000, 2)
    assert header.executions == 2 and header.content_hash == f"{scan(node.store.database):032x}"
    assert node.copies_kept == []
    sizes: list[int] = []
    assert extract(tmp_path / "file", tmp_path / "state.db", sizes.append) == header
    assert sum(sizes) == header.size_bytes
    assert files_in(tmp_path) == ["file", "state.db"]
    assert node.ended == [True]


async def test_one_at_a_time_and_an_interrupted_one_is_over(node: Source) -> None:
    async with node.backups.open():
        with pytest.raises(BackupInProgress):
            await anext(_entered(node))
    async with node.backups.open() as backup:
        # Whoever is sent it goes away after the first piece.
        await anext(backup.pieces())
    making = asyncio.create_task(anext(_entered(node)))
    await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    async with node.backups.open():
        assert len(node.copies_kept) == 1
    assert node.copies_kept == []
    # The second one was refused, and is none; the third was asked for no more before it was whole.
    assert node.ended == [True, True, False, True]
    with pytest.raises(RuntimeError, match="broken"):
        async with node.backups.open():
            raise RuntimeError("broken")
    assert node.ended[4:] == [False]


async def _entered(node: Source) -> AsyncIterator[None]:
    async with node.backups.open():
        yield


async def test_a_disk_that_it_would_fill_is_left_alone(node: Source) -> None:
    node.room_bytes = node.store.database.file_bytes
    with pytest.raises(BackupRoomMissing, match="MiB"):
        await anext(_entered(node))
    assert node.copies_kept == []


async def test_what_is_restored_is_another_clusters_with_the_same_rows(node: Source, tmp_path: Path) -> None:
    header = await saved(node, tmp_path / "file")
    target = tmp_path / "state.db"
    extract(tmp_path / "file", target)
    restamp(target, Identity("cluster-b", 4), b"members")
    with pytest.raises(WrongCluster):
        Database.open(target, cluster_id=CLUSTER)
    database = Database.open(target, cluster_id="cluster-b", recovery_epoch=4)
    applied = database.applied()
    assert (applied.index, applied.term, applied.configuration) == (2, 1, b"members")
    assert f"{applied.content_hash:032x}" == f"{scan(database):032x}" == header.content_hash
    assert applied.chain_hash == node.store.database.applied().chain_hash
    assert len(await database.load_execution("default", "a")) == 1
    await database.close()


async def test_a_backup_of_a_damaged_database_is_refused_and_leaves_nothing(node: Source, tmp_path: Path) -> None:
    """The file is whole; what was copied into it is not."""
    await node.store.flusher.flush_now()
    connection = schema.connect(str(node.store.database.path), None)
    connection.execute("UPDATE execution SET body = CAST(body || x'00' AS BLOB) WHERE workflow_id = 'a'")
    connection.close()
    await saved(node, tmp_path / "file")
    with pytest.raises(BackupUnfit, match="not those of its content hash"):
        extract(tmp_path / "file", tmp_path / "state.db")
    assert files_in(tmp_path) == ["file"]


async def test_a_header_of_another_database_is_refused(node: Source, tmp_path: Path) -> None:


    async with node.backups.open() as backup:
        header = msgspec.structs.replace(backup.header, index=backup.header.index + 1)
        with BackupWriter(tmp_path / "file", header) as writer:
            async for piece in backup.pieces():
                writer.write(piece)
            writer.finish(backup.sha256)
    with pytest.raises(BackupUnfit, match="not that of its header"):
        extract(tmp_path / "file", tmp_path / "state.db")
    assert not (tmp_path / "state.db").exists()
