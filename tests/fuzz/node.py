"""A real node in which nothing may be unpickled: whoever tries ends it, with an exit code of its own.

python -m tests.fuzz.node --config FILE --die-with-parent PID
"""

from __future__ import annotations

# ruff: noqa: E402 - what unpickles must be trapped before anybody imports it
import os
import pickle  # noqa: TID251 - to be trapped
import sys
from typing import Any

UNPICKLED = 99


def _end(*_: Any, **__: Any) -> Any:
    os.write(2, b"CRITICAL something was unpickled\n")
    os._exit(UNPICKLED)


def _audit(event: str, _: Any) -> None:
    if event == "pickle.find_class":
        _end()


sys.addaudithook(_audit)
for module in (pickle, sys.modules["_pickle"]):
    for name in ("load", "loads", "Unpickler"):
        setattr(module, name, _end)

from orchestrator import __main__ as command

os.environ.setdefault("GRPC_EXPERIMENTS", command.GRPC_EXPERIMENTS)
os.environ.setdefault("GRPC_VERBOSITY", command.GRPC_VERBOSITY)

import argparse
from pathlib import Path

from orchestrator import config as settings
from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.cli.node_commands import run_until_signal
from orchestrator.node import NodeFailed
from orchestrator.running import run_node
from orchestrator.telemetry import logs


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--die-with-parent", type=int, required=True)
    options = parser.parse_args()
    die_with_parent(options.die_with_parent)
    config = settings.load(options.config, {}, {})
    logs.configure(node=config.node, log_format=config.log_format, level=config.log_level)
    return run_until_signal(lambda: run_node(config), logged_already=NodeFailed)


if __name__ == "__main__":
    sys.exit(main())
