"""Backup, join and rebuild where TLS is on every port and rules say who may: who may not leaves all as it was."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from tests.cluster.directories import join, refused, said
from tests.cluster.test_access import Rules
from tests.cluster.test_tls import client_files, settings
from tests.tls import making

NEW = "d"
# Everything in no namespace is nothing: this one may ask how the cluster is, and no more.
LOOKER = "cleaner"


@pytest.fixture
async def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[LocalCluster, Rules]]:
    """Three nodes, and the files of a fourth; who types commands has a certificate."""
    authority, rules = making.authority(tmp_path), Rules(tmp_path)
    rules.write(f'to = ["{LOOKER}"]\nrole = "admin"\nnamespaces = ["other"]')
    tls = client_files(authority, "operator")
    for what, file in (("AUTHORITY", tls.authority), ("CERTIFICATE", tls.certificate), ("KEY", tls.key)):
        monkeypatch.setenv(f"ORCHESTRATOR_TLS_{what}", str(file))
    cluster = LocalCluster(tmp_path / "nodes", tls=tls, node_settings=rules.settings)
    every = LocalCluster(tmp_path / "nodes", 4, tls=tls, node_settings=rules.settings)
    own = {name: settings(authority, making.node(authority, name)) for name in every.nodes}
    cluster.own_settings = every.own_settings = dict(own)
    try:
        await cluster.start()
        await cluster.wait_ready()
        cluster.nodes[NEW] = new = every.nodes[NEW]
        new.directory.mkdir()
        new.config_file.write_text(cluster._toml(new))
        yield cluster, rules
    finally:
        await cluster.stop(timeout_s=0)


def listed(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


async def test_who_may_not_makes_no_backup_and_moves_no_data_and_who_may_does(
    guarded: tuple[LocalCluster, Rules], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, rules = guarded
    folder = tmp_path / "backups"
    folder.mkdir()
    file = str(folder / "orders.backup")
    leader = await cluster.wait_leader()
    lost, new = cluster.nodes[next(name for name in "abc" if name != leader)], cluster.nodes[NEW]
    await cluster.kill_node(lost.name)
    shutil.rmtree(lost.data_dir / "raft")
    before = {node.name: listed(node.directory) for node in (lost, new)}

    _, output = await refused(cluster, "cluster", "backup", file)
    assert "CREDENTIALS_MISSING" in output and listed(folder) == []
    monkeypatch.setenv("ORCHESTRATOR_TOKEN", rules.tokens[LOOKER])
    _, output = await refused(cluster, "cluster", "backup", file)
    assert "PERMISSION_DENIED" in output and listed(folder) == []
    for command, node in (("join", new), ("rebuild", lost)):
        _, output = await refused(cluster, "cluster", command, "--config", node.config_file)
        assert "admins only" in output and listed(node.directory) == before[node.name]

    monkeypatch.setenv("ORCHESTRATOR_TOKEN", rules.tokens["owner"])
    made = await said(cluster, "cluster", "backup", file)
    assert listed(folder) == ["orders.backup"]
    assert (await said(cluster, "cluster", "backup", "verify", file))["content_hash"] == made["content_hash"]
    await join(cluster, lost.name, "rebuild")
    await join(cluster, NEW)
