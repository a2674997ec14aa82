"""The first error of the disk is final, wherever it comes: it is told once, nothing is written after it, and the node
stops. A sync that failed proves nothing when it succeeds the second time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.replication.errors import Stopped
from orchestrator.replication.files import RealFiles
from orchestrator.replication.hard_state import HardState
from orchestrator.replication.log import Role
from orchestrator.replication.settings import RaftSettings
from tests.replication.cluster import Cluster, wait_until, within
from tests.replication.journals import Disk
from tests.replication.recording_files import RecordingFiles
from tests.replication.test_snapshots import SMALL, leave_behind


def fail_once(files: RecordingFiles, operation: str, part: str) -> list[str]:
    """The next such call on a file with this in its name fails, later ones work; what is asked for after it."""
    later: list[str] = []
    failed = False

    def before(asked: str, name: str) -> None:
        nonlocal failed
        if failed and asked != "read_at":
            later.append(f"{asked} {name}")
        elif asked == operation and part in name:
            failed = True
            raise OSError(5, "Input/output error")

    files.before = before
    return later


def append(disk: Disk) -> None:
    disk.fill(disk.journal.last_index + 1, disk.journal.last_index + 1)


def roll(disk: Disk) -> None:
    disk.fill(disk.journal.last_index + 1, disk.journal.last_index + 8)


CASES: list[tuple[str, str, Callable[[Disk], None]]] = [
    ("write", ".journal", append),
    ("fdatasync", ".journal", append),
    ("create", "00000003.journal", roll),
    ("fdatasync", "00000003.journal", roll),
    ("sync_directory", "raft", roll),
    ("truncate", ".journal", lambda disk: disk.journal.truncate_from(9)),
    ("fdatasync", ".journal", lambda disk: disk.journal.truncate_from(9)),
    ("sync_directory", "raft", lambda disk: disk.journal.truncate_from(2)),
    ("remove", ".journal", lambda disk: disk.journal.remove_below(6)),
    ("sync_directory", "raft", lambda disk: disk.journal.remove_below(6)),
    ("sync_directory", "raft", lambda disk: disk.journal.reset(50, 4)),
    ("fdatasync", "hard_state", lambda disk: disk.hard_state.save(HardState(7, "n2"))),
    ("rename", "hard_state", lambda disk: disk.hard_state.save(HardState(7, "n2"))),
    ("sync_directory", "raft", lambda disk: disk.hard_state.save(HardState(7, "n2"))),
]


@pytest.mark.parametrize(("operation", "part", "act"), CASES, ids=lambda value: value if isinstance(value, str) else "")
async def test_an_error_is_told_once_and_nothing_is_written_after_it(
    tmp_path: Path, operation: str, part: str, act: Callable[[Disk], None]
) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft", segment_bytes=400)
    disk.fill(1, 10)
    await disk.journal.sync()
    later = fail_once(files, operation, part)
    act(disk)
    with pytest.raises(OSError, match="Input/output"):
        await within("the error", disk.journal.sync())
    durable, state = disk.journal.durable_index, disk.hard_state.durable
    disk.fill(disk.journal.last_index + 1, disk.journal.last_index + 2, term=9)
    disk.hard_state.save(HardState(9, "n3"))
    disk.journal.flush()
    with pytest.raises(OSError, match="Input/output"):
        await within("the error, again", disk.journal.sync())
    assert (len(disk.errors), later) == (1, [])
    assert (disk.journal.durable_index, disk.hard_state.durable) == (durable, state)
    disk.close()


async def test_an_error_in_what_follows_a_sync_is_told_too(tmp_path: Path) -> None:
    """Else the node would live on with a journal that no longer knows what is durable."""
    disk = Disk(RealFiles(), tmp_path / "raft")

    def broken() -> None:
        raise AssertionError("an invariant does not hold")

    disk.journal._on_durable = broken
    disk.fill(1, 1)
    with pytest.raises(AssertionError, match="an invariant"):
        await within("the error", disk.journal.sync())
    assert [str(error) for error in disk.errors] == ["an invariant does not hold"]
    disk.close()


async def test_whoever_waits_for_the_disk_is_told_when_it_is_closed(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft")
    disk.fill(1, 1)
    waiting = [asyncio.create_task(disk.journal.sync()) for _ in range(3)]
    await asyncio.sleep(0)
    disk.close()
    for task in waiting:
        # What was running may have ended well; what had not begun never will.
        outcome = await within("an answer", asyncio.wait_for(asyncio.gather(task, return_exceptions=True), None))
        assert outcome == [None] or isinstance(outcome[0], Stopped)
    with pytest.raises(Stopped):
        await within("an answer after the end", disk.journal.sync())


async def test_a_reader_of_old_entries_is_told_when_the_node_stops(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1, RaftSettings(journal_cache_bytes=1)) as cluster:
        await cluster.put(b"x")
        node = cluster["n1"]
        reader, nothing = node.log._durable.reader, threading.Event()

        def busy() -> None:
            while not reader._closed:  # type: ignore[attr-defined]  # a thread's
                nothing.wait(0.001)

        reader.submit(busy, lambda error: None)
        reading = asyncio.create_task(node.log.committed(0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert node.log._durable.journal.cached(1, 1) is None
        await node.stop()
        with pytest.raises(Stopped):
            await within("the reader to be told", asyncio.wait_for(reading, None))


async def test_a_snapshot_that_cannot_be_synced_stops_the_follower(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    async with Cluster(tmp_path, settings=replace(SMALL, snapshot_patience_ms=100), files=files) as cluster:
        leader, follower = await leave_behind(cluster)
        fail_once(files, "fdatasync", "incoming-")
        await follower.start()
        await wait_until("the follower to stop", lambda: follower.fatal)
        assert isinstance(follower.fatal[0], OSError) and follower.installs == 0
        files.before = lambda operation, name: None
        await cluster.put(b"others go on", [node for node in cluster.nodes.values() if node is not follower])
        await wait_until("the copy to be given back", lambda: leader.copies_released == leader.copies)


async def test_a_vote_that_cannot_be_synced_is_not_given(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    async with Cluster(tmp_path, 1, files=files) as cluster:
        await cluster.put(b"x")
        node = cluster["n1"]
        term = node.log.term
        await node.kill()
        fail_once(files, "fdatasync", "hard_state")
        await node.start()
        await wait_until("the node to stop", lambda: node.fatal)
        assert max(led for role, led in node.roles if role is Role.LEADER) == term and len(node.fatal) == 1
