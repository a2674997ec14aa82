"""The disk that real processes are killed on keeps what was synced, and drops the rest."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from orchestrator.replication.files import replace_file
from orchestrator.storage.schema import connect
from orchestrator.storage.vfs import KeptVFS
from orchestrator.verify.machines.disk import (
    IGNORES_SYNCS,
    DatabaseKeeper,
    DiskSettings,
    LogFiles,
    PowerLossDisk,
    StoreFiles,
    UnsyncedWrites,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def boot(root: Path, **settings: float) -> PowerLossDisk:
    """What a process finds; the one before is gone, and with it what it had in memory."""
    return PowerLossDisk(root, root.parent / "disk", DiskSettings(**settings))  # type: ignore[arg-type]  # numbers


def test_a_write_is_there_for_the_process_and_lost_without_a_sync(root: Path) -> None:
    files = LogFiles(boot(root))
    file = files.open_append(root / "a")
    file.write(b"one")
    file.fdatasync()
    files.sync_directory(root)
    file.write(b"two")
    assert files.read(root / "a") == b"onetwo" and file.size() == 6
    assert UnsyncedWrites.read(root.parent / "disk") == 1
    assert LogFiles(boot(root)).read(root / "a") == b"one"


def test_a_cut_is_undone_without_a_sync(root: Path) -> None:
    files = LogFiles(boot(root))
    replace_file(files, root / "a", b"onetwo")
    file = files.open_append(root / "a")
    file.truncate(3)
    assert files.read(root / "a") == b"one"
    assert LogFiles(boot(root)).read(root / "a") == b"onetwo"
    file.fdatasync()
    assert LogFiles(boot(root)).read(root / "a") == b"one"


def test_a_name_needs_a_sync_of_its_directory(root: Path) -> None:
    files = LogFiles(boot(root))
    file = files.open_append(root / "a")
    file.write(b"one")
    file.fdatasync()
    assert files.listdir(root) == ["a"]
    files = LogFiles(boot(root))
    assert not files.exists(root / "a") and files.listdir(root) == []


def test_a_rename_and_a_removal_need_one_too(root: Path) -> None:
    files = LogFiles(boot(root))
    replace_file(files, root / "a", b"old")
    replace_file(files, root / "b", b"new")
    files.rename(root / "b", root / "a")
    assert files.read(root / "a") == b"new" and not files.exists(root / "b")
    files = LogFiles(boot(root))
    assert (files.read(root / "a"), files.read(root / "b")) == (b"old", b"new")
    files.rename(root / "b", root / "a")
    files.sync_directory(root)
    files.remove(root / "a")
    assert files.listdir(root) == []
    files = LogFiles(boot(root))
    assert files.listdir(root) == ["a"] and files.read(root / "a") == b"new"
    files.remove(root / "a")
    files.sync_directory(root)
    assert LogFiles(boot(root)).listdir(root) == []


def test_some_writes_and_names_reach_the_disk_unasked(root: Path) -> None:
    files = LogFiles(boot(root, kept=1.0))
    files.open_append(root / "a").write(b"one")
    assert LogFiles(boot(root)).read(root / "a") == b"one"
    files = LogFiles(boot(root, torn=1.0))
    files.open_append(root / "a").write(b"x" * 2_000)
    assert 3 < LogFiles(boot(root)).size(root / "a") < 2_003


def test_syncs_that_are_ignored(root: Path) -> None:
    files = LogFiles(boot(root))
    (root.parent / "disk" / IGNORES_SYNCS).touch()
    replace_file(files, root / "a", b"one")
    assert files.read(root / "a") == b"one"
    assert LogFiles(boot(root)).listdir(root) == []


def test_a_database_keeps_what_it_has_committed(root: Path) -> None:
    opened: list[tuple[KeptVFS, apsw.Connection]] = []

    def database() -> tuple[apsw.Connection, PowerLossDisk]:
        disk = boot(root)
        vfs = KeptVFS(DatabaseKeeper(disk), disk.scratch)
        # What was opened before stays open: it would have its last word when it is closed.
        opened.append((vfs, connect(str(root / "state.db"), vfs.name)))
        return opened[-1][1], disk

    connection, disk = database()
    connection.execute("CREATE TABLE t (x)")
    StoreFiles(disk).sync_directory(root)
    connection.execute("INSERT INTO t VALUES (1)")
    (root.parent / "disk" / IGNORES_SYNCS).touch()
    connection.execute("INSERT INTO t VALUES (2)")
    assert connection.execute("SELECT x FROM t").fetchall() == [(1,), (2,)]
    (root.parent / "disk" / IGNORES_SYNCS).unlink()
    connection, _ = database()
    assert connection.execute("SELECT x FROM t").fetchall() == [(1,)]
    for vfs, _ in opened:
        vfs.close()
