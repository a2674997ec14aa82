"""A data directory that is not this node's is not touched: `serve` says what to do, and ends with exit code 3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.replication import identity

REFUSED = 3


@pytest.fixture
def ours(tmp_path: Path) -> LocalCluster:
    cluster = LocalCluster(tmp_path / "ours")
    cluster.prepare()
    return cluster


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-m", "orchestrator", *arguments], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60, check=False)


def refused(cluster: LocalCluster) -> str:
    """What `serve` of node a says before it ends."""
    served = run("serve", "--config", str(cluster.nodes["a"].config_file))
    assert served.returncode == REFUSED, served.stdout
    return served.stdout


def test_a_directory_that_was_never_initialised(ours: LocalCluster) -> None:
    shutil.rmtree(ours.nodes["a"].data_dir)
    assert "run `orchestrator init` there once" in refused(ours)


def test_the_directory_of_another_node(ours: LocalCluster) -> None:
    shutil.rmtree(ours.nodes["a"].data_dir)
    ours.nodes["b"].data_dir.rename(ours.nodes["a"].data_dir)
    said = refused(ours)
    assert "belongs to node 'b'" in said and "correct the node name or the data directory" in said


async def test_the_database_of_another_cluster(ours: LocalCluster, tmp_path: Path) -> None:
    theirs = LocalCluster(tmp_path / "theirs", nodes=1)
    async with theirs:
        pass
    for file in theirs.nodes["a"].data_dir.glob("state.db*"):
        shutil.copy(file, ours.nodes["a"].data_dir)
    assert "belongs to cluster" in refused(ours)


async def test_the_node_json_of_another_cluster(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path / "mixed", nodes=1)
    async with cluster:
        pass
    file = cluster.nodes["a"].data_dir / "node.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "cluster_id": identity.generate_cluster_id()}))
    assert "belongs to cluster" in refused(cluster)


@pytest.mark.parametrize("lost", ["raft", "raft/hard_state", "raft/00000001.journal"])
async def test_a_directory_of_which_a_part_is_lost(tmp_path: Path, lost: str) -> None:
    cluster = LocalCluster(tmp_path / "lost", nodes=1)
    async with cluster:
        pass
    part = cluster.nodes["a"].data_dir / lost
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink()
    said = refused(cluster)
    assert "must not start" in said and "orchestrator cluster rebuild" in said


async def test_init_does_not_touch_a_directory_that_holds_data(ours: LocalCluster) -> None:
    node = ours.nodes["a"]
    before = (node.data_dir / "node.json").read_bytes()
    members = [f"--member={name}={each.peer_address}" for name, each in ours.nodes.items()]
    done = run("init", "--config", str(node.config_file), "--cluster-id", identity.generate_cluster_id(), *members)
    assert done.returncode == REFUSED and "is not blank" in done.stdout
    assert (node.data_dir / "node.json").read_bytes() == before
