"""SQLite's files kept by somebody else: a disk that is simulated, for instance.

Contents and names are the keeper's. The real file system has empty files only, in `scratch`, for SQLite's locks and
shared memory, afresh after each `restart`.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Protocol

import apsw

_numbers = itertools.count(1)


class KeptFile(Protocol):
    """An open file. Calls raise OSError when the disk does."""

    def read_at(self, offset: int, size: int) -> bytes: ...
    def write_at(self, offset: int, data: bytes) -> None: ...
    def truncate(self, size: int) -> None: ...
    def size(self) -> int: ...
    def sync(self) -> None: ...


class Keeper(Protocol):
    """Who has the files."""

    def exists(self, path: str) -> bool: ...

    def open(self, path: str, *, synced_with_its_name: bool) -> KeptFile:
        """Makes the file if there is none. SQLite syncs the directory of a log with the log itself."""

    def delete(self, path: str, *, sync_directory: bool) -> None: ...


class KeptVFS(apsw.VFS):
    """Registered with SQLite under `name` until `close`."""

    def __init__(self, keeper: Keeper, scratch: Path) -> None:
        self.name = f"kept-{next(_numbers)}"
        super().__init__(self.name, "unix")
        self._keeper = keeper
        self._scratch = scratch
        self._starts = 0
        self.restart()

    def restart(self) -> None:
        """The process that had files open is gone, and so are its locks."""
        self._starts += 1
        (self._scratch / str(self._starts)).mkdir(parents=True)

    def close(self) -> None:
        """Nobody uses it any more: connections that were left behind are closed, whatever they say."""
        for connection in apsw.connections():
            if connection.open_vfs == self.name:
                try:
                    connection.close(True)
                except (apsw.Error, OSError):  # what it wanted to write is nobody's any more
                    pass
        self.unregister()

    def xFullPathname(self, name: str) -> str:
        return name

    def xAccess(self, pathname: str, flags: int) -> bool:
        return self._keeper.exists(pathname)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._keeper.delete(filename, sync_directory=syncdir)
        self._real(filename).unlink(missing_ok=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:
            return super().xOpen(name, flags)
        path = name if isinstance(name, str) else name.filename()
        is_log = bool(flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        kept, real = self._keeper.open(path, synced_with_its_name=is_log), self._real(path)
        # A journal of a process that is gone is opened as a file that must be there.
        real.touch()
        return _OpenFile(str(real), flags, kept)

    def _real(self, path: str) -> Path:
        return self._scratch / str(self._starts) / path.strip("/").replace("/", "-")


class _OpenFile(apsw.VFSFile):
    def __init__(self, real: str, flags: list[int], kept: KeptFile) -> None:
        super().__init__("unix", real, flags)
        self._kept = kept

    def xRead(self, amount: int, offset: int) -> bytes:
        return self._kept.read_at(offset, amount)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._kept.write_at(offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:
        self._kept.truncate(newsize)

    def xSync(self, flags: int) -> None:
        self._kept.sync()

    def xFileSize(self) -> int:
        return self._kept.size()

    def xFileControl(self, op: int, ptr: int) -> bool:
        # The real file is empty: nothing may be asked of it.
        return False
