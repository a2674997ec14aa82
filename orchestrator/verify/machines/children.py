"""What a process of this package inherits: the same packages, also from a checkout that is not installed."""

from __future__ import annotations

import os
import sys

from orchestrator.cli.local_cluster import package_roots


def environment() -> dict[str, str]:
    """Without settings in our own, which are not meant for all these processes at once."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
    paths = [*package_roots(), *filter(None, sys.path)]
    return {**inherited, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
