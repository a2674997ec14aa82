"""What the nodes of Restate are told: who makes the cluster, who else is in it, and how often each record is kept."""

from __future__ import annotations

import tomllib
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.peers.restate.cluster import nodes_of


def settings(nodes: int, directory: Path) -> list[dict[str, Any]]:
    made = nodes_of(nodes, count(2_000))
    return [tomllib.loads(node.settings(made, directory)) for node in made]


@pytest.mark.parametrize(("nodes", "replication"), [(1, 1), (3, 2)])
def test_each_record_is_kept_by_a_majority(nodes: int, replication: int, tmp_path: Path) -> None:
    assert [each["default-replication"] for each in settings(nodes, tmp_path)] == [replication] * nodes


def test_one_node_makes_the_cluster_and_all_ask_the_same_metadata_servers(tmp_path: Path) -> None:
    first, second, third = settings(3, tmp_path)
    assert [each["auto-provision"] for each in (first, second, third)] == [True, False, False]
    assert first["metadata-client"]["addresses"] == second["metadata-client"]["addresses"]
    assert len(first["metadata-client"]["addresses"]) == 3


def test_nodes_share_neither_ports_nor_directories(tmp_path: Path) -> None:
    made = settings(3, tmp_path)
    ports = {each[table]["bind-port"] for each in made for table in ("admin", "ingress")}
    assert len(ports | {each["bind-port"] for each in made}) == 9
    assert len({each["base-dir"] for each in made}) == 3
    assert {each["bind-ip"] for each in made} == {"127.0.0.1"}
