"""Data directories of nodes that do not run: made by the command line, looked at, and moved away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.cli.local_cluster import LocalCluster, LocalNode
from orchestrator.storage.reading import content_hash
from orchestrator.storage.schema import Applied, connect, read_applied
from tests.cluster.test_replaced_node import orchestrator, votes


def configured(directory: Path, nodes: int = 3, **settings: int | str) -> LocalCluster:
    """Nodes that have their configuration, and no data."""
    made = LocalCluster(directory, nodes, node_settings=settings)
    made.directory.mkdir(parents=True)
    made._make_secret_key()
    for node in made.nodes.values():
        node.directory.mkdir()
        node.config_file.write_text(made._toml(node))
    return made


async def said(cluster: LocalCluster, *arguments: str | Path) -> Any:
    """What a command that has to succeed answers."""
    code, output = await orchestrator(cluster, *map(str, arguments))
    assert code == 0, output
    return json.loads(output)


async def refused(cluster: LocalCluster, *arguments: str | Path) -> tuple[int, str]:
    """Why a command did not do what it was to do."""
    code, output = await orchestrator(cluster, *map(str, arguments))
    assert code != 0, output
    return code, output


async def join(cluster: LocalCluster, name: str, command: str = "join") -> None:
    """The node comes, or comes back, with a new data directory, and votes."""
    await said(cluster, "cluster", command, "--config", cluster.nodes[name].config_file)
    cluster.start_node(name)
    await votes(cluster, name)


def on_disk(node: LocalNode) -> tuple[Applied, int]:
    """Where its database stands, and the content hash by a scan."""
    return at(node.data_dir / "state.db")


def at(database: Path) -> tuple[Applied, int]:
    """As `on_disk`."""
    connection = connect(str(database), None)
    try:
        return read_applied(connection), content_hash(connection)
    finally:
        connection.close()
