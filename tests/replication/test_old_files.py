"""A file of the log that is old, cut or gone is noticed at start, by what the others say: nothing is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import google_crc32c
import msgspec
import pytest

from orchestrator.replication.durable import DurableState
from orchestrator.replication.errors import JournalCorrupt
from orchestrator.replication.files import Files
from orchestrator.replication.hard_state import COPY_NAME, FILE_NAME, HardState
from orchestrator.replication.identity import Identity
from orchestrator.replication.settings import RaftSettings
from orchestrator.replication.worker import thread_worker
from tests.replication.power_loss import PowerLossFiles

DATA = Path("/data")
RAFT = DATA / "raft"
STATE, COPY, SEGMENT = RAFT / FILE_NAME, RAFT / COPY_NAME, RAFT / "00000001.journal"
FIRST, SECOND, THIRD = HardState(1, "n1"), HardState(2, "n2"), HardState(3, "n3")


@asynccontextmanager
async def opened(files: Files, applied: tuple[int, int] = (0, 0)) -> AsyncIterator[DurableState]:
    def failed(error: BaseException) -> None:
        raise AssertionError(f"the disk fails: {error!r}")

    identity = Identity(cluster_id="c", node="n1", incarnation="i", members={"n1": "h:1"})
    state = DurableState(
        files, DATA, identity, RaftSettings(), workers=thread_worker, on_durable=lambda: None, on_error=failed
    )
    try:
        await state.open(*applied)
        yield state
    finally:
        await state.close()


async def written(*saves: HardState, entries: int = 0) -> PowerLossFiles:
    """A directory in which these were saved, one after the other, and entries of the last term written."""
    files = PowerLossFiles()
    files.make_durable_directory(DATA)
    async with opened(files) as state:
        for save in saves:
            state.hard_state.save(save)
            await state.disk.drain()
            await state.disk.drain()  # the copy
        for index in range(1, entries + 1):
            state.journal.append(index, saves[-1].term, 0, b"entry")
        await state.journal.sync()
    return files


def put(files: PowerLossFiles, path: Path, data: bytes) -> None:
    files._inode(path).data[:] = data


def keep(path: Path) -> Callable[[PowerLossFiles, PowerLossFiles], None]:
    return lambda files, before: put(files, path, before.read(path))


def drop(path: Path) -> Callable[[PowerLossFiles, PowerLossFiles], None]:
    return lambda files, before: files.remove(path)


async def refused(files: PowerLossFiles, match: str, applied: tuple[int, int] = (0, 0)) -> None:
    with pytest.raises(JournalCorrupt, match=match):
        async with opened(files, applied):
            pass


@pytest.mark.parametrize(
    ("saves_before", "damage"),
    [(2, keep(STATE)), (1, keep(STATE)), (1, keep(COPY)), (1, drop(COPY)), (2, drop(STATE))],
    ids=["old by one", "old by two", "copy old by two", "copy gone", "gone"],
)
async def test_a_vote_is_not_forgotten(
    saves_before: int, damage: Callable[[PowerLossFiles, PowerLossFiles], None]
) -> None:
    saves = (FIRST, SECOND, THIRD)
    before = await written(*saves[:saves_before])
    files = await written(*saves)
    damage(files, before)
    await refused(files, "no longer knows whom it voted for")


async def test_a_copy_that_lacks_the_last_save_is_made_anew() -> None:
    """As after a crash between the two."""
    before, files = await written(FIRST, SECOND), await written(FIRST, SECOND, THIRD)
    put(files, COPY, before.read(COPY))
    async with opened(files) as state:
        assert state.hard_state.durable == THIRD
        assert files.read(COPY) == files.read(STATE)


async def test_a_term_that_is_older_than_that_of_an_entry_is_refused() -> None:
    before, files = await written(FIRST), await written(FIRST, SECOND, entries=3)
    for path in (STATE, COPY):
        put(files, path, before.read(path))
    await refused(files, "that one is old, and votes given since are forgotten")


async def test_a_directory_of_the_first_format_is_taken_over() -> None:
    files = await written(FIRST)
    # As it was written before saves were numbered.
    raw = msgspec.msgpack.encode({"term": 1, "voted_for": "n1", "configuration": None, "admitted": b""})
    put(files, STATE, google_crc32c.value(raw).to_bytes(4, "big") + raw)
    files.remove(COPY)
    async with opened(files) as state:
        assert state.hard_state.durable == FIRST
        state.hard_state.save(SECOND)
        await state.disk.drain()
        await state.disk.drain()  # the copy
        assert files.read(COPY) == files.read(STATE)


@pytest.mark.parametrize("left", [0, 40, 150], ids=["emptied", "in its header", "in a record"])
async def test_a_journal_that_ends_before_the_database_is_refused(left: int) -> None:
    files = await written(FIRST, entries=8)
    put(files, SEGMENT, files.read(SEGMENT)[:left])
    await refused(files, "has lost entries that this node acknowledged", applied=(6, 1))


async def test_a_last_segment_that_is_gone_is_refused() -> None:
    files = await written(FIRST, entries=8)
    files.remove(SEGMENT)
    await refused(files, "lacks its journal", applied=(6, 1))


async def test_a_journal_behind_a_snapshot_that_was_being_installed_is_moved() -> None:
    files = await written(FIRST, entries=8)
    async with opened(files) as state:
        await state.installing(20, 1)
    async with opened(files, (20, 1)) as state:
        assert (state.journal.base_index, state.journal.last_index) == (20, 20)
        await state.disk.drain()
        assert state.hard_state.durable.installing is None


async def test_a_snapshot_that_came_no_further_than_its_announcement_leaves_the_journal() -> None:
    files = await written(FIRST, entries=8)
    async with opened(files) as state:
        await state.installing(20, 1)
    async with opened(files, (6, 1)) as state:
        assert (state.journal.base_index, state.journal.last_index) == (0, 8)
