"""A disk for a real process that keeps what was synced: a kill -9 is a loss of power to it.

A write stays in memory until its file is synced, a name until its directory is, and only then do they reach the real
files. Of the rest a seed decides, at once, what the disk would have written back by itself: whole, torn, or not at all.
Journal, snapshots and SQLite (through a VFS) all lie on it. Directories themselves are made at once.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import mmap
import os
import random
import shutil
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.replication.files import WritableFile, WriteThenSync

SECTOR_BYTES = 512
UNNAMED = "unnamed"
SCRATCH = "scratch"
COUNTER = "unsynced"
# While a file of this name is there, syncs are reported and not done.
IGNORES_SYNCS = "ignores-syncs"
# ... each sync takes as many milliseconds as it says.
SLOW = "slow"
# ... nothing more fits on the disk.
FULL = "full"
_COUNT = struct.Struct("<Q")


@dataclass(frozen=True)
class DiskSettings:
    """`kept` and `torn` are the shares of writes that reach the disk unasked; a sync takes up to `sync_ms`."""

    seed: int = 0
    kept: float = 0.0
    torn: float = 0.0
    sync_ms: int = 0

    def dictionary(self) -> dict[str, int | float]:
        return asdict(self)


class Inode:
    """A file's contents: as the process sees them, in memory, and as they were synced, in a real file."""

    def __init__(self, home: Path, data: bytes) -> None:
        self.home = home
        self.seen = bytearray(data)
        self.unsynced: list[tuple[int, bytes] | int] = []  # writes, and sizes of truncations


class UnsyncedWrites:
    """How many changes a kill would lose now: in a file, because the answer is wanted after the kill."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(_COUNT.pack(0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _COUNT.size)
        self._count = 0

    def add(self, changes: int) -> None:
        self._count += changes
        _COUNT.pack_into(self._map, 0, self._count)

    @staticmethod
    def read(directory: Path) -> int:
        """Of the process that ran last with this directory; 0 if none did."""
        file = directory / COUNTER
        return int(_COUNT.unpack(file.read_bytes())[0]) if file.exists() else 0


class PowerLossDisk:
    """All files under `root`; `directory`, beside it and on the same file system, holds what has no name yet."""

    def __init__(self, root: Path, directory: Path, settings: DiskSettings) -> None:
        self._root = root
        self._directory = directory
        self._settings = settings
        self._dice = random.Random(settings.seed)
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        for part in (UNNAMED, SCRATCH):
            shutil.rmtree(directory / part, ignore_errors=True)
            (directory / part).mkdir(parents=True)
        self.scratch = directory / SCRATCH
        self._unsynced = UnsyncedWrites(directory / COUNTER)
        self._durable: dict[str, Inode] = {}
        for path in sorted(root.rglob("*")):
            if path.name.endswith("-shm"):
                path.unlink()  # SQLite's, of somebody who looked at the files since
            elif path.is_file():
                home = self._new_home()
                os.link(path, home)
                self._durable[str(path)] = Inode(home, path.read_bytes())
        self._seen = dict(self._durable)
        self._unsynced_names: list[tuple[str, Callable[[], None]]] = []

    # -- contents --------------------------------------------------------------------------------------------------

    def write(self, inode: Inode, offset: int | None, data: bytes) -> None:
        """At the end without an offset."""
        with self._lock:
            self._require_room(inode)
            change = (len(inode.seen) if offset is None else offset, bytes(data))
            _change(inode.seen, change)
            inode.unsynced.append(change)
            self._unsynced.add(1)
            reaches = self._write_back(change[1])
            if reaches is not None:
                _write_through(inode.home, [(change[0], reaches)])

    def truncate(self, inode: Inode, size: int) -> None:
        with self._lock:
            _change(inode.seen, size)
            inode.unsynced.append(size)
            self._unsynced.add(1)
            if self._dice.random() < self._settings.kept:
                _write_through(inode.home, [size])

    def sync(self, inode: Inode) -> None:
        self._take_time()
        with self._lock:
            if self._ignores_syncs():
                return
            _write_through(inode.home, inode.unsynced)
            self._unsynced.add(-len(inode.unsynced))
            inode.unsynced.clear()

    def read(self, inode: Inode, offset: int, size: int) -> bytes:
        with self._lock:
            return bytes(inode.seen[offset : offset + size])

    def _write_back(self, data: bytes) -> bytes | None:
        """What of a write reaches the disk before it is asked to."""
        fate = self._dice.random()
        if fate < self._settings.kept:
            return data
        if fate < self._settings.kept + self._settings.torn:
            return data[: self._dice.randrange(len(data) + 1) // SECTOR_BYTES * SECTOR_BYTES or len(data) // 2]
        return None

    # -- names -----------------------------------------------------------------------------------------------------

    def inode(self, path: str) -> Inode:
        with self._lock:
            inode = self._seen.get(path)
        if inode is None:
            raise FileNotFoundError(2, "no such file", path)
        return inode

    def exists(self, path: str) -> bool:
        with self._lock:
            return path in self._seen or Path(path).is_dir()

    def create(self, path: str) -> Inode:
        with self._lock:
            inode = self._seen.get(path)
            if inode is None:
                if not Path(path).parent.is_dir():
                    raise FileNotFoundError(2, "no such directory", path)
                home = self._new_home()
                home.write_bytes(b"")
                inode = self._seen[path] = created = Inode(home, b"")
                self._change_name(path, lambda: self._bind(path, created))
            return inode

    def sync_name(self, path: str, inode: Inode) -> None:
        """As a log's first sync does."""
        with self._lock:
            if self._seen.get(path) is inode and not self._ignores_syncs():
                self._bind(path, inode)

    def remove(self, path: str) -> None:
        with self._lock:
            inode = self.inode(path)
            del self._seen[path]
            self._change_name(path, lambda: self._unbind(path, inode))

    def rename(self, source: str, target: str) -> None:
        with self._lock:
            inode = self._seen.pop(source, None)
            if inode is None:
                raise FileNotFoundError(2, "no such file", source)
            self._seen[target] = inode
            self._change_name(target, lambda: self._rebind(source, target, inode))

    def sync_directory(self, path: str) -> None:
        self._take_time()
        with self._lock:
            if self._ignores_syncs():
                return
            left = []
            for directory, change in self._unsynced_names:
                if directory == path:
                    change()
                    self._unsynced.add(-1)
                else:
                    left.append((directory, change))
            self._unsynced_names = left

    def listdir(self, path: str) -> list[str]:
        with self._lock:
            names = {Path(file).name for file in self._seen if str(Path(file).parent) == path}
            return sorted(names | {entry.name for entry in Path(path).iterdir() if entry.is_dir()})

    def _change_name(self, path: str, change: Callable[[], None]) -> None:
        self._unsynced_names.append((str(Path(path).parent), change))
        self._unsynced.add(1)
        if self._dice.random() < self._settings.kept:
            change()

    # Each is one step of the real file system, so that a kill in its middle leaves the one or the other.

    def _bind(self, path: str, inode: Inode) -> None:
        if self._durable.get(path) is not inode:
            home = self._new_home()
            os.link(inode.home, home)
            home.replace(path)
            self._durable[path] = inode

    def _unbind(self, path: str, inode: Inode) -> None:
        if self._durable.get(path) is inode:
            Path(path).unlink()
            del self._durable[path]

    def _rebind(self, source: str, target: str, inode: Inode) -> None:
        if self._durable.get(source) is inode and self._durable.get(target) is not inode:
            Path(source).replace(target)
            del self._durable[source]
            self._durable[target] = inode
        else:
            self._bind(target, inode)
            self._unbind(source, inode)

    def _new_home(self) -> Path:
        return self._directory / UNNAMED / str(next(self._numbers))

    def _ignores_syncs(self) -> bool:
        return (self._directory / IGNORES_SYNCS).exists()

    def _require_room(self, inode: Inode) -> None:
        if (self._directory / FULL).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(inode.home))

    def _take_time(self) -> None:
        sync_ms = self._dice.random() * self._settings.sync_ms + self._slowness_ms()
        if sync_ms:
            time.sleep(sync_ms / 1000)

    def _slowness_ms(self) -> float:
        try:
            return float((self._directory / SLOW).read_text() or 0)
        except FileNotFoundError:
            return 0.0


class AppendFile(WriteThenSync):
    """A file of the journal or of a snapshot, open for writing at its end."""

    def __init__(self, disk: PowerLossDisk, path: Path) -> None:
        self._disk = disk
        self._inode = disk.create(str(path))

    def write(self, data: bytes) -> None:
        self._disk.write(self._inode, None, data)

    def fdatasync(self) -> None:
        self._disk.sync(self._inode)

    def truncate(self, size: int) -> None:
        self._disk.truncate(self._inode, size)

    def size(self) -> int:
        return len(self._inode.seen)

    def close(self) -> None:
        pass


class LogFiles:
    """The disk as the replicated log sees it."""

    def __init__(self, disk: PowerLossDisk) -> None:
        self._disk = disk

    def open_append(self, path: Path) -> WritableFile:
        return AppendFile(self._disk, path)

    def read(self, path: Path) -> bytes:
        return self.read_at(path, 0, self.size(path))

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        return self._disk.read(self._disk.inode(str(path)), offset, size)

    def size(self, path: Path) -> int:
        return len(self._disk.inode(str(path)).seen)

    def exists(self, path: Path) -> bool:
        return self._disk.exists(str(path))

    def listdir(self, path: Path) -> list[str]:
        return self._disk.listdir(str(path))

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        self._disk.rename(str(source), str(target))

    def remove(self, path: Path) -> None:
        self._disk.remove(str(path))

    def sync_directory(self, path: Path) -> None:
        self._disk.sync_directory(str(path))


class StoreFiles(LogFiles):
    """The disk as the database sees it, beside SQLite."""

    def remove(self, path: Path) -> None:
        if self._disk.exists(str(path)):
            self._disk.remove(str(path))

    def sync(self, path: Path) -> None:
        self._disk.sync(self._disk.inode(str(path)))

    def sha256(self, path: Path) -> str:
        return hashlib.sha256(self.read(path)).hexdigest()


class DatabaseKeeper:
    """The disk as SQLite sees it."""

    def __init__(self, disk: PowerLossDisk) -> None:
        self._disk = disk

    def exists(self, path: str) -> bool:
        return self._disk.exists(path)

    def open(self, path: str, *, synced_with_its_name: bool) -> DatabaseFile:
        return DatabaseFile(self._disk, path, synced_with_its_name=synced_with_its_name)

    def delete(self, path: str, *, sync_directory: bool) -> None:
        self._disk.remove(path)
        if sync_directory:
            self._disk.sync_directory(str(Path(path).parent))


class DatabaseFile:
    """A file that SQLite has open."""

    def __init__(self, disk: PowerLossDisk, path: str, *, synced_with_its_name: bool) -> None:
        self._disk = disk
        self._path = path
        self._inode = disk.create(path)
        self._synced_with_its_name = synced_with_its_name

    def read_at(self, offset: int, size: int) -> bytes:
        return self._disk.read(self._inode, offset, size)

    def write_at(self, offset: int, data: bytes) -> None:
        self._disk.write(self._inode, offset, data)

    def truncate(self, size: int) -> None:
        self._disk.truncate(self._inode, size)

    def size(self) -> int:
        return len(self._inode.seen)

    def sync(self) -> None:
        self._disk.sync(self._inode)
        if self._synced_with_its_name:
            self._disk.sync_name(self._path, self._inode)


def _change(content: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        if change < len(content):
            del content[change:]
        else:
            content.extend(bytes(change - len(content)))
        return
    offset, data = change
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _write_through(home: Path, changes: list[tuple[int, bytes] | int]) -> None:
    if not changes:
        return
    fd = os.open(home, os.O_RDWR | os.O_CLOEXEC)
    try:
        for change in changes:
            if isinstance(change, int):
                os.ftruncate(fd, change)
            else:
                os.pwrite(fd, change[1], change[0])
    finally:
        os.close(fd)
