"""A disk that loses power, under SQLite: what was not synced is gone, kept, or torn, as a seed decides.

Contents and names live in memory, each in two states: what a running process sees, and what the platters hold. A
write reaches the platters when its file is synced, a name when its directory is (SQLite syncs the directory of a log
with the log's first sync). At a power loss every unsynced write is kept, lost or torn at a sector, each by itself;
and every unsynced change of a name is kept or lost.
The real file system has empty files only, for SQLite's locks and shared memory, afresh after each loss.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

_SECTOR_BYTES = 512


class PowerLost(OSError):
    """The process is as good as dead: it sees nothing but this."""


class _Inode:
    def __init__(self) -> None:
        self.seen = bytearray()
        self.platters = bytearray()
        self.unsynced: list[tuple[int, bytes] | int] = []  # writes, and sizes of truncations

    def write(self, data: bytes, offset: int) -> None:
        _apply(self.seen, (offset, data))
        self.unsynced.append((offset, data))

    def truncate(self, size: int) -> None:
        _apply(self.seen, size)
        self.unsynced.append(size)

    def sync(self) -> None:
        for change in self.unsynced:
            _apply(self.platters, change)
        self.unsynced.clear()

    def lose_power(self, dice: random.Random) -> None:
        for change in self.unsynced:
            fate = dice.randrange(3)
            if fate == 1:
                _apply(self.platters, change)
            elif fate == 2 and not isinstance(change, int):
                offset, data = change
                _apply(self.platters, (offset, data[: dice.randrange(0, len(data) + 1, _SECTOR_BYTES)]))
        self.unsynced.clear()
        self.seen = bytearray(self.platters)


class PowerLossDisk(apsw.VFS):
    """Register one per test; give its `name` as the vfs, and itself as the database's files."""

    def __init__(self, directory: Path, seed: int = 0, *, sync_works: bool = True) -> None:
        self.name = f"power-loss-{id(self)}"
        super().__init__(self.name, "unix")
        self._directory = directory
        self._dice = random.Random(seed)
        self._sync_works = sync_works
        self._boot = 0
        self._seen: dict[str, _Inode] = {}
        self._platters: dict[str, _Inode] = {}
        self._unsynced_names: list[Callable[[dict[str, _Inode]], None]] = []
        self.operations = 0
        self.fails_at: int | None = None
        self._start()

    def lose_power(self) -> None:
        """Everything that is open is dead; what is opened from now on sees what survived."""
        for change in self._unsynced_names:
            if self._dice.randrange(2):
                change(self._platters)
        self._unsynced_names.clear()
        inodes = {id(inode): inode for inode in [*self._seen.values(), *self._platters.values()]}
        for inode in inodes.values():
            inode.lose_power(self._dice)
        self._seen = dict(self._platters)
        self.fails_at = None
        self.operations = 0
        self._start()

    def path(self, name: str) -> Path:
        return Path("/platters") / name

    def put(self, path: Path, data: bytes) -> None:
        """A file that was written, and not synced."""
        inode = _Inode()
        inode.write(data, 0)
        self._change_names(lambda names: names.__setitem__(str(path), inode))

    def content(self, path: Path) -> bytes:
        return bytes(self._seen[str(path)].seen)

    def _change_names(self, change: Callable[[dict[str, _Inode]], Any]) -> None:
        change(self._seen)
        self._unsynced_names.append(change)

    def _start(self) -> None:
        self._boot += 1
        (self._directory / str(self._boot)).mkdir(parents=True)

    def _operate(self, boot: int) -> None:
        """Counts what changes the disk; the power fails at the chosen one, before it has any effect."""
        if boot != self._boot or (self.fails_at is not None and self.operations >= self.fails_at):
            raise PowerLost("the power is gone")
        self.operations += 1

    # -- the database's files --------------------------------------------------------------------------------------

    def exists(self, path: Path) -> bool:
        return str(path) in self._seen

    def size(self, path: Path) -> int:
        return len(self._seen[str(path)].seen)

    def sha256(self, path: Path) -> str:
        return hashlib.sha256(self._seen[str(path)].seen).hexdigest()

    def sync(self, path: Path) -> None:
        self._operate(self._boot)
        if self._sync_works:
            self._seen[str(path)].sync()

    def remove(self, path: Path) -> None:
        self._operate(self._boot)
        self._change_names(lambda names: names.pop(str(path), None))
        self._real(str(path)).unlink(missing_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        self._operate(self._boot)
        inode = self._seen[str(source)]

        def change(names: dict[str, _Inode]) -> None:
            names.pop(str(source), None)
            names[str(target)] = inode

        self._change_names(change)
        self._real(str(source)).unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        self._operate(self._boot)
        if self._sync_works:
            self._platters = dict(self._seen)
            self._unsynced_names.clear()

    # -- SQLite's VFS ----------------------------------------------------------------------------------------------

    def xFullPathname(self, name: str) -> str:
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:
        return pathname in self._seen

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._operate(self._boot)
        self._change_names(lambda names: names.pop(filename, None))
        self._real(filename).unlink(missing_ok=True)
        if syncdir and self._sync_works:
            self._platters.pop(filename, None)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:
        if name is None:
            return super().xOpen(name, flags)
        path = name if isinstance(name, str) else name.filename()
        inode = self._seen.get(path)
        if inode is None:
            self._operate(self._boot)
            inode = _Inode()
            self._change_names(lambda names: names.__setitem__(path, inode))
        is_log = bool(flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        boot = self._boot

        def synced() -> None:
            if self._sync_works:
                inode.sync()
                if is_log and self._seen.get(path) is inode:
                    self._platters[path] = inode

        return _OpenFile(str(self._real(path)), flags, inode, lambda: self._operate(boot), synced)

    def _real(self, path: str) -> Path:
        return self._directory / str(self._boot) / Path(path).name


class _OpenFile(apsw.VFSFile):
    def __init__(
        self, real: str, flags: list[int], inode: _Inode, operate: Callable[[], None], synced: Callable[[], None]
    ) -> None:
        super().__init__("unix", real, flags)
        self._inode = inode
        self._operate = operate
        self._synced = synced

    def xRead(self, amount: int, offset: int) -> bytes:
        return bytes(self._inode.seen[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:
        self._operate()
        self._inode.write(bytes(data), offset)

    def xTruncate(self, newsize: int) -> None:
        self._operate()
        self._inode.truncate(newsize)

    def xSync(self, flags: int) -> None:
        self._operate()
        self._synced()

    def xFileSize(self) -> int:
        return len(self._inode.seen)

    def xFileControl(self, op: int, ptr: int) -> bool:
        # The real file is empty: nothing may be asked of it.
        return False


def _apply(content: bytearray, change: tuple[int, bytes] | int) -> None:
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
