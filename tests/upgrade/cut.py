"""Cuts what a release leaves behind for the tests of later ones: `make release-fixture`.

The wheel as it is built from this checkout; the data directories of three nodes of that wheel, which were killed after
a workload with something of everything; what they said of it; and the shapes of commands, messages and rows.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator_client import Client
from tests.cluster.nodes import _on_disk, check_same_content
from tests.upgrade import mixed, shapes
from tests.upgrade.releases import DATA, WHEELS, MixedCluster, install, previous_wheel, version_of

ROOT = Path(__file__).parents[2]
BYTES_MAX = 2 << 20
SETTINGS = {"journal_segment_bytes": 256 * 1024, "checkpoint_interval_ms": 1_000, "flush_interval_ms": 200}


def build() -> Path:
    """In the place of the one that is there."""
    with tempfile.TemporaryDirectory(prefix="upgrade-wheel-") as folder:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps",
                   "--no-build-isolation", "--no-index", "--wheel-dir", folder, str(ROOT)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        [built] = Path(folder).glob("*.whl")
        if not built.name.endswith("-py3-none-any.whl"):
            raise SystemExit(f"{built.name} is not for every platform: build it without the compiler")
        for old in WHEELS.glob("*.whl"):
            old.unlink()
        WHEELS.mkdir(exist_ok=True)
        return Path(shutil.copy(built, WHEELS / built.name))


async def run(cluster: MixedCluster) -> dict[str, Any]:
    await cluster.start()
    await cluster.wait_ready()
    try:
        async with Client(cluster.endpoints) as client, mixed.workers(client):
            await mixed.fill(client)
            said = await mixed.listing(client)
            # With their leases: the workers are not told that the nodes are gone.
            await check_same_content(cluster)
    finally:
        await cluster.stop(timeout_s=0)
    nodes = {}
    for name, node in cluster.nodes.items():
        applied, content = _on_disk(node)
        nodes[name] = {"index": applied.index, "content": f"{content:032x}", "chain": applied.chain_hash.hex()}
    return {"version": version_of(previous_wheel()), "nodes": nodes, "said": said}


def pack(cluster: MixedCluster, told: dict[str, Any]) -> Path:
    for old in DATA.glob("*"):
        old.unlink()
    DATA.mkdir(exist_ok=True)
    target = DATA / f"{told['version']}.tar.xz"
    said = cluster.directory / "told.json"
    said.write_text(json.dumps(told, sort_keys=True))
    with tarfile.open(target, "w:xz", preset=9) as archive:
        archive.add(said, said.name)
        for node in cluster.nodes.values():
            shutil.rmtree(node.data_dir / "snapshots", ignore_errors=True)
            archive.add(node.data_dir, node.name)
        archive.add(cluster.secret_keys_file, "secret.keys")
    (DATA / "shapes.json").write_text(json.dumps(shapes.of_this_checkout(), indent=1, sort_keys=True) + "\n")
    return target


def main() -> None:
    if not __version__.replace(".", "").isdecimal():
        raise SystemExit(f"{__version__} is no release: correct it in pyproject.toml and orchestrator/__init__.py")
    wheel = build()
    with tempfile.TemporaryDirectory(prefix="upgrade-cut-") as folder:
        cluster = MixedCluster(Path(folder) / "cluster", install(wheel, Path(folder) / "venv"), node_settings=SETTINGS)
        told = asyncio.run(run(cluster))
        target = pack(cluster, told)
    sizes = {path.name: path.stat().st_size for path in (wheel, *sorted(DATA.iterdir()))}
    print(f"{len(told['said']['executions'])} executions, {told['nodes']}")
    print("\n".join(f"{size:>9,} bytes  {name}" for name, size in sizes.items()))
    if (total := sum(sizes.values())) > BYTES_MAX:
        raise SystemExit(f"that are {total:,} bytes, more than {BYTES_MAX:,}: make the workload smaller ({target})")


if __name__ == "__main__":
    main()
