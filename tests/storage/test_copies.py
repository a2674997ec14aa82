"""Copies: whole at one index while writing goes on; and only what is whole and ours is ever installed."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from orchestrator.engine.model import Table
from orchestrator.storage.copies import Copies, DatabaseCopy
from orchestrator.storage.errors import SnapshotCorrupt, WrongCluster
from orchestrator.storage.schema import PAGE_BYTES
from tests.storage.samples import CLUSTER, Journal, Model, Store, everything, put_execution, put_timer, scan


class Node:
    def __init__(self, directory: Path, cluster_id: str = CLUSTER) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.journal = Journal()
        self.store = Store(directory / "state.db", cluster_id=cluster_id, journal=self.journal)
        self.copies = Copies(self.store.database, self.store.flusher, directory / "copies")
        self.copies.remove_leftovers()

    async def close(self) -> None:
        await self.store.close()
        self.copies.close()


@pytest.fixture
async def leader(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "leader")
    yield node
    await node.close()


@pytest.fixture
async def follower(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "follower")
    yield node
    await node.close()


async def filled(leader: Node, index: int = 100) -> tuple[Model, DatabaseCopy]:
    model = Model()
    leader.store.stage(model.random_changes(random.Random(1), 200), index)
    await leader.store.flusher.drain()
    return model, await leader.copies.copy()


async def test_a_copy_says_what_it_is_and_can_be_released(leader: Node) -> None:
    _, copy = await filled(leader)
    content = copy.path.read_bytes()
    assert (copy.index, copy.term, copy.configuration, copy.size) == (100, 1, b"config", len(content))
    assert copy.checksum == hashlib.sha256(content).hexdigest()
    copy.release()
    assert list(copy.path.parent.iterdir()) == []


async def test_a_copy_installed_is_the_same_database(leader: Node, follower: Node) -> None:
    model, copy = await filled(leader)
    follower.store.stage([put_execution("stale"), put_timer(77)], 5)
    await follower.store.flusher.drain()
    follower.journal.move(5)
    follower.store.stage([put_execution("staler")], 6)
    await follower.journal.asked.wait()
    await follower.copies.install(copy.path, 100, 1)

    database = follower.store.database
    assert follower.store.flusher.flushed_index == 100
    assert database.applied() == leader.store.database.applied()
    assert await everything(database, model) == model.rows
    for stale in ("stale", "staler"):
        assert await database.load_execution("default", stale) == []
    assert not copy.path.exists()
    # Left over from before; and then life goes on.
    assert follower.store.flusher.dirty_bytes == 0
    follower.journal.move(200)
    follower.store.stage([put_timer(78)], 99)
    follower.store.stage(model.random_changes(random.Random(2), 20), 101)
    await follower.store.flusher.drain()
    assert await everything(database, model) == model.rows
    assert database.applied().content_hash == model.content_hash() == scan(database)


async def test_an_installed_database_survives_a_restart(leader: Node, tmp_path: Path) -> None:
    model, copy = await filled(leader)
    node = Node(tmp_path / "node")
    await node.copies.install(copy.path, 100, 1)
    await node.close()
    node = Node(tmp_path / "node")
    assert await everything(node.store.database, model) == model.rows
    await node.close()


async def test_writing_goes_on_while_a_copy_is_made(leader: Node, follower: Node) -> None:
    store = leader.store
    copying = asyncio.create_task(filled(leader))
    index = 100
    while not copying.done() or index < 120:
        index += 1
        store.stage([put_timer(1, index), put_timer(index, index)], index)
        await store.flusher.flush_now()
    _, copy = await copying
    assert 100 <= copy.index <= index
    await follower.copies.install(copy.path, copy.index, copy.term)
    rows = follower.store.database.load_resident()
    timers = {key[0]: row.fire_ms for table, key, row in rows if table is Table.TIMER}
    if copy.index > 100:
        assert timers[1] == timers[copy.index] == copy.index
    assert copy.index + 1 not in timers


async def test_reads_that_wait_for_an_install_read_the_new_database(leader: Node, follower: Node) -> None:
    leader.store.stage([put_execution("new")], 9)
    await leader.store.flusher.drain()
    copy = await leader.copies.copy()
    installing = asyncio.create_task(follower.copies.install(copy.path, 9, 1))
    loads = []
    while not installing.done():
        loads.append(asyncio.create_task(follower.store.database.load_execution("default", "new")))
        await asyncio.sleep(0)
        await loads[-1]
    assert len(await follower.store.database.load_execution("default", "new")) == 1
    assert {len(load.result()) for load in loads} <= {0, 1}


async def refused(node: Node, copy: DatabaseCopy, error: type[Exception], index: int = 100) -> None:
    with pytest.raises(error):
        await node.copies.install(copy.path, index, 1)
    # The live database is untouched and goes on.
    node.store.stage([put_timer(1)], 7)
    await node.store.flusher.drain()
    assert node.store.database.applied().index == 7


async def test_a_copy_of_another_index_is_refused(leader: Node, follower: Node) -> None:
    _, copy = await filled(leader)
    await refused(follower, copy, SnapshotCorrupt, index=101)


async def test_a_copy_of_another_cluster_is_refused(leader: Node, tmp_path: Path) -> None:
    _, copy = await filled(leader)
    stranger = Node(tmp_path / "stranger", "cluster-b")
    await refused(stranger, copy, WrongCluster)
    await stranger.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE task SET body = body || x'00' WHERE id = (SELECT min(id) FROM task)",
        "UPDATE task SET body = CAST(body || x'00' AS BLOB), hash = randomblob(16)",
        "DELETE FROM task WHERE id = (SELECT max(id) FROM task)",
        "DELETE FROM execution WHERE id = (SELECT max(id) FROM execution)",
        "INSERT INTO resident (table_number, key, hash, body) VALUES (26, x'91cd7fff', randomblob(16), x'0190')",
        "UPDATE execution SET workflow_id = 'somebody else' WHERE id = (SELECT max(id) FROM execution)",
        "DROP TABLE meta",
        "UPDATE meta SET value = randomblob(32) WHERE key = 'chain_hash'",
        "UPDATE meta SET value = CAST(value || x'00' AS BLOB) WHERE key = 'configuration'",
        "UPDATE meta SET value = randomblob(16) WHERE key = 'applied_hash'",
        "UPDATE meta SET key = 'applied_termite' WHERE key = 'applied_term'",
        "DELETE FROM meta WHERE key = 'cluster_id'",
    ],
)
async def test_a_copy_with_other_rows_is_refused(leader: Node, follower: Node, statement: str) -> None:
    _, copy = await filled(leader)
    connection = apsw.Connection(str(copy.path))
    try:
        connection.execute(statement)
    except apsw.ConstraintError:
        connection.execute("DELETE FROM task")
    connection.close()
    await refused(follower, copy, SnapshotCorrupt)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
async def test_a_damaged_copy_is_refused(leader: Node, follower: Node, damage: str) -> None:
    _, copy = await filled(leader)
    content = bytearray(copy.path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "empty":
        content.clear()
    else:
        for at in range(5000, len(content), PAGE_BYTES):
            content[at] ^= 1
    copy.path.write_bytes(content)
    await refused(follower, copy, SnapshotCorrupt)


async def test_a_copy_whose_index_misses_a_row_is_refused(leader: Node, follower: Node) -> None:
    """Its rows are whole; but the first search, or the next change of that row, would come upon it."""
    leader.store.stage([put_execution("one")], 100)
    await leader.store.flusher.drain()
    copy = await leader.copies.copy()
    connection = apsw.Connection(str(copy.path))
    page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'execution_name'").get
    connection.close()
    content = bytearray(copy.path.read_bytes())
    begins = (page - 1) * PAGE_BYTES
    content[content.index(b"default", begins, begins + PAGE_BYTES)] ^= 1
    copy.path.write_bytes(content)
    await refused(follower, copy, SnapshotCorrupt)


async def test_a_cancelled_copy_leaves_nothing(leader: Node) -> None:
    await filled(leader)
    directory = leader.store.database.path.parent / "copies"
    for path in directory.iterdir():
        path.unlink()
    making = asyncio.create_task(leader.copies.copy())
    await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    (await leader.copies.copy()).release()
    assert list(directory.iterdir()) == []


async def test_leftovers_of_another_life_are_removed(tmp_path: Path) -> None:
    (tmp_path / "node" / "copies").mkdir(parents=True)
    (tmp_path / "node" / "copies" / "copy-1.db-wal").write_bytes(b"x")
    node = Node(tmp_path / "node")
    assert list((tmp_path / "node" / "copies").iterdir()) == []
    await node.close()
