"""What was said to be flushed survives a power loss at any point; and with a sync that does nothing it would not."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from orchestrator.storage.copies import Copies
from orchestrator.storage.lanes import InlineLane
from tests.storage.power_loss_vfs import PowerLossDisk
from tests.storage.samples import CLUSTER, Model, Store, everything, put_timer, scan

SEEDS = range(12)
DATABASE = "state.db"


def open_store(disk: PowerLossDisk) -> Store:
    return Store(disk.path(DATABASE), vfs=disk.name, lanes=InlineLane, files=disk)


async def abandon(store: Store) -> None:
    """The process is gone: nothing it still does has an effect, and nobody hears of its errors."""
    for close in (store.flusher.close, store.database.close):
        try:
            await close()
        except Exception:  # noqa: BLE001 - the disk is dead to it
            pass


async def write_until_power_fails(disk: PowerLossDisk, seed: int, batches: int = 30) -> tuple[int, dict[int, Model]]:
    """The index that was said to be flushed, and what had to be stored at each index."""
    dice = random.Random(seed)
    model = Model()
    history = {0: Model()}
    store = open_store(disk)
    disk.fails_at = disk.operations + dice.randrange(20, 900)
    for index in range(1, batches + 1):
        store.stage(model.random_changes(dice, 4), index, checkpoint=dice.randrange(4) == 0)
        history[index] = Model()
        history[index].rows = dict(model.rows)
        try:
            if dice.randrange(2):
                await store.flusher.flush_now()
        except Exception:  # noqa: BLE001 - the power is gone
            break
    flushed = store.flusher.flushed_index
    disk.lose_power()
    await abandon(store)
    return flushed, history


async def check_survivors(disk: PowerLossDisk, flushed: int, history: dict[int, Model]) -> None:
    store = open_store(disk)
    applied = store.database.applied()
    assert applied.index >= flushed
    wanted = history[applied.index]
    assert await everything(store.database, wanted) == wanted.rows
    assert applied.content_hash == wanted.content_hash() == scan(store.database)
    await store.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_flushed_transactions_survive_power_loss(tmp_path: Path, seed: int) -> None:
    disk = PowerLossDisk(tmp_path, seed)
    flushed, history = await write_until_power_fails(disk, seed)
    await check_survivors(disk, flushed, history)


@pytest.mark.parametrize("seed", SEEDS)
async def test_without_sync_they_would_not(tmp_path: Path, seed: int) -> None:
    """So the test above can fail."""
    disk = PowerLossDisk(tmp_path, seed, sync_works=False)
    flushed, history = await write_until_power_fails(disk, seed)
    assert flushed > 0
    with pytest.raises(Exception):  # noqa: B017 - lost, or so torn that it cannot be opened
        await check_survivors(disk, flushed, history)


async def _installing(disk: PowerLossDisk, fails_after: int | None) -> tuple[int, bool]:
    """Installs a copy over a database that is behind it; how many operations that took, and whether it succeeded."""
    donor = Store(disk.path("donor.db"), vfs=disk.name, lanes=InlineLane, files=disk)
    donor.stage([put_timer(number, 7) for number in range(50)], 100)
    await donor.flusher.drain()
    copy = await Copies(donor.database, donor.flusher, disk.path(""), lanes=InlineLane).copy()
    await donor.close()

    store = open_store(disk)
    for index in range(1, 6):
        # So many that the last transaction is alone in the log: replayed into another file, it would be noticed.
        store.stage([put_timer(number, 1) for number in (range(300) if index < 5 else [300])], index)
        await store.flusher.drain()
    incoming = disk.path("incoming.db")
    disk.put(incoming, disk.content(copy.path))
    installed = True
    before = disk.operations
    disk.fails_at = None if fails_after is None else before + fails_after
    copies = Copies(store.database, store.flusher, disk.path(""), lanes=InlineLane)
    try:
        await copies.install(incoming, copy.index, copy.term)
    except Exception:  # noqa: BLE001 - the power is gone
        installed = False
    took = disk.operations - before
    disk.lose_power()
    await abandon(store)
    return took, installed


async def test_an_install_cut_anywhere_leaves_the_old_or_the_new_database(tmp_path: Path) -> None:
    took, installed = await _installing(PowerLossDisk(tmp_path / "whole"), None)
    assert installed
    assert took > 5
    seen = set()
    for fails_after, seed in itertools.product(range(took + 1), range(16)):
        disk = PowerLossDisk(tmp_path / f"{fails_after}-{seed}", 100 * fails_after + seed)
        _, installed = await _installing(disk, fails_after)
        store = open_store(disk)
        applied = store.database.applied()
        assert applied.index == 100 if installed else applied.index in (5, 100)
        assert len(list(store.database.load_resident())) == (301 if applied.index == 5 else 50)
        assert scan(store.database) == applied.content_hash
        seen.add(applied.index)
        await store.close()
    assert seen == {5, 100}


async def test_the_stamp_survives_too(tmp_path: Path) -> None:
    disk = PowerLossDisk(tmp_path)
    await abandon(open_store(disk))
    disk.lose_power()
    store = open_store(disk)
    assert store.database.identity.cluster_id == CLUSTER
    await store.close()
