"""No limit of 4 GiB, memory that does not grow with the journal, and old entries read back without anybody waiting."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from orchestrator.replication.errors import JournalCorrupt
from orchestrator.replication.files import RealFiles
from orchestrator.replication.frames import Ack, EncodedAppend, Heartbeat, encode_frame, wire_entry
from orchestrator.replication.journal import Journal
from orchestrator.replication.segment import EntryKind
from orchestrator.replication.settings import RaftSettings
from tests.replication.bench import Bench
from tests.replication.cluster import wait_until
from tests.replication.journals import Disk, payload
from tests.replication.recording_files import RecordingFiles

GIB = 1 << 30


def held_bytes(journal: Journal) -> int:
    """What the cache really holds: entries, and their wire form where it was asked for."""
    return sum(len(record.data) + len(record.wire or b"") for record in journal._cache.values())


async def test_entries_beyond_4_gib_of_a_file_are_read_back(tmp_path: Path) -> None:
    """The file is sparse: a hole of 5 GiB, then entries."""
    disk = Disk(RealFiles(), tmp_path / "raft", segment_bytes=64 * GIB, cache_bytes=1)
    disk.fill(1, 3)
    await disk.journal.sync()
    segment = disk.journal._segments[-1]
    os.truncate(segment.path, 5 * GIB)
    segment.size = 5 * GIB
    disk.fill(4, 8, term=2)
    await disk.journal.sync()
    assert segment.offsets[3] == 5 * GIB and disk.journal.size_bytes > 5 * GIB
    records = await disk.journal.read(4, 1000)
    assert [(record.index, record.term, record.data) for record in records] == [
        (index, 2, payload(index, 2)) for index in range(4, 9)
    ]
    disk.journal.truncate_from(7)
    disk.fill(7, 7, term=3)
    await disk.journal.sync()
    assert (await disk.journal.read(7, 1))[0].term == 3
    disk.close()


async def test_indexes_beyond_4_gib_survive_a_restart(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft")
    disk.journal.reset(5 * GIB, 1 << 40)
    disk.journal.append(5 * GIB + 1, 1 << 40, 0, b"x")
    await disk.journal.sync()
    disk.close()
    again = Disk(RealFiles(), tmp_path / "raft")
    assert (again.journal.first_index, again.journal.last_term) == (5 * GIB + 1, 1 << 40)
    assert (await again.journal.read(5 * GIB + 1, 1))[0].data == b"x"
    again.close()


@pytest.mark.parametrize("size", [0, 20, 2000])
async def test_100_000_entries_leave_a_bounded_cache(tmp_path: Path, size: int) -> None:
    limit = 1 << 20
    disk = Disk(RealFiles(), tmp_path / "raft", cache_bytes=limit, segment_bytes=4 << 20)
    journal = disk.journal
    data = b"x" * size
    count = 100_000 if size < 100 else 10_000
    for index in range(1, count + 1):
        # As a leader does: encoded for the followers when it is appended.
        wire_entry(journal.append(index, 1, 0, data))
        if index % 1000 == 0:
            await journal.sync()
            assert held_bytes(journal) <= limit
            assert len(journal._cache) <= limit // 64
    assert journal.cached(count, 1) is not None
    assert journal._cache_low == min(journal._cache)
    disk.close()


async def test_a_reset_leaves_nothing_in_the_cache_that_could_never_leave_it(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft", segment_bytes=500)
    disk.fill(1, 100)
    await disk.journal.sync()
    disk.journal.remove_below(90)
    disk.journal.reset(500, 2)
    await disk.queue.drain()
    assert (disk.journal._cache, disk.journal._cached_bytes) == ({}, 0)
    disk.close()


async def test_a_truncation_gives_back_what_it_took(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft")
    disk.fill(1, 50)
    before = disk.journal._cached_bytes
    disk.fill(51, 90)
    for record in disk.journal.cached(40, 1 << 20) or []:
        wire_entry(record)
    disk.journal.truncate_from(51)
    assert disk.journal._cached_bytes == before
    await disk.journal.sync()
    disk.close()


async def test_a_batch_of_the_smallest_entries_fits_into_a_frame() -> None:
    """What an entry takes beside its data counts too: else its followers would drop the leader as oversized."""
    settings = RaftSettings(
        batch_bytes_max=64 << 10, entry_bytes_max=1 << 10, frame_bytes_max=80 << 10, in_flight_bytes_max=64 << 10
    )
    bench = Bench(settings=settings)
    await bench.lead()
    await bench.settle()
    for name in bench.raft.peers:
        bench.hear(name, Ack(1, 1, 0))
    bench.take()
    for index in range(2, 50_000):
        bench.raft.journal.append(index, 1, EntryKind.COMMANDS, b"")
    [message] = bench.take_appends("n2")
    assert len(encode_frame(message)) <= settings.frame_bytes_max
    bench.disk.close()


async def test_a_slow_follower_reads_old_entries_back_and_nobody_else_waits(tmp_path: Path) -> None:
    bench, files, reads = await slow_follower(tmp_path)
    held, wanted = threading.Event(), threading.Event()

    def hold(operation: str, name: str) -> None:
        if operation == "read_at":
            wanted.set()
            assert held.wait(10), "the test never let the read go on"

    files.before = hold
    raft = bench.raft
    bench.tick()
    await asyncio.to_thread(wanted.wait, 10)
    for _ in range(5):  # the disk does not answer: n3 is served, and both hear heartbeats
        last = raft.last_index
        raft.journal.append(last + 1, 1, EntryKind.COMMANDS, b"new")
        sent = bench.tick(after_ms=60)
        to_n3 = [message for name, message in sent if name == "n3" and isinstance(message, EncodedAppend)]
        assert [message.prev_index for message in to_n3] == [last]
        assert {name for name, message in sent if isinstance(message, Heartbeat)} == {"n2", "n3"}
        assert not [message for name, message in sent if name == "n2" and isinstance(message, EncodedAppend)]
        await bench.settle()
        bench.hear("n3", Ack(1, last + 1, 0))
    held.set()
    got = await follow(bench, "n2", 1)
    assert got == raft.last_index
    assert 1 < sum(operation == "read_at" for operation, _ in files.operations) - reads < 40
    assert not bench.errors
    bench.disk.close()


async def slow_follower(tmp_path: Path) -> tuple[Bench, RecordingFiles, int]:
    """n1 leads with 2,000 entries, most of them on disk only; n3 has them all, n2 stands at the no-op."""
    files = RecordingFiles(RealFiles())
    settings = RaftSettings(batch_bytes_max=8 << 10, probe_bytes_max=4 << 10)
    bench = Bench(settings=settings, files=files, directory=tmp_path / "raft", cache_bytes=16 << 10)
    await bench.lead()
    await bench.settle()
    for name in bench.raft.peers:
        bench.hear(name, Ack(1, 1, 0))
    raft = bench.raft
    for index in range(2, 2002):
        raft.journal.append(index, 1, EntryKind.COMMANDS, payload(index, 1, 40))
        if index % 100 == 0:
            await bench.settle()
    await bench.settle()
    bench.hear("n3", Ack(1, raft.last_index, 0))
    assert raft.journal.cached(2, 1) is None
    bench.take()
    return bench, files, sum(operation == "read_at" for operation, _ in files.operations)


async def follow(bench: Bench, name: str, match: int) -> int:
    """Acknowledges each batch as it comes, in order, until there is no more; where it then stands."""
    raft = bench.raft
    while match < raft.last_index:
        appends: list[EncodedAppend] = []
        await wait_until(
            f"entries after {match}",
            lambda taken=appends: taken.extend(bench.take_appends(name)) or taken,  # type: ignore[misc]  # a default binds
        )
        for message in appends:
            assert message.prev_index == match, "a batch was sent twice, or one is missing"
            match += len(message.entries)
        bench.hear(name, Ack(1, match, 0))
    return match


async def test_a_file_that_lost_its_end_is_damage_and_not_an_endless_search(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft", cache_bytes=1)
    disk.fill(1, 10)
    await disk.journal.sync()
    segment = disk.journal._segments[-1]
    for left in (segment.offsets[4] + 3, segment.offsets[4]):
        os.truncate(segment.path, left)
        with pytest.raises(JournalCorrupt, match="index 5"):
            await disk.journal.read(5, 1000)
    segment.path.unlink()
    with pytest.raises(JournalCorrupt, match="index 5"):
        await disk.journal.read(5, 1000)
    disk.close()
