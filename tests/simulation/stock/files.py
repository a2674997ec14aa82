"""The simulated disk in the shapes in which PySyncObj uses one: a mapped file, and files that are opened."""

from __future__ import annotations

import io
from typing import Any

from orchestrator.testing.disk import Inode, SimulatedDisk


class MappedFile:
    """What `pysyncobj.journal.ResizableFile` is on a real disk: each write reaches the page cache at once."""

    def __init__(
        self,
        disk: SimulatedDisk,
        path: str,
        initial_size: int = 1024,
        resize_factor: float = 2.0,
        content: bytes | None = None,
    ) -> None:
        self._disk = disk
        self._path = path
        self._resize_factor = resize_factor
        if not disk.exists(path):
            with OpenFile(disk, path) as file:
                file.write(content or b"")
        self._inode: Inode = disk.inode(path)
        if not self._inode.seen:
            raise ValueError("cannot mmap an empty file")
        if len(self._inode.seen) < initial_size:
            self._extend(initial_size)

    def write(self, offset: int, values: bytes) -> None:
        end = offset + len(values)
        while end > len(self._inode.seen):
            self._extend(max(int(len(self._inode.seen) * self._resize_factor), end))
        self._disk.write(self._path, self._inode, offset, bytes(values))

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._inode.seen[offset : offset + size])

    def flush(self) -> None:
        self._disk.sync(self._path, self._inode)

    def _destroy(self) -> None:
        self.flush()

    def _extend(self, size: int) -> None:
        self._disk.operate(self._path)
        self._inode.truncate(size)


class OpenFile:
    """A file opened with "wb"."""

    def __init__(self, disk: SimulatedDisk, path: str) -> None:
        self._disk = disk
        self._path = path
        self._inode = disk.create(path)
        disk.operate(path)
        self._inode.truncate(0)

    def write(self, data: Any) -> int:
        self._disk.write(self._path, self._inode, len(self._inode.seen), bytes(data))
        return len(data)

    def flush(self) -> None:
        """To the page cache, where it is."""

    def close(self) -> None:
        pass

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def open_file(disk: SimulatedDisk, path: str, mode: str) -> Any:
    if mode == "wb":
        return OpenFile(disk, path)
    assert mode == "rb", mode
    disk.check()
    return io.BytesIO(bytes(disk.inode(path).seen))
