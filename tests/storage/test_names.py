"""The filter of names: what it says is not there is not there, whatever happens while it is filled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.model import Execution
from orchestrator.storage import database as databases
from orchestrator.storage import names
from orchestrator.storage.lanes import Done, InlineLane
from orchestrator.storage.names import Filter
from orchestrator.storage.schema import connect
from tests.storage.samples import Model, Store, gone, put_execution

DEADLINE_S = 20.0


def test_a_filter_knows_what_it_was_given_and_little_else() -> None:
    filter_ = Filter(5_000)
    given = [("default", f"w{number}") for number in range(5_000)]
    for key in given:
        filter_.add(key)
    assert all(key in filter_ for key in given)
    others = [(namespace, f"x{number}") for namespace in ("default", "other") for number in range(5_000)]
    assert sum(key in filter_ for key in others) < 500
    assert ("other", "w1") not in filter_


class CountedLane(InlineLane):
    """Reads of executions are counted."""

    reads = 0

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._counted = "reader" in name

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        CountedLane.reads += self._counted
        super().submit(job, done)


async def filled(store: Store) -> asyncio.Task[None]:
    """Learns names until cancelled; by now it knows those that there are."""
    learning = asyncio.create_task(store.database.learn_names())
    async with asyncio.timeout(DEADLINE_S):
        while store.database.names.wanted.is_set():  # noqa: ASYNC110 - the filter tells nobody when it is full
            await asyncio.sleep(0.001)
    return learning


async def ids(store: Store, *wanted: str) -> list[str]:
    """Which of them are found."""
    found = [await store.database.load_execution("default", workflow_id) for workflow_id in wanted]
    return [row.workflow_id for rows in found for _, _, row in rows if isinstance(row, Execution)]


async def test_what_is_not_there_is_not_read(tmp_path: Path) -> None:
    CountedLane.reads = 0
    store = Store(tmp_path / "state.db", lanes=CountedLane)
    store.stage([put_execution("stored")], 1)
    await store.flusher.flush_now()
    assert await ids(store, "nobody") == []
    assert CountedLane.reads == 1  # nothing is known yet
    learning = await filled(store)
    assert await ids(store, "nobody", "somebody") == []
    assert CountedLane.reads == 1
    store.stage([put_execution("staged")], 2)
    assert await ids(store, "stored", "staged", "nobody") == ["stored", "staged"]
    store.stage([gone(put_execution("stored"))], 3)
    assert await ids(store, "stored", "staged") == ["staged"]
    learning.cancel()
    await store.close()


async def test_whatever_happens_while_it_is_filled_everything_there_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pages are small and the filter is soon full: it is filled all the time.
    monkeypatch.setattr(names, "NAMES_PER_PAGE", 3)
    monkeypatch.setattr(names, "NAMES_MIN", 20)
    monkeypatch.setattr(databases, "_NAMES_PAUSE_SECONDS", 0)
    dice = random.Random(4)
    store, model = Store(tmp_path / "state.db"), Model()
    learning = asyncio.create_task(store.database.learn_names())
    unread = 0
    for index in range(1, 300):
        name = f"w{dice.randrange(400)}"
        if (known := model.of_execution("default", name)) and dice.randrange(2):
            changes = [(*place, None, True) for place in known]
        else:
            changes = [put_execution(name)]
        model.change(changes)
        store.stage(changes, index)
        if dice.randrange(3) == 0:
            await store.flusher.flush_now()
        there = sorted({str(key[1]) for _, key in model.rows})
        for workflow_id in dice.sample(there, min(5, len(there))):
            assert await ids(store, workflow_id) == [workflow_id]
        unread += not store.database.names.may_have(("default", "never"))
        await asyncio.sleep(0)
    assert not learning.done()
    assert unread
    learning.cancel()
    await store.close()


async def test_another_database_has_other_names(tmp_path: Path) -> None:
    donor = Store(tmp_path / "donor.db")
    donor.stage([put_execution("theirs")], 7)
    await donor.flusher.drain()
    await donor.close()
    connection = connect(str(tmp_path / "donor.db"), None)
    connection.execute("VACUUM INTO ?", (str(tmp_path / "copy"),))
    connection.close()
    store = Store(tmp_path / "state.db")
    learning = await filled(store)
    assert not store.database.names.may_have(("default", "theirs"))
    await store.database.replace(tmp_path / "copy")
    assert await ids(store, "theirs") == ["theirs"]
    async with asyncio.timeout(DEADLINE_S):
        while store.database.names.wanted.is_set():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
    assert await ids(store, "theirs", "ours") == ["theirs"]
    learning.cancel()
    await store.close()
