"""A real node whose disk reports errors of sync as long as a file says so.

python -m tests.cluster.failing_node --config FILE --die-with-parent PID
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from pathlib import Path

import apsw

from orchestrator import config as settings
from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.cli.node_commands import run_until_signal
from orchestrator.node import NodeFailed
from orchestrator.replication.files import RealFile, RealFiles, WritableFile
from orchestrator.running import run_node
from orchestrator.telemetry import logs
from orchestrator.world import World
from tests.cluster.wrong import FAILS_SYNCS

VFS = "failing"


class Disk:
    """What is in the file at `told` is a part of the names of files whose syncs fail."""

    def __init__(self, told: Path) -> None:
        self._told = told

    def fails(self, name: str) -> bool:
        try:
            part = self._told.read_text()
        except FileNotFoundError:
            return False
        return bool(part) and part in name


class FailingFile(RealFile):
    def __init__(self, disk: Disk, path: Path) -> None:
        super().__init__(path)
        self._disk = disk
        self._path = path

    def fdatasync(self) -> None:
        self._check()
        super().fdatasync()

    def write_synced(self, data: bytes) -> None:
        if self._disk.fails(self._path.name):
            # As by the kernel: what was written may be there, or not.
            self.write(data)
        self._check()
        super().write_synced(data)

    def _check(self) -> None:
        if self._disk.fails(self._path.name):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self._path))


class FailingFiles(RealFiles):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def open_append(self, path: Path) -> WritableFile:
        return FailingFile(self._disk, path)


class FailingVFS(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        super().__init__(VFS, "")
        self.disk = disk
        self.name = VFS

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return FailingDatabaseFile(self.disk, name, flags)


class FailingDatabaseFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)  # type: ignore[arg-type]  # None is a temporary file's name, and allowed
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else name or ""

    def xSync(self, flags: int) -> None:
        if self._disk.fails(Path(self._name).name):
            raise apsw.IOError("the sync has failed")
        super().xSync(flags)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--die-with-parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.die_with_parent)
    config = settings.load(options.config, {}, {})
    logs.configure(node=config.node, log_format=config.log_format, level=config.log_level)
    disk = Disk(config.data_dir.parent / FAILS_SYNCS)
    vfs = FailingVFS(disk)
    world = World(files=FailingFiles(disk), database_vfs=vfs.name)
    return run_until_signal(lambda: run_node(config, world), logged_already=NodeFailed)


if __name__ == "__main__":
    sys.exit(main())
