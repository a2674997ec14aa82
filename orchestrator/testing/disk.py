"""A disk in memory that keeps what was synced, and of the rest what a seed decides.

Contents and names have two states: what a running process sees, and what the platters hold. A write reaches the
platters when its file is synced, a name when its directory is. At a power loss each unsynced write is kept, lost or
torn by sectors, each by itself, and each unsynced change of a name is kept or lost. The journal, the snapshots and
SQLite (through a VFS) all lie on the same disk.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

from orchestrator.replication.files import WritableFile, WriteThenSync
from orchestrator.testing.loop import Process, current_process

SECTOR_BYTES = 512

_NameChange = Callable[[dict[str, "Inode"]], object]


class DiskGone(OSError):
    """The process that asks was killed: whatever it still does has no effect."""


class Inode:
    """The contents of a file."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.platters = bytearray()
        self.unsynced: list[tuple[int, bytes] | int] = []  # writes, and sizes of truncations

    def write(self, offset: int, data: bytes) -> None:
        _write(self.seen, offset, data)
        self.unsynced.append((offset, data))

    def truncate(self, size: int) -> None:
        _apply(self.seen, size)
        self.unsynced.append(size)

    def sync(self) -> None:
        platters = self.platters
        for change in self.unsynced:
            if isinstance(change, tuple):
                _write(platters, *change)
            else:
                _apply(platters, change)
        self.unsynced.clear()

    def lose_power(self, dice: random.Random) -> None:
        for change in self.unsynced:
            fate = dice.randrange(3)
            if fate == 1:
                _apply(self.platters, change)
            elif fate == 2 and not isinstance(change, int):
                self._tear(change, dice)
        self.unsynced.clear()
        self.seen = bytearray(self.platters)

    def _tear(self, change: tuple[int, bytes], dice: random.Random) -> None:
        offset, data = change
        if dice.randrange(2):
            _apply(self.platters, (offset, data[: dice.randrange(0, len(data) + 1)]))
            return
        at = 0
        while at < len(data):
            end = min(len(data), at + SECTOR_BYTES - (offset + at) % SECTOR_BYTES)
            if dice.randrange(2):
                _apply(self.platters, (offset + at, data[at:end]))
            at = end


class SimulatedDisk:
    """One machine's disk, across all its processes."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._seen: dict[str, Inode] = {}
        self._platters: dict[str, Inode] = {}
        self._directories: dict[str, None] = {"/": None}
        self._durable_directories: dict[str, None] = {"/": None}
        self._unsynced_names: list[tuple[str, _NameChange]] = []
        self.operations = 0
        self.syncs = 0
        # The power fails, or the process is killed, in the middle of so many further operations on such files.
        self.strikes_in = 0
        self.strikes_on = ""
        self.strike: Callable[[], None] = lambda: None
        self.full = False
        self.failing_syncs = 0
        self.ignores_syncs = False
        # Told of every write to a file (path, offset, data), and of every sync of one that was really made.
        self.on_write: Callable[[str, int, bytes], None] = lambda path, offset, data: None
        self.on_sync: Callable[[str], None] = lambda path: None

    # -- faults ----------------------------------------------------------------------------------------------------

    def lose_power(self) -> None:
        """What was not synced is gone, or not, or partly; names as well."""
        for _, change in self._unsynced_names:
            if self._dice.randrange(2):
                change(self._platters)
        self._unsynced_names.clear()
        inodes = {id(inode): inode for inode in [*self._seen.values(), *self._platters.values()]}
        for inode in inodes.values():
            inode.lose_power(self._dice)
        self._seen = dict(self._platters)
        self._directories = dict(self._durable_directories)
        self.strikes_in = 0
        self.failing_syncs = 0
        self.full = False

    def lose_everything(self) -> None:
        """Another, blank one is in its place."""
        for names in (self._seen, self._platters):
            names.clear()
        for directories in (self._directories, self._durable_directories):
            directories.clear()
            directories["/"] = None
        self._unsynced_names.clear()
        self.strikes_in = 0
        self.failing_syncs = 0
        self.full = False

    def strike_after(self, operations: int, path_part: str, strike: Callable[[], None]) -> None:
        """Calls it in the middle of a later operation on a file whose path has this part; which then fails."""
        self.strikes_in, self.strikes_on, self.strike = operations, path_part, strike

    def files(self, ending: str) -> list[str]:
        """The paths of all files with this ending."""
        return sorted(path for path in self._seen if path.endswith(ending))

    def on_platters(self, path: str) -> bytes:
        """What a power loss would leave of the file, at the least."""
        inode = self._platters.get(path)
        return bytes(inode.platters) if inode is not None else b""

    def flip_bit(self, path: str, dice: random.Random) -> None:
        """Silent damage."""
        inode = self._seen[path]
        if inode.seen:
            at, bit = dice.randrange(len(inode.seen)), 1 << dice.randrange(8)
            inode.seen[at] ^= bit
            if at < len(inode.platters):
                inode.platters[at] ^= bit

    def contents(self, path: str) -> bytes | None:
        """What is there now, or None if nothing is."""
        inode = self._seen.get(path)
        return None if inode is None else bytes(inode.seen)

    def put(self, path: str, data: bytes | None) -> None:
        """Silently in the place of what was there, also on the platters; None takes it away."""
        for names in (self._seen, self._platters):
            names.pop(path, None)
        self._unsynced_names = [change for change in self._unsynced_names if change[0] != _directory_of(path)]
        if data is not None:
            inode = self._seen[path] = self._platters[path] = Inode()
            inode.seen, inode.platters = bytearray(data), bytearray(data)

    # -- operations ------------------------------------------------------------------------------------------------

    def operate(self, path: str) -> None:
        """Before each change; raises when there is nobody to make it for."""
        self.check()
        self.operations += 1
        if self.strikes_in and self.strikes_on in path:
            self.strikes_in -= 1
            if not self.strikes_in:
                self.strike()
                self.check()

    def check(self) -> None:
        process = current_process()
        if process is not None and not process.alive:
            raise DiskGone("the process is gone")

    def inode(self, path: str) -> Inode:
        inode = self._seen.get(path)
        if inode is None:
            raise FileNotFoundError(2, "no such file", path)
        return inode

    def exists(self, path: str) -> bool:
        return path in self._seen or path in self._directories

    def create(self, path: str) -> Inode:
        inode = self._seen.get(path)
        if inode is None:
            if _directory_of(path) not in self._directories:
                raise FileNotFoundError(2, "no such directory", path)
            self.operate(path)
            inode = created = Inode()
            self._change_names(path, lambda names: names.__setitem__(path, created))
        return inode

    def write(self, path: str, inode: Inode, offset: int, data: bytes) -> None:
        self.operate(path)
        if self.full:
            raise OSError(28, "No space left on device")
        inode.write(offset, data)
        self.on_write(path, offset, data)

    def sync(self, path: str, inode: Inode) -> None:
        self.operate(path)
        self.syncs += 1
        if self.failing_syncs:
            self.failing_syncs -= 1
            raise OSError(5, "Input/output error")
        if not self.ignores_syncs:
            inode.sync()
            self.on_sync(path)

    def sync_name(self, path: str, inode: Inode) -> None:
        """As a log's first sync does."""
        if self._seen.get(path) is inode and not self.ignores_syncs:
            self._platters[path] = inode

    def remove(self, path: str) -> None:
        self.inode(path)
        self.operate(path)
        self._change_names(path, lambda names: names.pop(path, None))

    def rename(self, source: str, target: str) -> None:
        inode = self.inode(source)
        self.operate(target)

        def change(names: dict[str, Inode]) -> None:
            names.pop(source, None)
            names[target] = inode

        self._change_names(target, change)

    def sync_directory(self, path: str) -> None:
        self.operate(path)
        if self.ignores_syncs:
            return
        left: list[tuple[str, _NameChange]] = []
        for directory, change in self._unsynced_names:
            if directory == path:
                change(self._platters)
            else:
                left.append((directory, change))
        self._unsynced_names = left
        self._durable_directories.update(
            (directory, None) for directory in self._directories if _directory_of(directory) == path
        )

    def make_directory(self, path: str) -> None:
        self.check()
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts)):
            self._directories["/" + "/".join(parts[: depth + 1])] = None

    def listdir(self, path: str) -> list[str]:
        if path not in self._directories:
            raise FileNotFoundError(2, "no such directory", path)
        names = [*self._seen, *self._directories]
        return sorted(name.rpartition("/")[2] for name in names if name != "/" and _directory_of(name) == path)

    def _change_names(self, path: str, change: _NameChange) -> None:
        change(self._seen)
        self._unsynced_names.append((_directory_of(path), change))


class AppendFile(WriteThenSync):
    """A file of the journal or of a snapshot, open for writing at its end."""

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._inode = disk.create(path)

    def write(self, data: bytes) -> None:
        self._disk.write(self._path, self._inode, len(self._inode.seen), bytes(data))

    def fdatasync(self) -> None:
        self._disk.sync(self._path, self._inode)

    def truncate(self, size: int) -> None:
        self._disk.operate(self._path)
        self._inode.truncate(size)

    def size(self) -> int:
        return len(self._inode.seen)

    def close(self) -> None:
        pass


class LogFiles:
    """The disk as the replicated log sees it."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk

    def open_append(self, path: Path) -> WritableFile:
        return AppendFile(self._disk, str(path))

    def read(self, path: Path) -> bytes:
        self._disk.check()
        return bytes(self._disk.inode(str(path)).seen)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        self._disk.check()
        return bytes(self._disk.inode(str(path)).seen[offset : offset + size])

    def size(self, path: Path) -> int:
        return len(self._disk.inode(str(path)).seen)

    def exists(self, path: Path) -> bool:
        return self._disk.exists(str(path))

    def listdir(self, path: Path) -> list[str]:
        return self._disk.listdir(str(path))

    def make_directory(self, path: Path) -> None:
        self._disk.make_directory(str(path))

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
        self._disk.sync(str(path), self._disk.inode(str(path)))

    def sha256(self, path: Path) -> str:
        return hashlib.sha256(self._disk.inode(str(path)).seen).hexdigest()


class DatabaseKeeper:
    """The disk as SQLite sees it."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self._disk = disk

    def exists(self, path: str) -> bool:
        return self._disk.exists(path)

    def open(self, path: str, *, synced_with_its_name: bool) -> DatabaseFile:
        process = current_process()
        return DatabaseFile(self._disk, path, process, synced_with_its_name=synced_with_its_name)

    def delete(self, path: str, *, sync_directory: bool) -> None:
        self._disk.remove(path)
        if sync_directory:
            self._disk.sync_directory(_directory_of(path))


class DatabaseFile:
    """A file that SQLite has open, for the process that opened it."""

    def __init__(
        self, disk: SimulatedDisk, path: str, process: Process | None, *, synced_with_its_name: bool
    ) -> None:
        self._disk = disk
        self._path = path
        self._process = process
        self._inode = disk.create(path)
        self._synced_with_its_name = synced_with_its_name

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(memoryview(self._inode.seen)[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> None:
        self._check()
        self._disk.write(self._path, self._inode, offset, data)

    def truncate(self, size: int) -> None:
        self._check()
        self._disk.operate(self._path)
        self._inode.truncate(size)

    def size(self) -> int:
        return len(self._inode.seen)

    def sync(self) -> None:
        self._check()
        self._disk.sync(self._path, self._inode)
        if self._synced_with_its_name:
            self._disk.sync_name(self._path, self._inode)

    def _check(self) -> None:
        if self._process is not None and not self._process.alive:
            raise DiskGone("the process is gone")


def _directory_of(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _apply(content: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        if change < len(content):
            del content[change:]
        else:
            content.extend(bytes(change - len(content)))
        return
    _write(content, *change)


def _write(content: bytearray, offset: int, data: bytes) -> None:
    size = len(content)
    if offset == size:
        content += data
        return
    if size < offset:
        content += bytes(offset - size)
    content[offset : offset + len(data)] = data
