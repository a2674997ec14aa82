"""In which order things are written, synced, renamed and removed: a power loss at any point leaves something whole."""

from __future__ import annotations

from pathlib import Path

from orchestrator.replication import identity as identities
from orchestrator.replication.files import RealFiles, replace_file
from orchestrator.replication.hard_state import COPY_NAME, FILE_NAME, HardState
from tests.replication.journals import Disk
from tests.replication.recording_files import Operation, RecordingFiles

FIRST, SECOND, THIRD = (f"{number:08d}.journal" for number in (1, 2, 3))


def made_durable(name: str, directory: str) -> list[Operation]:
    """A new file with its first bytes."""
    return [("create", name), ("write", name), ("fdatasync", name), ("sync_directory", directory)]


async def test_a_new_journal_exists_before_anything_counts_on_it(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft")
    assert files.take() == [("make_directory", "raft"), ("sync_directory", tmp_path.name), *made_durable(FIRST, "raft")]
    disk.close()


async def test_entries_of_a_turn_are_one_write_and_one_sync_and_durable_after_it(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft")
    files.take()
    durable_at_sync: list[int] = []
    files.before = lambda operation, name: durable_at_sync.append(disk.journal.durable_index)
    disk.fill(1, 100)
    await disk.journal.sync()
    assert files.take() == [("write", FIRST), ("fdatasync", FIRST)]
    assert durable_at_sync == [0, 0] and disk.journal.durable_index == 100
    assert disk.seconds and all(seconds > 0 for seconds in disk.seconds)
    disk.close()


async def test_a_full_segment_is_whole_on_disk_before_the_next_one_exists(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft", segment_bytes=300)
    files.take()
    disk.fill(1, 6)
    await disk.journal.sync()
    assert files.take() == [
        ("write", FIRST),
        ("fdatasync", FIRST),
        *made_durable(SECOND, "raft"),
        ("write", SECOND),
        ("fdatasync", SECOND),
    ]
    disk.close()


async def test_a_cut_removes_from_the_end_one_by_one_and_is_durable_before_other_entries_follow(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft", segment_bytes=300)
    disk.fill(1, 11)
    await disk.journal.sync()
    assert len(disk.journal._segments) == 3
    files.take()
    disk.journal.truncate_from(3)
    disk.fill(3, 3, term=2)
    await disk.journal.sync()
    assert files.take() == [
        ("remove", THIRD),
        ("sync_directory", "raft"),
        ("remove", SECOND),
        ("sync_directory", "raft"),
        ("truncate", FIRST),
        ("fdatasync", FIRST),
        ("write", FIRST),
        ("fdatasync", FIRST),
    ]
    disk.close()


async def test_old_segments_go_from_the_beginning_one_by_one(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft", segment_bytes=300)
    disk.fill(1, 11)
    await disk.journal.sync()
    files.take()
    disk.journal.remove_below(10)
    await disk.queue.drain()
    assert files.take() == [
        ("remove", FIRST),
        ("sync_directory", "raft"),
        ("remove", SECOND),
        ("sync_directory", "raft"),
    ]
    disk.close()


async def test_a_reset_stands_before_the_old_segments_go(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft", segment_bytes=300)
    disk.fill(1, 6)
    await disk.journal.sync()
    files.take()
    disk.journal.reset(100, 3)
    await disk.queue.drain()
    assert files.take() == [
        *made_durable(THIRD, "raft"),
        ("remove", FIRST),
        ("sync_directory", "raft"),
        ("remove", SECOND),
        ("sync_directory", "raft"),
    ]
    disk.close()


async def test_leftovers_of_a_reset_go_one_by_one_too(tmp_path: Path) -> None:
    """Else a second power loss could leave the first and not the second: a gap, at which the node refuses to start."""
    disk = Disk(RealFiles(), tmp_path / "raft", segment_bytes=300)
    disk.fill(1, 6)
    await disk.journal.sync()
    leftovers = {path: path.read_bytes() for path in (tmp_path / "raft").glob("*.journal")}
    disk.journal.reset(100, 3)
    await disk.queue.drain()
    disk.close()
    for path, data in leftovers.items():
        path.write_bytes(data)
    files = RecordingFiles(RealFiles())
    Disk(files, tmp_path / "raft").close()
    assert [operation for operation in files.operations if operation[0] in ("remove", "sync_directory")] == [
        ("sync_directory", tmp_path.name),
        ("remove", FIRST),
        ("sync_directory", "raft"),
        ("remove", SECOND),
        ("sync_directory", "raft"),
    ]


async def test_what_a_killed_process_wrote_is_synced_before_it_counts(tmp_path: Path) -> None:
    disk = Disk(RealFiles(), tmp_path / "raft")
    disk.fill(1, 3)
    await disk.journal.sync()
    disk.close()
    files = RecordingFiles(RealFiles())
    again = Disk(files, tmp_path / "raft")
    assert ("fdatasync", FIRST) in files.operations and again.journal.durable_index == 3
    again.close()


async def test_term_and_vote_are_written_synced_renamed_and_the_name_is_synced(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft")
    files.take()
    disk.hard_state.save(HardState(2, "n1"))
    await disk.queue.drain()
    assert disk.hard_state.durable == HardState(2, "n1")
    await disk.queue.drain()
    # The one is durable, and the vote may go out, before the copy begins.
    assert files.take() == [
        step
        for name in (FILE_NAME, COPY_NAME)
        for step in (
            ("create", name + ".new"),
            ("write", name + ".new"),
            ("fdatasync", name + ".new"),
            ("rename", name),
            ("sync_directory", "raft"),
        )
    ]
    disk.close()


async def test_the_copy_is_behind_by_one_save_at_most(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft")
    files.take()
    for term in (2, 3, 4):
        disk.hard_state.save(HardState(term, "n1"))
    await disk.queue.drain()
    await disk.queue.drain()
    renamed = [name for operation, name in files.take() if operation == "rename"]
    assert renamed == [FILE_NAME, COPY_NAME] * 3
    disk.close()


async def test_a_term_is_on_disk_before_an_entry_of_it(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    disk = Disk(files, tmp_path / "raft")
    files.take()
    disk.hard_state.save(HardState(2, "n1"))
    disk.fill(1, 1, term=2)
    await disk.journal.sync()
    assert files.operations.index(("rename", FILE_NAME)) < files.operations.index(("write", FIRST))
    disk.close()


def test_a_new_data_directory_survives_with_every_folder_above_it_that_was_new(tmp_path: Path) -> None:
    files = RecordingFiles(RealFiles())
    identities.initialise(files, tmp_path / "a" / "b" / "n1", None, "n1", {"n1": "host:1"})
    assert files.take()[:4] == [
        ("make_directory", "n1"),
        ("sync_directory", tmp_path.name),
        ("sync_directory", "a"),
        ("sync_directory", "b"),
    ]
    (tmp_path / "blank").mkdir()  # by somebody who may not have synced it
    identities.initialise(files, tmp_path / "blank", None, "n1", {"n1": "host:1"})
    assert files.take()[0] == ("sync_directory", tmp_path.name)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """Stopped before each operation in turn, the old or the new content is there."""
    path = tmp_path / "file"
    steps = ("remove", "create", "write", "fdatasync", "rename", "sync_directory")
    for stop_at in steps:
        path.write_bytes(b"old")
        # What a killed process left under the temporary name is in nobody's way.
        path.with_name("file.new").write_bytes(b"leftover")
        files = RecordingFiles(RealFiles())

        def stop(operation: str, name: str, at: str = stop_at) -> None:
            if operation == at:
                raise OSError(5, "Input/output error")

        files.before = stop
        try:
            replace_file(files, path, b"new")
        except OSError:
            pass
        else:
            raise AssertionError(f"{stop_at} did not happen")
        assert path.read_bytes() == (b"new" if stop_at == "sync_directory" else b"old")
    assert (tmp_path / "file.new").exists() is False
