"""A real node, served as `orchestrator serve` does it, on a disk that loses what was not synced.

python -m tests.cluster.faults.node --config FILE --disk SETTINGS --die-with-parent PID
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from orchestrator import config as settings
from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.cli.node_commands import run_until_signal
from orchestrator.config import Config
from orchestrator.node import NodeFailed, run_node
from orchestrator.storage.vfs import KeptVFS
from orchestrator.telemetry import logs
from orchestrator.world import World
from tests.cluster.faults.disk import DatabaseKeeper, DiskSettings, LogFiles, PowerLossDisk, StoreFiles


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--disk", type=json.loads, required=True)
    parser.add_argument("--die-with-parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.die_with_parent)
    config = settings.load(options.config, {}, {})
    logs.configure(node=config.node, log_format=config.log_format, level=config.log_level)
    return run_until_signal(lambda: serve(config, DiskSettings(**options.disk)), logged_already=NodeFailed)


async def serve(config: Config, disk_settings: DiskSettings) -> None:
    disk = PowerLossDisk(config.data_dir, config.data_dir.parent / "disk", disk_settings)
    vfs = KeptVFS(DatabaseKeeper(disk), disk.scratch)
    world = World(files=LogFiles(disk), database_files=StoreFiles(disk), database_vfs=vfs.name)
    await run_node(config, world)


if __name__ == "__main__":
    sys.exit(main())
