"""What three nodes of the previous release have left: unpacked, and moved to addresses that are free here."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from orchestrator.replication import configuration as configurations
from orchestrator.replication.configuration import Configuration, Member
from orchestrator.storage import schema
from orchestrator.storage.backups import restamp
from orchestrator.storage.schema import Identity, connect, read_applied
from tests.upgrade.releases import DATA, MixedCluster, previous_wheel, version_of


def archive() -> Path:
    return DATA / f"{version_of(previous_wheel())}.tar.xz"


def unpack(directory: Path) -> dict[str, Any]:
    """Data directories under `directory`, by the names of their nodes; answers what was said of them."""
    with tarfile.open(archive()) as opened:
        opened.extractall(directory, filter="data")
    told: dict[str, Any] = json.loads((directory / "told.json").read_text())
    return told


def move_in(cluster: MixedCluster, unpacked: Path) -> None:
    """The nodes have these data; peers are told where they are now, which nothing else of the data is about."""
    addresses = {name: str(node.peer_address) for name, node in cluster.nodes.items()}
    cluster.directory.mkdir(parents=True)
    (unpacked / "secret.keys").rename(cluster.secret_keys_file)
    for name, node in cluster.nodes.items():
        node.directory.mkdir()
        (unpacked / name).rename(node.data_dir)
        file = node.data_dir / "node.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"members": addresses}))
        _move(node.data_dir / "state.db", addresses)


def _move(database: Path, addresses: dict[str, str]) -> None:
    connection = connect(str(database), None)
    try:
        applied, meta = read_applied(connection), schema.read_meta(connection)
    finally:
        connection.close()
    placed = configurations.decode_stored(applied.configuration, {})
    assert placed is not None
    index, found = placed
    members = {name: Member(member.incarnation, addresses[name]) for name, member in found.members.items()}
    stored = configurations.encode_stored((index, Configuration(members=members)))
    restamp(database, Identity(meta["cluster_id"], meta["recovery_epoch"]), stored)
