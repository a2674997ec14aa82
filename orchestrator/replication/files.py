"""The file layer that everything durable goes through, so that tests can put a disk that loses power in its place.

Promise of a real disk, and no more: data survives once `fdatasync` returned; a created, renamed or removed name
survives once `sync_directory` returned. All calls block: they belong off the event loop.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol


class WritableFile(Protocol):
    """A file open for writing at its end."""

    def write(self, data: bytes) -> None: ...
    def fdatasync(self) -> None: ...
    def write_synced(self, data: bytes) -> None: ...
    def truncate(self, size: int) -> None: ...
    def size(self) -> int: ...
    def close(self) -> None: ...


class Files(Protocol):
    def open_append(self, path: Path) -> WritableFile:
        """Creates the file when it is missing; the name is durable only after `sync_directory`."""

    def read(self, path: Path) -> bytes: ...
    def read_at(self, path: Path, offset: int, size: int) -> bytes: ...
    def size(self, path: Path) -> int: ...
    def exists(self, path: Path) -> bool: ...
    def listdir(self, path: Path) -> list[str]: ...
    def make_directory(self, path: Path) -> None: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def remove(self, path: Path) -> None: ...
    def sync_directory(self, path: Path) -> None: ...


def replace_file(files: Files, path: Path, data: bytes) -> None:
    """Puts a small file in place, whole or not at all, and durable when this returns."""
    temporary = path.with_name(path.name + ".new")
    if files.exists(temporary):
        files.remove(temporary)
    file = files.open_append(temporary)
    try:
        file.write(data)
        file.fdatasync()
    finally:
        file.close()
    files.rename(temporary, path)
    files.sync_directory(path.parent)


class WriteThenSync:
    """For files that have no call for both."""

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def fdatasync(self) -> None:
        raise NotImplementedError

    def write_synced(self, data: bytes) -> None:
        """Durable when it returns, and so is everything that was synced before; not what was only written."""
        self.write(data)
        self.fdatasync()


class RealFile(WriteThenSync):
    """A descriptor opened with O_APPEND."""

    # One call to the kernel instead of two: the interpreter lock is given away, and waited for, once.
    _can_write_synced = hasattr(os, "RWF_DSYNC")

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def fdatasync(self) -> None:
        os.fdatasync(self._fd)

    def write_synced(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._can_write_synced:
            try:
                view = view[os.pwritev(self._fd, [view], 0, os.RWF_DSYNC) :]  # at the end, whatever the offset
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                    raise
                # Of this file system nothing was written by that.
                RealFile._can_write_synced = False
        if view:
            super().write_synced(bytes(view))

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class RealFiles:
    """The operating system's files."""

    def open_append(self, path: Path) -> WritableFile:
        return RealFile(path)

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pieces: list[bytes] = []
            while size > 0:
                piece = os.pread(fd, size, offset)
                if not piece:
                    break
                pieces.append(piece)
                offset += len(piece)
                size -= len(piece)
            return b"".join(pieces)
        finally:
            os.close(fd)

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def exists(self, path: Path) -> bool:
        return path.exists()

    def listdir(self, path: Path) -> list[str]:
        return sorted(os.listdir(path))

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
