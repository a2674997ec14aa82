"""The flusher: in order, never ahead of the journal, nothing staged is ever invisible, the first error is final."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine.model import Table
from orchestrator.storage.errors import InconsistentChanges, StorageClosed
from orchestrator.storage.flusher import FlusherSettings
from orchestrator.storage.lanes import Done, InlineLane, ThreadLane
from orchestrator.storage.schema import NUMBER_MAX
from orchestrator.storage.staged import Change
from tests.storage.samples import (
    Journal,
    Model,
    Store,
    everything,
    gone,
    new,
    put_execution,
    put_task,
    put_timer,
    scan,
)

PATIENT = FlusherSettings(interval_ms=3_600_000, gap_ms=0)


async def reasons(store: Store, workflow_id: str = "w1") -> list[str]:
    """What distinguishes the versions of the tasks of an execution."""
    rows = await store.database.load_execution("default", workflow_id)
    return [row.reason for table, _, row in rows if table is Table.TASK]


async def test_what_is_staged_is_read_before_it_is_committed(tmp_path: Path) -> None:
    journal = Journal(0)
    store = Store(tmp_path / "state.db", journal=journal)
    store.stage([put_execution("w1"), put_task("w1", 1, "old"), put_task("w1", 2)], 1)
    store.stage([put_task("w1", 1, "new"), gone(put_task("w1", 2))], 2)
    assert await reasons(store) == ["new"]
    assert store.database.applied().index == 0
    journal.move(1)
    await journal.asked.wait()
    assert await reasons(store) == ["new"]
    journal.move(2)
    await store.flusher.flush_now()
    assert store.database.overlay.capture(("default", "w1")) == []
    assert await reasons(store) == ["new"]
    await store.close()


async def test_a_staged_deletion_is_seen_before_it_is_committed(tmp_path: Path) -> None:
    journal = Journal(1)
    store = Store(tmp_path / "state.db", journal=journal)
    store.stage([put_execution("w1"), put_task("w1", 1)], 1)
    await store.flusher.flush_now()
    store.stage([gone(put_task("w1", 1)), gone(put_execution("w1"))], 2)
    assert await store.database.load_execution("default", "w1") == []
    await store.close()


class GatedLane(InlineLane):
    """Readers wait at the gate."""

    gate = asyncio.Event()
    arrived = asyncio.Event()

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._gated = "reader" in name

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        if not self._gated:
            super().submit(job, done)
            return

        async def later() -> None:
            self.arrived.set()
            await self.gate.wait()
            InlineLane.submit(self, job, done)

        self._task = asyncio.create_task(later())


async def test_a_read_overtaken_by_commits_does_not_mix_old_rows_into_new_ones(tmp_path: Path) -> None:
    GatedLane.gate, GatedLane.arrived = asyncio.Event(), asyncio.Event()
    store = Store(tmp_path / "state.db", lanes=GatedLane)
    store.stage([put_execution("w1"), put_task("w1", 1, "one"), put_task("w1", 2, "one")], 1)
    load = asyncio.create_task(reasons(store))
    await GatedLane.arrived.wait()
    store.stage([put_task("w1", 1, "two"), put_task("w1", 2, "two")], 2)
    await store.flusher.flush_now()
    store.stage([put_task("w1", 1, "three")], 3)
    GatedLane.gate.set()
    assert await load == ["two", "two"]
    assert await reasons(store) == ["three", "two"]
    await store.close()


async def test_nothing_is_committed_ahead_of_the_journal(tmp_path: Path) -> None:
    journal = Journal(2)
    store = Store(tmp_path / "state.db", journal=journal)
    for index in (1, 2, 3):
        store.stage([put_timer(index)], index)
    await journal.asked.wait()
    assert store.flusher.flushed_index == store.database.applied().index == 2
    assert len(list(store.database.load_resident())) == 2
    journal.move(3)
    await store.flusher.flush_now()
    assert store.flusher.flushed_index == 3
    await store.close()


async def test_waiting_batches_are_one_transaction(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db", settings=PATIENT)
    for index in range(1, 51):
        store.stage([put_timer(1, index)], index)
    await store.flusher.drain()
    store.stage([put_timer(1, 99)], 51)
    await asyncio.gather(*(store.flusher.flush_now() for _ in range(20)))
    assert store.flushed == [50, 51]
    assert len(store.seconds) == 2 and min(store.seconds) > 0
    assert [row.fire_ms for _, _, row in store.database.load_resident()] == [99]
    await store.close()


async def test_nobody_asks_nothing_is_hurried(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db", settings=PATIENT, lanes=InlineLane)
    store.stage([put_timer(1)], 1)
    await store.flusher.drain()
    store.stage([put_timer(2)], 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert store.flushed == [1]
    await store.close()


async def test_much_that_is_staged_is_written_unasked(tmp_path: Path) -> None:
    settings = FlusherSettings(interval_ms=3_600_000, hurry_bytes=2000, dirty_bytes_max=3000)
    store = Store(tmp_path / "state.db", settings=settings)
    store.stage([put_timer(1)], 1)
    await store.flusher.drain()
    store.stage([put_timer(number) for number in range(50)], 2)
    assert store.flusher.dirty_bytes > 3000
    await store.flusher.wait_room()
    assert store.flusher.dirty_bytes == 0
    assert store.flushed == [1, 2]
    await store.close()


async def test_a_checkpoint_tells_the_content_hash_at_its_index(store: Store) -> None:
    model = Model()
    dice = random.Random(1)
    wanted = []
    for index in range(1, 41):
        store.stage(model.random_changes(dice, 5), index, checkpoint=index % 7 == 0)
        if index % 7 == 0:
            wanted.append((index, model.content_hash()))
    await store.flusher.drain()
    assert store.checkpoints == wanted


@pytest.mark.parametrize("seed", range(6))
async def test_the_database_holds_what_was_staged(tmp_path: Path, seed: int) -> None:
    """Against a dict, with batches merged as it happens; read while it is written, and after a restart."""
    dice = random.Random(seed)
    model = Model()
    store = Store(tmp_path / "state.db", lanes=dice.choice([ThreadLane, InlineLane]))
    for index in range(1, 121):
        store.stage(model.random_changes(dice, dice.choice([1, 5, 40])), index)
        if dice.randrange(4) == 0:
            await store.flusher.flush_now()
        workflow_id = f"w{dice.randrange(12)}"
        loaded = await store.database.load_execution("default", workflow_id)
        assert {(table, key): row for table, key, row in loaded} == model.of_execution("default", workflow_id)
    await store.flusher.drain()
    assert store.errors == []
    await store.close()
    reopened = Store(tmp_path / "state.db")
    assert await everything(reopened.database, model) == model.rows
    assert reopened.database.applied().content_hash == model.content_hash() == scan(reopened.database)
    await reopened.close()


@pytest.mark.parametrize(
    "changes",
    [
        [put_task("nobody", 1)],
        [gone(put_execution("w1"))],
        [gone(put_execution("w1")), put_task("w1", 1)],
        [put_task("w1", NUMBER_MAX + 1)],
        [new(put_execution("w1"))],
        [new(put_task("w1", 1))],
    ],
    ids=[
        "a child alone", "children left", "a child of what is gone", "a number out of range",
        "an execution said to be new", "a task said to be new",
    ],
)
async def test_what_cannot_be_stored_stops_the_node(store: Store, changes: list[Change]) -> None:
    store.stage([put_execution("w1"), put_task("w1", 1)], 1)
    await store.flusher.flush_now()
    store.stage([put_timer(1), *changes], 2)
    with pytest.raises(StorageClosed):
        await store.flusher.flush_now()
    assert [type(error) for error in store.errors] == [InconsistentChanges]
    assert store.database.applied().index == 1
    assert list(store.database.load_resident()) == []
    with pytest.raises(StorageClosed):
        store.stage([], 3)
    with pytest.raises(StorageClosed):
        await store.flusher.flush_now()


async def test_closing_leaves_nobody_waiting(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db", journal=Journal(0))
    store.stage([put_timer(1)], 1)
    waiting = asyncio.create_task(store.flusher.flush_now())
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StorageClosed):
        await waiting
    reopened = Store(tmp_path / "state.db")
    assert reopened.database.applied().index == 0
    await reopened.close()
