"""Term, vote and configuration are whole, old or new, and what was called durable stays."""

from __future__ import annotations

import random
from pathlib import Path

import google_crc32c
import msgspec
import pytest

from orchestrator import __version__
from orchestrator.replication.errors import FormatUnsupported, JournalCorrupt
from orchestrator.replication.files import replace_file
from orchestrator.replication.hard_state import FILE_NAME, HardState
from tests.replication.journals import Disk
from tests.replication.power_loss import PowerLossFiles

HOME = Path("/data/raft")


def powered() -> PowerLossFiles:
    files = PowerLossFiles()
    files.make_durable_directory(HOME)
    return files


async def test_durable_only_after_the_disk_said_so() -> None:
    disk = Disk(powered(), HOME)
    disk.hard_state.save(HardState(3, "n1"))
    assert disk.hard_state.current.term == 3
    assert disk.hard_state.durable.term == 0
    await disk.queue.drain()
    assert disk.hard_state.durable == HardState(3, "n1")
    disk.close()


async def votes_after_power_loss(seed: int, *, lie: bool) -> None:
    rng = random.Random(seed)
    files = powered()
    for term in range(1, 8):
        disk = Disk(files, HOME)
        disk.hard_state.load()
        files.lie = lie
        disk.hard_state.save(HardState(term, f"n{term}"))
        if rng.random() < 0.7:
            await disk.queue.drain()
        durable = disk.hard_state.durable
        files = files.power_loss(rng)
        disk.close()
        left = Disk(files, HOME)
        left.hard_state.load()
        assert left.hard_state.durable.term >= durable.term
        assert left.hard_state.durable.voted_for in (durable.voted_for, f"n{term}")
        left.close()


@pytest.mark.parametrize("seed", range(10))
async def test_a_durable_vote_survives_power_loss(seed: int) -> None:
    await votes_after_power_loss(seed, lie=False)


async def test_the_power_loss_test_can_fail() -> None:
    with pytest.raises(AssertionError):
        await votes_after_power_loss(1, lie=True)


async def test_damage_refuses_to_start() -> None:
    files = powered()
    disk = Disk(files, HOME)
    disk.hard_state.save(HardState(3, "n1", {"n1": "a"}))
    await disk.queue.drain()
    files._inode(HOME / FILE_NAME).data[-1] ^= 1
    with pytest.raises(JournalCorrupt, match="no longer knows whom it voted for"):
        disk.hard_state.load()
    disk.close()


async def test_a_newer_format_is_not_taken_for_damage() -> None:
    files = powered()
    disk = Disk(files, HOME)
    disk.hard_state.save(HardState(3, "n1"))
    await disk.queue.drain()
    raw = msgspec.msgpack.encode(msgspec.msgpack.decode(files.read(HOME / FILE_NAME)[4:]) | {"format_version": 2})
    replace_file(files, HOME / FILE_NAME, google_crc32c.value(raw).to_bytes(4, "big") + raw)
    with pytest.raises(FormatUnsupported, match=f"format version 2, and orchestrator {__version__} knows up to 1"):
        disk.hard_state.load()
    disk.close()
