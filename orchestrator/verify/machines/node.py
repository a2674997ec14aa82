"""A real node, served as `orchestrator serve` does it, on a disk that loses what was not synced (or, null, the real).

python -m orchestrator.verify.machines.node --config FILE --disk SETTINGS --die-with-parent PID
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from orchestrator import config as settings
from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.cli.node_commands import run_until_signal
from orchestrator.config import Config
from orchestrator.node import NodeFailed
from orchestrator.running import run_node
from orchestrator.storage.vfs import KeptVFS
from orchestrator.telemetry import logs
from orchestrator.verify.machines.disk import DatabaseKeeper, DiskSettings, LogFiles, PowerLossDisk, StoreFiles
from orchestrator.world import World


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--disk", type=json.loads, required=True)
    parser.add_argument("--die-with-parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.die_with_parent)
    config = settings.load(options.config, {}, {})
    logs.configure(node=config.node, log_format=config.log_format, level=config.log_level)
    return run_until_signal(lambda: serve(config, options.disk), logged_already=NodeFailed)


async def serve(config: Config, disk_settings: dict[str, Any] | None) -> None:
    if disk_settings is None:
        await run_node(config)
        return
    disk = PowerLossDisk(config.data_dir, config.data_dir.parent / "disk", DiskSettings(**disk_settings))
    vfs = KeptVFS(DatabaseKeeper(disk), disk.scratch)
    world = World(files=LogFiles(disk), database_files=StoreFiles(disk), database_vfs=vfs.name)
    await run_node(config, world)


if __name__ == "__main__":
    sys.exit(main())
