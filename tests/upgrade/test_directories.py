"""What the previous release has written is read, computed again alike, served, and can be given back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator import recovery
from orchestrator.codec.entries import decode_entry
from orchestrator.codec.rows import decode_row, encode_row
from orchestrator.engine.model import Table
from orchestrator.replication import identity as identities
from orchestrator.replication.files import RealFiles
from orchestrator.replication.log import EntryKind
from orchestrator.storage.database import Database
from orchestrator.storage.reading import content_hash
from orchestrator.storage.schema import CHILD_TABLES, connect, read_applied
from orchestrator_client import Client
from tests.cluster.nodes import check_same_content
from tests.cluster.workload import eventually
from tests.upgrade import mixed
from tests.upgrade.conftest import StartMixed
from tests.upgrade.directories import move_in, unpack

NODES = ("a", "b", "c")
READ_BYTES = 1 << 20


@pytest.mark.parametrize("node", NODES)
def test_every_row_is_read_and_would_be_written_as_it_is(tmp_path: Path, node: str) -> None:
    told = unpack(tmp_path)
    connection = connect(str(tmp_path / node / "state.db"), None)
    rows = [(Table.EXECUTION, body) for (body,) in connection.execute("SELECT body FROM execution")]
    for table, name in CHILD_TABLES.items():
        rows += [(table, body) for (body,) in connection.execute(f"SELECT body FROM {name}")]
    rows += [(Table(number), body) for number, body in connection.execute("SELECT table_number, body FROM resident")]
    assert len(rows) > 300
    assert [table.name for table, body in rows if encode_row(decode_row(table, body)) != body] == []
    applied = read_applied(connection)
    assert (applied.index, applied.chain_hash.hex()) == (told["nodes"][node]["index"], told["nodes"][node]["chain"])
    assert f"{applied.content_hash:032x}" == f"{content_hash(connection):032x}" == told["nodes"][node]["content"]
    connection.close()


async def test_its_log_comes_to_the_same_rows_when_it_is_applied_again(tmp_path: Path) -> None:
    """From the first entry on: what this release computes at the old level is what the old one has computed."""
    told = unpack(tmp_path)["nodes"]["a"]
    directory = tmp_path / "a"
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        await asyncio.to_thread((directory / name).unlink, missing_ok=True)
    identity = identities.load(RealFiles(), directory)
    blank = Database.open(directory / "state.db", cluster_id=identity.cluster_id)
    await blank.close()
    async with recovery._opened(directory, identity) as (durable, found):
        assert found.last_index >= told["index"]
        kinds = [record.kind async for record in _records(durable, found.last_index)]
        assert kinds.count(EntryKind.COMMANDS) > 50
        await recovery._apply_all(directory, durable, identity, found)
    connection = connect(str(directory / "state.db"), None)
    applied = read_applied(connection)
    connection.close()
    assert (applied.index, applied.chain_hash.hex()) == (told["index"], told["chain"])
    assert f"{applied.content_hash:032x}" == told["content"]


async def _records(durable: Any, last_index: int) -> Any:
    for index in range(1, last_index + 1):
        [record, *_] = await durable.journal.read(index, 1)
        if record.kind == EntryKind.COMMANDS:
            decode_entry(record.data)
        yield record


async def test_everything_is_served_goes_on_and_can_be_given_back(start_mixed: StartMixed, tmp_path: Path) -> None:
    told = unpack(tmp_path / "unpacked")
    cluster = await start_mixed(all_old=False, prepared=lambda made: move_in(made, tmp_path / "unpacked"))
    async with Client(cluster.endpoints) as client:
        assert mixed.missing(_quiet(told["said"]), _quiet(await mixed.listing(client))) == []
        assert (await client.start("waits", {}, id="waits-3", if_exists="return")).existing
        async with mixed.workers(client) as released:
            released.set()
            for number in range(mixed.EACH):
                assert (await client.wait(f"{mixed.LEASED}-{number}", 60)).output == {"result": number}
            await _go_on(client)
        kept = await mixed.listing(client)
    await check_same_content(cluster)
    # Nobody has raised the level: the release before serves it all again.
    cluster.old_nodes = set(cluster.nodes)
    await cluster.start()
    await cluster.wait_ready()
    async with Client(cluster.endpoints) as client:
        assert mixed.missing(kept, await mixed.listing(client)) == []
        async with mixed.workers(client):
            await client.start("everything", {"x": 5, "kind": "odd"}, id="given-back")
            assert (await client.wait("given-back", 60)).status == "COMPLETED"
    await check_same_content(cluster)


def _quiet(said: dict[str, Any]) -> dict[str, Any]:
    """Without what goes on by itself as soon as nodes run: a worker's lease ends with its session."""
    executions = {
        name: each for name, each in said["executions"].items() if not name.startswith((f"{mixed.LEASED}-",))
    }
    return said | {"executions": executions}


async def _go_on(client: Client) -> None:
    """What has waited since the release before."""
    await client.signal("waits-3", "go")
    await client.resume("waits-1")
    await client.signal("waits-1", "go")
    for workflow_id in ("waits-1", "waits-3"):
        assert (await client.wait(workflow_id, 60)).status == "COMPLETED"
    [person] = (await client.get("human-0", tasks=True)).tasks
    await client.update_task("human-0", person.reference, "COMPLETED", {"said": "yes"})
    assert (await client.wait("human-0", 60)).status == "COMPLETED"
    # The secret can still be opened, with the same keys.
    await client.start("secretive", {}, id="secretive-again")
    assert (await client.wait("secretive-again", 60)).status == "COMPLETED"
    # One after the other gets the place.
    for number in range(mixed.EACH):
        await client.signal(f"gated-{number}", "go")
    for number in range(mixed.EACH):
        assert (await client.wait(f"gated-{number}", 60)).status == "COMPLETED"
    await client.schedules.run("nightly")
    await client.events.publish("published", {"n": 2}, message_id="another")
    await client.abandon_compensation("stuck-0", "enough")
    await client.restart("undone-0", effects="keep")

    async def quiet() -> bool:
        return not [event async for event in client.events.pending()]

    await eventually(quiet, "the events to be handled")
