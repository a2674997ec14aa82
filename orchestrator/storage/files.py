"""The few file operations that SQLite does not do itself, behind a Protocol so that a test can lose power in them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Protocol

_CHUNK_BYTES = 1 << 20


class DatabaseFiles(Protocol):
    """All calls block. A name is durable only after `sync_directory`."""

    def exists(self, path: Path) -> bool: ...
    def listdir(self, path: Path) -> list[str]: ...
    def make_directory(self, path: Path) -> None: ...
    def size(self, path: Path) -> int: ...
    def sha256(self, path: Path) -> str: ...
    def sync(self, path: Path) -> None: ...
    def remove(self, path: Path) -> None: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def sync_directory(self, path: Path) -> None: ...


class RealFiles:
    """The operating system's files."""

    def exists(self, path: Path) -> bool:
        return path.exists()

    def listdir(self, path: Path) -> list[str]:
        return sorted(entry.name for entry in path.iterdir())

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def sha256(self, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def sync(self, path: Path) -> None:
        _sync(path, os.O_RDWR)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def sync_directory(self, path: Path) -> None:
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
