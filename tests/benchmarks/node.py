"""A node, served as `orchestrator serve` does it, whose log is on a disk that takes longer to sync.

SQLite syncs at its own pace in a thread of its own, and nobody waits for that before an acknowledgement: it is left as
it is.

python -m tests.benchmarks.node --config FILE --sync-ms MS --die-with-parent PID
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from orchestrator import config as settings
from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.cli.node_commands import run_until_signal
from orchestrator.node import NodeFailed
from orchestrator.replication.files import RealFile, RealFiles, WritableFile, WriteThenSync
from orchestrator.running import run_node
from orchestrator.telemetry import logs
from orchestrator.world import World


class SlowFile(RealFile):
    def __init__(self, path: Path, extra_s: float) -> None:
        super().__init__(path)
        self._extra_s = extra_s

    def fdatasync(self) -> None:
        super().fdatasync()
        time.sleep(self._extra_s)

    def write_synced(self, data: bytes) -> None:
        # As every file can: then it takes longer once, whatever this one does.
        WriteThenSync.write_synced(self, data)


class SlowFiles(RealFiles):
    """The operating system's files; each sync takes so much longer."""

    def __init__(self, extra_s: float) -> None:
        self._extra_s = extra_s

    def open_append(self, path: Path) -> WritableFile:
        return SlowFile(path, self._extra_s)

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        time.sleep(self._extra_s)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--sync-ms", type=float, required=True)
    parser.add_argument("--die-with-parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.die_with_parent)
    config = settings.load(options.config, {}, {})
    logs.configure(node=config.node, log_format=config.log_format, level=config.log_level)
    world = World(files=SlowFiles(options.sync_ms / 1000))
    return run_until_signal(lambda: run_node(config, world), logged_already=NodeFailed)


if __name__ == "__main__":
    sys.exit(main())
