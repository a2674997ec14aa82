"""Damage is told to the owner of the database whoever comes across it, and a copy that fails leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest

from orchestrator.engine.model import Table
from orchestrator.storage import schema
from orchestrator.storage.errors import DatabaseCorrupt
from tests.storage.samples import Store
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


