"""What nobody reads is read by the scrub: damage anywhere is told, and a pass goes on where it stood."""

from __future__ import annotations

import asyncio
import random

import apsw
import pytest

from orchestrator.storage import scrubbing
from orchestrator.storage.errors import DatabaseCorrupt
from orchestrator.storage.scrub import Scrub
from orchestrator.storage.scrubbing import TABLES, Slice, scrub
from tests.storage.samples import Model, Store
from tests.storage.test_copies import Node, follower, leader

__all__ = ["follower", "leader"]  # fixtures

PATIENCE_S = 20


@pytest.fixture
async def filled(store: Store) -> Store:
    store.stage(Model().random_changes(random.Random(1), 400), 100)
    await store.flusher.drain()
    return store


async def passed(store: Store) -> list[Slice]:
    """A whole pass."""
    found: list[Slice] = []
    table: str | None = TABLES[0]
    after = 0
    while table is not None:
        here, at = table, after
        done = await store.database.scrub(lambda connection: scrub(connection, here, at))  # noqa: B023 - awaited here
        found.append(done)
        table, after = done.next_table, done.after
    return found


def count(store: Store) -> int:
    connection = apsw.Connection(str(store.database.path))
    try:
        return sum(connection.execute(f"SELECT count(*) FROM {table}").get for table in TABLES)
    finally:
        connection.close()


async def test_a_pass_reads_every_row(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(done.rows for done in await passed(filled)) == count(filled) > 20
    monkeypatch.setattr(scrubbing, "SLICE_BYTES", 1)
    one_by_one = await passed(filled)
    assert sum(done.rows for done in one_by_one) == count(filled)
    assert max(done.rows for done in one_by_one) == 1


@pytest.mark.parametrize("statement", [
    "UPDATE execution SET body = CAST(body || x'00' AS BLOB) WHERE id = (SELECT max(id) FROM execution)",
    "UPDATE task SET body = CAST(body || x'00' AS BLOB) WHERE id = (SELECT max(id) FROM task)",
    "UPDATE task SET hash = x'00' WHERE id = (SELECT max(id) FROM task)",
    "UPDATE task SET status = status + 1 WHERE id = (SELECT max(id) FROM task)",
    "UPDATE execution SET started_ms = started_ms + 1 WHERE id = (SELECT max(id) FROM execution)",
    "UPDATE resident SET body = CAST(body || x'00' AS BLOB) WHERE id = (SELECT max(id) FROM resident)",
    "UPDATE payload SET body = CAST(body || x'00' AS BLOB) WHERE id = (SELECT max(id) FROM payload)",
    "DELETE FROM execution WHERE id = (SELECT max(id >> 25) FROM task)",
    "UPDATE meta SET value = value + 1 WHERE key = 'applied_index'",
])
async def test_damage_is_found_and_told(filled: Store, statement: str) -> None:
    connection = apsw.Connection(str(filled.database.path))
    connection.execute(statement)
    assert connection.changes() == 1
    connection.close()
    told: list[BaseException] = []
    filled.database.on_damage = told.append
    with pytest.raises(DatabaseCorrupt):
        await passed(filled)
    assert [type(error) for error in told] == [DatabaseCorrupt]


@pytest.mark.parametrize(("index", "table"), [
    ("task_id", "task"), ("task_status", "task"), ("execution_start", "execution"), ("execution_end", "execution"),
    ("sqlite_autoindex_execution_1", "execution"), ("sqlite_autoindex_resident_1", "resident"),
])
async def test_an_index_that_lacks_a_row_is_found(filled: Store, index: str, table: str) -> None:
    """As after a page of it was lost: the table's rows are all right, and its other indexes."""
    connection = apsw.Connection(str(filled.database.path))
    sql = connection.execute("SELECT coalesce(sql, '') FROM sqlite_schema WHERE name = ?", (index,)).get
    condition = sql.partition(" WHERE ")[2] or "1"
    assert connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}").get > 0
    connection.execute("CREATE TABLE blank (a INTEGER PRIMARY KEY, b); CREATE INDEX empty ON blank (b)")
    none = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'empty'").get
    # The index becomes one that is sound, and empty.
    connection.pragma("writable_schema", 1)
    connection.execute("UPDATE sqlite_schema SET rootpage = ? WHERE name = ?", (none, index))
    connection.execute(f"PRAGMA schema_version = {connection.pragma('schema_version') + 1}")
    connection.close()
    with pytest.raises(DatabaseCorrupt, match=f"the index {index} lacks"):
        await passed(filled)


class Kept:
    """What outlasts a restart, and the scrub of a node that starts now."""

    def __init__(self, store: Store, seconds: float = 0.001) -> None:
        self.data = b""
        self.store = store
        self.seconds = seconds
        self.now = 0.0
        self.saved = asyncio.Event()

    def scrub(self) -> Scrub:
        return Scrub(self.store.database, seconds=self.seconds, load=lambda: self.data, save=self._save,
                     monotonic=lambda: self.now, wall_ms=lambda: 1_700_000_000_000)

    def _save(self, data: bytes) -> None:
        self.data = data


async def completed(scrub: Scrub) -> None:
    running = asyncio.create_task(scrub.run())
    async with asyncio.timeout(PATIENCE_S):
        while not scrub.standing.completed_ms and not running.done():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_pass_comes_to_its_end_and_that_lasts_over_a_restart(filled: Store) -> None:
    kept = Kept(filled)
    scrub = kept.scrub()
    await completed(scrub)
    assert scrub.standing.completed_ms == 1_700_000_000_000 and kept.data
    again = kept.scrub()
    await completed(again)
    assert again.standing.completed_ms == scrub.standing.completed_ms


async def test_a_restart_goes_on_where_the_pass_stood(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "SLICE_BYTES", 1)
    kept = Kept(filled)
    kept.data = b'{"table": "resident", "after": 0, "checked_bytes": 5, "completed_ms": 0}'
    connection = apsw.Connection(str(filled.database.path))
    connection.execute("UPDATE task SET hash = x'00'")
    connection.close()
    # What it has read already is not read again.
    await completed(kept.scrub())
    with pytest.raises(DatabaseCorrupt):
        await kept.scrub().run()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"table": "other"}'])
async def test_what_says_nothing_is_no_place_to_go_on_from(filled: Store, data: bytes) -> None:
    kept = Kept(filled)
    kept.data = data
    await completed(kept.scrub())


async def test_without_an_interval_nothing_is_read(filled: Store) -> None:
    scrub = Kept(filled, seconds=0).scrub()
    async with asyncio.timeout(PATIENCE_S):
        await scrub.run()
    assert scrub.progress == 0.0


async def test_it_goes_on_while_the_database_is_replaced(leader: Node, follower: Node) -> None:
    leader.store.stage(Model().random_changes(random.Random(2), 200), 100)
    await leader.store.flusher.drain()
    copy = await leader.copies.copy()
    kept = Kept(follower.store)
    scrub = kept.scrub()
    running = asyncio.create_task(scrub.run())
    follower.journal.move(100)
    await follower.copies.install(copy.path, 100, 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    scrub = kept.scrub()
    scrub.standing.completed_ms = 0
    kept.data = b""
    await completed(scrub)
    assert scrub.standing.completed_ms
