"""The journal keeps what it called durable, through torn tails, truncation, segments and power loss."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.replication.errors import FormatUnsupported, JournalCorrupt
from orchestrator.replication.files import RealFiles
from orchestrator.replication.journal import Journal
from tests.replication.journals import Disk, payload
from tests.replication.power_loss import PowerLossFiles

HOME = Path("/data/raft")


def powered() -> PowerLossFiles:
    files = PowerLossFiles()
    files.make_durable_directory(HOME.parent)
    return files


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.journal"))


async def test_reads_back_after_reopening(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft", segment_bytes=500)
    disk.fill(1, 100)
    disk.fill(101, 120, term=3)
    await disk.journal.sync()
    assert disk.journal.durable_index == 120
    disk.close()
    again = Disk(RealFiles(), tmp_path / "raft", segment_bytes=500)
    assert (again.journal.last_index, again.journal.last_term, again.journal.durable_index) == (120, 3, 120)
    assert [again.journal.term_at(index) for index in (0, 1, 100, 101, 121)] == [0, 1, 1, 3, None]
    assert await again.read_all() == [
        (index, 1 if index <= 100 else 3, payload(index, 1 if index <= 100 else 3)) for index in range(1, 121)
    ]
    again.close()


async def test_durable_index_follows_the_sync_and_syncs_are_shared() -> None:
    files = powered()
    disk = Disk(files, HOME)
    before = files.syncs
    disk.fill(1, 1000)
    disk.journal.flush()
    assert disk.journal.durable_index == 0
    await disk.journal.sync()
    assert disk.journal.durable_index == 1000
    assert files.syncs - before <= 2
    disk.close()


async def test_old_entries_leave_the_cache_and_are_read_from_disk() -> None:
    disk = Disk(powered(), HOME, cache_bytes=1000, segment_bytes=4000)
    disk.fill(1, 500)
    await disk.journal.sync()
    assert disk.journal.cached(1, 100) is None
    assert disk.journal.cached(500, 100) is not None
    assert len(await disk.read_all()) == 500
    disk.close()


async def test_entries_that_are_not_durable_never_leave_the_cache() -> None:
    disk = Disk(powered(), HOME, cache_bytes=100)
    disk.fill(1, 500)
    cached = disk.journal.cached(1, 1 << 20)
    assert cached is not None and len(cached) == 500
    await disk.journal.sync()
    disk.close()


async def test_truncation_across_segments_then_other_entries(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft", segment_bytes=500)
    disk.fill(1, 100)
    await disk.journal.sync()
    disk.journal.truncate_from(31)
    assert (disk.journal.last_index, disk.journal.durable_index) == (30, 30)
    disk.fill(31, 60, term=2)
    await disk.journal.sync()
    disk.close()
    again = Disk(RealFiles(), tmp_path / "raft")
    assert await again.read_all() == [
        (index, 1 if index <= 30 else 2, payload(index, 1 if index <= 30 else 2)) for index in range(1, 61)
    ]
    again.close()


async def test_truncation_while_a_sync_runs_does_not_call_the_cut_part_durable() -> None:
    disk = Disk(powered(), HOME)
    disk.fill(1, 50)
    disk.journal.flush()
    disk.journal.truncate_from(11)
    disk.fill(11, 12, term=2)
    marks: list[int] = []
    disk._moved = lambda: marks.append(disk.journal.durable_index)  # type: ignore[method-assign]
    disk.journal._on_durable = disk._moved
    await disk.journal.sync()
    assert marks == [10, 12]
    disk.close()


async def test_whole_segments_below_an_index_go() -> None:
    files = powered()
    disk = Disk(files, HOME, segment_bytes=500)
    disk.fill(1, 100)
    await disk.journal.sync()
    held = len(files.listdir(HOME))
    disk.journal.remove_below(disk.journal.removable_below(60, tail_entries=10, tail_bytes=1 << 30))
    await disk.queue.drain()
    assert len(files.listdir(HOME)) < held
    assert 30 <= disk.journal.base_index <= 50
    assert disk.journal.term_at(disk.journal.base_index) == 1
    disk.close()
    again = Disk(files, HOME)
    assert (again.journal.base_index, again.journal.last_index) == (disk.journal.base_index, 100)
    again.close()


async def test_reset_begins_anew_after_a_snapshot() -> None:
    files = powered()
    disk = Disk(files, HOME, segment_bytes=500)
    disk.fill(1, 100)
    await disk.journal.sync()
    disk.journal.reset(500, 7)
    assert (disk.journal.last_index, disk.journal.last_term) == (500, 7)
    disk.fill(501, 510, term=7)
    await disk.journal.sync()
    assert disk.journal.durable_index == 510
    disk.close()
    again = Disk(files.power_loss(), HOME)
    assert (again.journal.base_index, again.journal.base_term, again.journal.last_index) == (500, 7, 510)
    again.close()


async def test_a_leftover_of_a_reset_is_dropped_at_open(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft", segment_bytes=500)
    disk.fill(1, 100)
    await disk.journal.sync()
    leftovers = {path: path.read_bytes() for path in segments(tmp_path / "raft")}
    disk.journal.reset(500, 7)
    await disk.queue.drain()
    disk.close()
    for path, data in leftovers.items():
        path.write_bytes(data)
    again = Disk(RealFiles(), tmp_path / "raft")
    assert (again.journal.base_index, again.journal.last_index) == (500, 500)
    assert len(segments(tmp_path / "raft")) == 1
    again.close()


@pytest.mark.parametrize("cut", [1, 10, 30, 60])
async def test_torn_tail_is_cut(tmp_path: Path, cut: int) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft")
    disk.fill(1, 10)
    await disk.journal.sync()
    disk.close()
    path = segments(tmp_path / "raft")[-1]
    path.write_bytes(path.read_bytes()[:-cut])
    again = Disk(RealFiles(), tmp_path / "raft")
    assert again.journal.last_index in (8, 9)
    again.fill(again.journal.last_index + 1, 20, term=2)
    await again.journal.sync()
    again.close()
    third = Disk(RealFiles(), tmp_path / "raft")
    assert third.journal.last_index == 20
    third.close()


async def test_a_torn_batch_whose_end_reached_the_disk_is_cut_too(tmp_path: Path) -> None:
    """Pages of one unsynced write reach the disk in any order: a good record after a bad one proves nothing."""
    disk = Disk(RealFiles(), tmp_path / "raft")
    disk.fill(1, 5)
    await disk.journal.sync()
    disk.fill(6, 10)
    await disk.journal.sync()
    offset = disk.journal._segments[-1].offsets[6]  # index 7, written in one batch with 6 to 10
    disk.close()
    path = segments(tmp_path / "raft")[-1]
    data = bytearray(path.read_bytes())
    data[offset + 40] ^= 1
    path.write_bytes(bytes(data))
    again = Disk(RealFiles(), tmp_path / "raft")
    assert again.journal.last_index == 6
    again.close()


@pytest.mark.parametrize("place", ["payload", "length", "header"])
async def test_damage_in_the_middle_refuses_to_open(tmp_path: Path, place: str) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft")
    for first in range(1, 21):
        disk.fill(first, first)
        await disk.journal.sync()
    offset = {
        "payload": disk.journal._segments[-1].offsets[4] + 40,
        "length": disk.journal._segments[-1].offsets[4] + 9,
        "header": 12,
    }[place]
    disk.close()
    path = segments(tmp_path / "raft")[-1]
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(bytes(data))
    with pytest.raises(JournalCorrupt, match="Do not delete it by hand"):
        Disk(RealFiles(), tmp_path / "raft")


async def test_damage_in_an_older_segment_and_a_missing_segment_refuse_to_open(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft", segment_bytes=500)
    disk.fill(1, 100)
    await disk.journal.sync()
    disk.close()
    second = segments(tmp_path / "raft")[1]
    good = second.read_bytes()
    second.write_bytes(good[:-1])
    with pytest.raises(JournalCorrupt, match="damaged"):
        Disk(RealFiles(), tmp_path / "raft")
    second.unlink()
    with pytest.raises(JournalCorrupt, match="missing"):
        Disk(RealFiles(), tmp_path / "raft")


async def test_an_entry_changed_on_disk_is_not_handed_out(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft", cache_bytes=1)
    disk.fill(1, 10)
    await disk.journal.sync()
    path = segments(tmp_path / "raft")[-1]
    data = bytearray(path.read_bytes())
    data[disk.journal._segments[-1].offsets[4] + 40] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(JournalCorrupt, match="index 5"):
        await disk.read_all()
    disk.close()


async def test_a_failed_sync_is_final() -> None:
    files = powered()
    disk = Disk(files, HOME)
    disk.fill(1, 10)
    await disk.journal.sync()
    files.fail_syncs = True
    disk.fill(11, 12)
    disk.journal.flush()
    await disk.failed.wait()
    files.fail_syncs = False
    disk.fill(13, 14)
    disk.journal.flush()
    assert disk.journal.durable_index == 10
    assert len(disk.errors) == 1 and not disk.queue._running
    with pytest.raises(OSError, match="Input/output"):
        await disk.journal.sync()
    disk.close()


async def test_whoever_waits_for_a_sync_that_fails_is_told() -> None:
    files = powered()
    disk = Disk(files, HOME)
    files.fail_syncs = True
    disk.fill(1, 2)
    with pytest.raises(OSError, match="Input/output"):
        await disk.journal.sync()
    disk.close()


async def lose_power_at_random(seed: int, *, lie: bool) -> None:
    """Random writes, truncations, resets and rolls; whatever was durable must be there after the power came back."""
    rng = random.Random(seed)
    files = powered()
    for _ in range(6):
        files.lie = False
        disk = Disk(files, HOME, segment_bytes=600, cache_bytes=300)
        files.lie = lie
        journal = disk.journal
        for _ in range(rng.randint(1, 25)):
            await scramble(rng, journal)
        durable = [(index, journal.term_at(index)) for index in range(journal.first_index, journal.durable_index + 1)]
        base = journal.base_index
        files = files.power_loss(rng)
        disk.writer.close()
        disk.reader.close()
        left = Disk(files, HOME, segment_bytes=600)
        assert left.journal.base_index <= base or not durable
        assert left.journal.last_index >= (durable[-1][0] if durable else 0), f"seed {seed}: durable entries are gone"
        found = {index: (term, data) for index, term, data in await left.read_all()}
        for index, term in durable:
            assert found.get(index) == (term, payload(index, term or 0)), (
                f"seed {seed}: index {index} is not what was durable"
            )
        left.close()


async def scramble(rng: random.Random, journal: Journal) -> None:
    term = max(journal.last_term, 1)
    action = rng.random()
    if action < 0.6:
        for index in range(journal.last_index + 1, journal.last_index + rng.randint(2, 12)):
            journal.append(index, term, 0, payload(index, term))
        journal.flush()
    elif action < 0.75:
        await journal.sync()
    elif action < 0.85 and journal.last_index > journal.base_index:
        cut = rng.randint(journal.base_index + 1, journal.last_index)
        journal.truncate_from(cut)
        journal.append(cut, term + 1, 0, payload(cut, term + 1))
        journal.flush()
    elif action < 0.95:
        journal.remove_below(rng.randint(journal.base_index, journal.last_index))
        journal.flush()
    else:
        journal.reset(journal.last_index + rng.randint(1, 5), term + 1)
        journal.flush()


@pytest.mark.parametrize("seed", range(40))
async def test_power_loss_takes_nothing_durable(seed: int) -> None:
    await lose_power_at_random(seed, lie=False)


async def test_the_power_loss_test_can_fail() -> None:
    """With a sync that does nothing, the test above must notice."""
    noticed = 0
    for seed in range(10):
        try:
            await lose_power_at_random(seed, lie=True)
        except (AssertionError, JournalCorrupt, FileNotFoundError):
            noticed += 1
    assert noticed == 10


async def test_a_segment_of_a_newer_format_is_neither_damage_nor_torn(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft")
    disk.fill(1, 3)
    await disk.journal.sync()
    disk.close()
    segment = segments(tmp_path / "raft")[-1]
    data = segment.read_bytes().replace(b"OJS2", b"OJS3").replace(b"OJR2", b"OJR3")
    segment.write_bytes(data)
    with pytest.raises(FormatUnsupported, match=f"format 3, and orchestrator {__version__} knows up to 2"):
        Disk(RealFiles(), tmp_path / "raft")
    assert segment.read_bytes() == data
