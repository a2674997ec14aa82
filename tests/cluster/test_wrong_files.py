"""Damaged files and rows that differ: the node says so and stops, the others go on, and one command rebuilds it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.codec.rows import HASH_MODULUS, decode_key, row_digest
from orchestrator.engine.model import Table
from orchestrator.replication.segment import RECORD_MAGIC
from orchestrator.storage.schema import PAGE_BYTES, applied_meta, connect, read_applied, write_meta
from tests.cluster.conftest import StartCluster
from tests.cluster.nodes import caught_up, check_same_content, pinned
from tests.cluster.workload import eventually
from tests.cluster.wrong import (
    REFUSED,
    STOPPED_ITSELF,
    ends,
    flip_byte,
    goes_on_without,
    journal_file,
    loaded,
    middle_record,
    overwrite_page,
    rebuild,
    restore_page,
    run_once,
    serves_nothing,
)

pytestmark = pytest.mark.long

BUILD = "orchestrator cluster rebuild"
DIFFERS = ("this node stops itself: at index", "the majority's another", BUILD)


async def test_damage_that_is_found_at_the_start(start_cluster: StartCluster) -> None:
    cluster = await start_cluster()
    leader = await cluster.wait_leader()
    wrong = next(name for name in cluster.nodes if name != leader)
    async with loaded(cluster) as (_, load):
        await cluster.stop_node(wrong)
        journal, database = journal_file(cluster, wrong), cluster.nodes[wrong].data_dir / "state.db"
        place = middle_record(journal)
        flip_byte(journal, place)
        await run_once(cluster, wrong, REFUSED, "the data directory was refused", str(journal), "is damaged", BUILD)
        flip_byte(journal, place)
        # The first page says what the file is, the second is of a table that is read at the start.
        for page in (1, 2):
            before = overwrite_page(database, page)
            await run_once(cluster, wrong, REFUSED, "the data directory was refused", BUILD)
            restore_page(database, page, before)
        hard_state = cluster.nodes[wrong].data_dir / "raft" / "hard_state"
        hard_state.write_bytes(b"\0" * hard_state.stat().st_size)
        await run_once(cluster, wrong, REFUSED, "the data directory was refused", BUILD)
        await goes_on_without(cluster, wrong, load)
        await rebuild(cluster, wrong)
        await load.progress(10)
    await caught_up(cluster, wrong)


async def test_a_page_that_is_damaged_while_the_node_runs(start_cluster: StartCluster) -> None:
    """What it reads of it is not shown to anybody, fresh or stale, and it stops."""
    cluster = await start_cluster(hot_executions_max=100)
    leader = await cluster.wait_leader()
    wrong = next(name for name in cluster.nodes if name != leader)
    async with loaded(cluster) as (_, load):
        await load.progress(150)
        await cluster.stop_node(wrong)  # what is in its log goes into the database
        cluster.start_node(wrong)
        await cluster.wait_ready()
        await caught_up(cluster, wrong)
        database = cluster.nodes[wrong].data_dir / "state.db"
        for page in range(3, database.stat().st_size // PAGE_BYTES + 1):
            overwrite_page(database, page)

        async def stumbles() -> bool:
            async with pinned(cluster, wrong) as node:
                for number in range(20):
                    await node.get(f"load-{number}", stale_ok=True, timeout_s=1)
            return cluster.nodes[wrong].exit_code is not None

        await eventually(stumbles, "the node to read what is damaged")
        await ends(cluster, wrong, STOPPED_ITSELF, "this node stops itself: the database is damaged", BUILD)
        await goes_on_without(cluster, wrong, load)
        await run_once(cluster, wrong, REFUSED, "the data directory was refused", BUILD)
        await rebuild(cluster, wrong)
    await caught_up(cluster, wrong)


async def test_a_journal_that_is_damaged_while_the_node_leads(start_cluster: StartCluster) -> None:
    """It is read back for a follower that was away, and what does not read back is sent to nobody."""
    cluster = await start_cluster()
    leader = await cluster.wait_leader()
    away = next(name for name in cluster.nodes if name != leader)
    async with loaded(cluster) as (_, load):
        await cluster.stop_node(away)
        await load.progress(60)
        # After a restart nothing of the journal is in memory.
        for name in cluster.nodes.keys() - {away}:
            await cluster.kill_node(name)
        for name in cluster.nodes.keys() - {away}:
            cluster.start_node(name)
        wrong = await cluster.wait_leader()
        await load.progress(10)
        journal = journal_file(cluster, wrong)
        behind = cluster.nodes[away].data_dir / "raft" / journal.name
        flip_byte(journal, journal.read_bytes().index(RECORD_MAGIC, behind.stat().st_size + 1_000) + 20)
        cluster.start_node(away)
        await ends(cluster, wrong, STOPPED_ITSELF, "this node stops itself: journal segment", "changed on disk", BUILD)
        await goes_on_without(cluster, wrong, load)
        await run_once(cluster, wrong, REFUSED, "the data directory was refused", BUILD)
        await rebuild(cluster, wrong)
    await caught_up(cluster, wrong)


def make_different(database: Path) -> None:
    """As if applying an entry had come to something else here: a row, its hash and the sum of all say the same."""
    connection = connect(str(database), None)
    with connection:
        applied = read_applied(connection)
        number, key, body, digest = connection.execute(
            "SELECT table_number, key, body, hash FROM resident WHERE table_number = ? LIMIT 1", [Table.TASK_DEFINITION]
        ).fetchone()
        changed = body.replace(b"increment", b"incremenT").replace(b"double", b"doublE").replace(b"add", b"adD")
        assert changed != body
        table = Table(number)
        after = row_digest(table, decode_key(key), changed)
        connection.execute("UPDATE resident SET body = ?, hash = ? WHERE table_number = ? AND key = ?",
                           [changed, after, number, key])
        total = applied.content_hash - int.from_bytes(digest, "big") + int.from_bytes(after, "big")
        write_meta(connection, applied_meta(replace(applied, content_hash=total % HASH_MODULUS)))
    connection.close()


async def test_a_follower_whose_rows_differ_stops_at_the_next_checkpoint(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(checkpoint_interval_ms=500)
    leader = await cluster.wait_leader()
    wrong = next(name for name in cluster.nodes if name != leader)
    async with loaded(cluster) as (_, load):
        await cluster.stop_node(wrong)
        make_different(cluster.nodes[wrong].data_dir / "state.db")
        await run_once(cluster, wrong, STOPPED_ITSELF, *DIFFERS)
        await serves_nothing(cluster, wrong, "load-0")
        await goes_on_without(cluster, wrong, load)
        await rebuild(cluster, wrong)
        await load.progress(10)
    await caught_up(cluster, wrong)
    await check_same_content(cluster)


async def test_a_leader_whose_rows_differ_stops_at_the_next_checkpoint(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(checkpoint_interval_ms=500)
    async with loaded(cluster):
        pass
    wrong = await cluster.wait_leader()
    others = [name for name in cluster.nodes if name != wrong]
    # It has the end of the log, and the others are slower than it is: so it leads again. What it was told is in its
    # database, for it ends in order.
    for name in others:
        await cluster.kill_node(name)
    await cluster.stop_node(wrong)
    make_different(cluster.nodes[wrong].data_dir / "state.db")
    for name in others:
        with cluster.nodes[name].config_file.open("a") as file:
            file.write("election_timeout_min_ms = 4000\nelection_timeout_max_ms = 5000\n")
    cluster.start_node(wrong)
    # Who finds nobody at the port of the leader that it knew campaigns without waiting.
    await eventually(lambda: cluster.status(wrong), "the node to serve")
    for name in others:
        cluster.start_node(name)
    assert await cluster.wait_leader() == wrong
    async with loaded(cluster, "again") as (_, load):
        await ends(cluster, wrong, STOPPED_ITSELF, *DIFFERS)
        await goes_on_without(cluster, wrong, load)
