"""The previous release, as it was shipped, in a Python environment of its own; and clusters that are a mixture."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

from orchestrator.cli.local_cluster import LocalCluster, LocalNode, package_roots

HERE = Path(__file__).parent
WHEELS = HERE / "wheels"
DATA = HERE / "data"
NEXT_NODE = HERE / "next_node.py"


def previous_wheel() -> Path:
    """The one that is kept."""
    [wheel] = WHEELS.glob("*.whl")
    return wheel


def version_of(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def install(wheel: Path, directory: Path) -> Path:
    """A Python that has this wheel, and else what this one has; answers its path. Blocks for a second or two."""
    venv.EnvBuilder(symlinks=True).create(directory)
    python = directory / "bin" / "python"
    site = next((directory / "lib").glob("python*/site-packages"))
    # What it depends on is there already. Only this folder, and not what it says of other folders: those are ours.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet",
         "--no-deps", "--no-index", str(wheel)],
        check=True, timeout=120, stdin=subprocess.DEVNULL)
    return python


def outside() -> dict[str, str]:
    """An environment in which nothing leads to the packages of this checkout."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith(("ORCHESTRATOR_", "PYTHONPATH", "VIRTUAL_ENV"))} | {"PYTHONSAFEPATH": "1"}


class MixedCluster(LocalCluster):
    """Each node runs the previous release, or this checkout, from its next start on.

    This checkout knows one behaviour level more here than it does: see `next_node`.
    """

    def __init__(self, directory: Path, old: Path, *, all_old: bool = True, **options: Any) -> None:
        super().__init__(directory, 3, **options)
        self._old = old
        self.old_nodes = set(self.nodes) if all_old else set()

    def _command(self, node: LocalNode) -> list[str]:
        _, _, _, *arguments = super()._command(node)
        if node.name in self.old_nodes:
            clean = ["env", "--unset=PYTHONPATH", "--unset=VIRTUAL_ENV"]
            return [*clean, str(self._old), "-P", "-m", "orchestrator", *arguments]
        return [sys.executable, str(NEXT_NODE), *arguments]

    def _child_environment(self) -> dict[str, str]:
        found = super()._child_environment()
        # For `next_node`, which is a file of its own.
        return found | {"PYTHONPATH": os.pathsep.join([*package_roots(), found["PYTHONPATH"]])}

    async def exchange(self, name: str, *, old: bool) -> None:
        """Stopped, and started as the other release; returns when it has caught up enough to name the leader."""
        await self.stop_node(name, timeout_s=30)
        (self.old_nodes.add if old else self.old_nodes.discard)(name)
        self.start_node(name)
        await self.wait_ready()
