"""A file layer that writes down what is asked of it, in order, and may fail or hold one kind of call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.replication.files import Files, WritableFile, WriteThenSync

Operation = tuple[str, str]
"""What was done, and the name of the file or directory."""


class RecordingFile(WriteThenSync):
    def __init__(self, owner: RecordingFiles, name: str, file: WritableFile) -> None:
        self._owner = owner
        self._name = name
        self._file = file

    def write(self, data: bytes) -> None:
        self._owner.note("write", self._name)
        self._file.write(data)

    def fdatasync(self) -> None:
        self._owner.note("fdatasync", self._name)
        self._file.fdatasync()

    def truncate(self, size: int) -> None:
        self._owner.note("truncate", self._name)
        self._file.truncate(size)

    def size(self) -> int:
        return self._file.size()

    def close(self) -> None:
        self._file.close()


class RecordingFiles:
    def __init__(self, files: Files) -> None:
        self._files = files
        self.operations: list[Operation] = []
        # Called before each operation; may raise, or wait.
        self.before: Callable[[str, str], None] = lambda operation, name: None

    def note(self, operation: str, name: str) -> None:
        self.operations.append((operation, name))
        self.before(operation, name)

    def take(self) -> list[Operation]:
        operations, self.operations = self.operations, []
        return operations

    def open_append(self, path: Path) -> WritableFile:
        if not self._files.exists(path):
            self.note("create", path.name)
        return RecordingFile(self, path.name, self._files.open_append(path))

    def read(self, path: Path) -> bytes:
        return self._files.read(path)

    def read_at(self, path: Path, offset: int, size: int) -> bytes:
        self.note("read_at", path.name)
        return self._files.read_at(path, offset, size)

    def size(self, path: Path) -> int:
        return self._files.size(path)

    def exists(self, path: Path) -> bool:
        return self._files.exists(path)

    def listdir(self, path: Path) -> list[str]:
        return self._files.listdir(path)

    def make_directory(self, path: Path) -> None:
        if not self._files.exists(path):
            self.note("make_directory", path.name)
        self._files.make_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self.note("rename", target.name)
        self._files.rename(source, target)

    def remove(self, path: Path) -> None:
        self.note("remove", path.name)
        self._files.remove(path)

    def sync_directory(self, path: Path) -> None:
        self.note("sync_directory", path.name)
        self._files.sync_directory(path)
