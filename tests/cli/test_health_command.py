"""`orchestrator health`, as a container's or a machine's watcher runs it, beside what a node's probes say."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster, LocalNode
from tests.cli.test_against_nodes import COMMAND, environment

PATIENCE_S = 60


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path / "cluster") as made:
        yield made


def health(node: LocalNode, *options: str) -> tuple[int, str]:
    done = subprocess.run([*COMMAND, "health", "--config", str(node.config_file), *options], env=environment(),
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    return done.returncode, done.stdout


def probe(node: LocalNode, page: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{node.metrics_address}/{page}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


async def test_a_node_without_a_majority_is_alive_and_not_in_service(cluster: LocalCluster) -> None:
    await cluster.wait_ready()
    left, *others = cluster.nodes.values()
    deadline = time.monotonic() + PATIENCE_S
    while probe(left, "readyz") != 200:
        assert time.monotonic() < deadline, "waited for a node of a whole cluster to be in service"
    assert health(left) == (0, f"node {left.name} is in service\n")

    for node in others:
        await cluster.kill_node(node.name)
    while probe(left, "readyz") != 503:
        assert time.monotonic() < deadline, "waited for a node without others to know that it is not in service"
    code, said = health(left)
    assert code == 5 and "is not in service" in said
    assert health(left, "--live") == (0, f"node {left.name} is alive\n")
    assert probe(left, "livez") == 200

    await cluster.kill_node(left.name)
    code, said = health(left, "--live")
    assert code == 5 and f"does not answer at {left.grpc_address}" in said
