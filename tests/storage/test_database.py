"""The database: what was written is read, by whoever may read it, or the call raises."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw
import pytest

from orchestrator.engine.model import PayloadRow, Table
from orchestrator.storage.database import Database, DatabaseSettings
from orchestrator.storage.errors import DatabaseCorrupt, SchemaVersionUnsupported, StorageClosed, WrongCluster
from orchestrator.storage.lanes import InlineLane
from orchestrator.storage.schema import PAGE_BYTES
from tests.storage.samples import (
    CLUSTER,
    Store,
    gone,
    put_bundle,
    put_execution,
    put_meta,
    put_payload,
    put_task,
    put_timer,
)


def tamper(path: Path, statement: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()


async def test_a_new_database_stands_at_the_beginning(store: Store) -> None:
    applied = store.database.applied()
    assert (applied.index, applied.term, applied.content_hash) == (0, 0, 0)
    assert list(store.database.load_resident()) == []
    assert await store.database.load_execution("default", "nobody") == []


async def test_it_knows_where_it_stood(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.stage([put_meta(5)], 7)
    await store.flusher.drain()
    await store.close()
    reopened = Database.open(tmp_path / "state.db", cluster_id=CLUSTER)
    applied = reopened.applied()
    assert (applied.index, applied.term, applied.configuration, applied.chain_hash) == (7, 1, b"config", b"chain7")
    await reopened.close()


async def test_an_execution_is_read_whole_header_first(store: Store) -> None:
    changes = [
        put_task("w1", 300),
        put_task("w1", 2),
        put_payload("w1", 5, b"\x00\xff\x00" * 3000),
        put_execution("w1"),
        put_execution("w2"),
        put_task("w2", 1),
        (Table.TASK, ("default", "w1", 1), put_task("w1", 1)[2], False),
    ]
    store.stage(changes, 1)
    await store.flusher.drain()
    rows = await store.database.load_execution("default", "w1")
    assert [(table, key[2:]) for table, key, _ in rows] == [
        (Table.EXECUTION, ()),
        (Table.TASK, (1,)),
        (Table.TASK, (2,)),
        (Table.TASK, (300,)),
        (Table.PAYLOAD, (5,)),
    ]
    assert rows[-1][2] == PayloadRow(b"\x00\xff\x00" * 3000)
    assert await store.database.load_execution("other", "w1") == []


async def test_many_executions_are_read_at_once(store: Store) -> None:
    store.stage([put_execution(f"w{number}") for number in range(700)], 1)
    await store.flusher.drain()
    loads = (store.database.load_execution("default", f"w{number}") for number in range(1000))
    loaded = await asyncio.gather(*loads)
    assert [rows[0][2].workflow_id if rows else "" for rows in loaded] == [
        f"w{number}" if number < 700 else "" for number in range(1000)
    ]


async def test_a_cancelled_read_harms_nobody(store: Store) -> None:
    store.stage([put_execution("w1")], 1)
    await store.flusher.drain()
    cancelled = asyncio.create_task(store.database.load_execution("default", "w1"))
    other = asyncio.create_task(store.database.load_execution("default", "w1"))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert len(await other) == 1


async def test_resident_rows_are_read_by_table(store: Store) -> None:
    changes = [put_timer(2), put_timer(1), put_bundle(b"\x00\xff"), put_meta(9)]
    store.stage(changes, 1)
    await store.flusher.drain()
    assert list(store.database.load_resident()) == [change[:3] for change in reversed(changes)]


async def test_a_database_of_another_cluster_is_refused(tmp_path: Path) -> None:
    await Store(tmp_path / "state.db").close()
    with pytest.raises(WrongCluster, match=CLUSTER):
        Database.open(tmp_path / "state.db", cluster_id="other")
    with pytest.raises(WrongCluster, match="epoch 1"):
        Database.open(tmp_path / "state.db", cluster_id=CLUSTER, recovery_epoch=1)


async def test_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    await Store(tmp_path / "state.db").close()
    tamper(tmp_path / "state.db", "UPDATE meta SET value = 2 WHERE key = 'schema_version'")
    with pytest.raises(SchemaVersionUnsupported, match="upgrade this node"):
        Database.open(tmp_path / "state.db", cluster_id=CLUSTER)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + bytes(4080)])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.db").write_bytes(content)
    with pytest.raises(DatabaseCorrupt):
        Database.open(tmp_path / "state.db", cluster_id=CLUSTER)


def test_a_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    tamper(tmp_path / "state.db", "CREATE TABLE meta (something)")
    with pytest.raises(DatabaseCorrupt):
        Database.open(tmp_path / "state.db", cluster_id=CLUSTER)


@pytest.mark.parametrize("table", ["execution", "task", "payload"])
async def test_a_damaged_row_of_an_execution_is_noticed(tmp_path: Path, table: str) -> None:
    store = Store(tmp_path / "state.db")
    store.stage([put_execution("w1"), put_task("w1", 1), put_payload("w1", 1, b"x" * 5000)], 1)
    await store.flusher.drain()
    tamper(tmp_path / "state.db", f"UPDATE {table} SET body = CAST(substr(body, 1, length(body) - 1) || 'y' AS BLOB)")
    with pytest.raises(DatabaseCorrupt, match=table.upper()):
        await store.database.load_execution("default", "w1")
    await store.close()


async def test_a_damaged_resident_row_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.stage([put_timer(1)], 1)
    await store.flusher.drain()
    tamper(tmp_path / "state.db", "UPDATE resident SET key = x'9102'")
    with pytest.raises(DatabaseCorrupt, match="TIMER"):
        list(store.database.load_resident())
    await store.close()


async def test_damaged_pages_are_noticed_at_the_start_on_demand(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    store.stage([put_execution(f"w{number}") for number in range(500)], 1)
    await store.flusher.drain()
    await store.close()
    with (tmp_path / "state.db").open("r+b") as file:
        file.seek(-PAGE_BYTES, 2)
        file.write(b"\xff" * 2048)
    with pytest.raises(DatabaseCorrupt):
        Database.open(tmp_path / "state.db", cluster_id=CLUSTER, settings=DatabaseSettings(check_on_open=True))


@pytest.mark.parametrize("key", ["applied_index", "applied_term", "configuration", "chain_hash", "content_hash"])
async def test_damage_of_its_place_in_the_log_is_noticed_at_the_start(tmp_path: Path, key: str) -> None:
    """A bit of the configuration could make another member of a node; one of the chain, another history."""
    store = Store(tmp_path / "state.db")
    store.stage([put_execution("w1")], 1)
    await store.flusher.drain()
    await store.close()
    connection = apsw.Connection(str(tmp_path / "state.db"))
    value = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).get
    damaged = value ^ 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
    connection.execute("UPDATE meta SET value = ? WHERE key = ?", (damaged, key))
    connection.close()
    with pytest.raises(DatabaseCorrupt):
        Database.open(tmp_path / "state.db", cluster_id=CLUSTER)


async def test_a_used_again_workflow_id_starts_without_rows(store: Store) -> None:
    store.stage([put_execution("w1", name="order"), put_task("w1", 1)], 1)
    await store.flusher.drain()
    store.stage([gone(put_task("w1", 1)), gone(put_execution("w1"))], 2)
    await store.flusher.drain()
    assert await store.database.load_execution("default", "w1") == []
    store.stage([put_execution("w1", name="refund")], 3)
    await store.flusher.drain()
    assert [row.name for _, _, row in await store.database.load_execution("default", "w1")] == ["refund"]


async def test_everything_works_in_one_thread(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db", lanes=InlineLane)
    store.stage([put_execution("w1")], 1)
    await store.flusher.drain()
    assert len(await store.database.load_execution("default", "w1")) == 1
    await store.close()


async def test_a_closed_database_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    await store.close()
    with pytest.raises(StorageClosed):
        await store.database.load_execution("default", "w1")
