"""`orchestrator cluster status` for people: what it says where a node knows nothing."""

from __future__ import annotations

import io

from rich.console import Console

from orchestrator.cli.cluster_commands import describe
from orchestrator_api.v1 import cluster_pb2

_UNREACHABLE = cluster_pb2.NODE_ROLE_UNREACHABLE


def _shown(*nodes: cluster_pb2.NodeStatus) -> dict[str, str]:
    printed = io.StringIO()
    Console(file=printed, width=200).print(describe(cluster_pb2.GetStatusResponse(nodes=nodes)))
    lines = printed.getvalue().splitlines()
    return {line.split()[0]: line for line in lines if line.split()[:1] in ([node.name] for node in nodes)}


def test_when_a_node_was_heard_last_is_said_only_if_it_is_known() -> None:
    told = _shown(
        cluster_pb2.NodeStatus(name="a", role=cluster_pb2.NODE_ROLE_LEADER),
        cluster_pb2.NodeStatus(name="b", role=_UNREACHABLE, last_contact_ms=334),
        cluster_pb2.NodeStatus(name="c", role=_UNREACHABLE),
    )
    assert "0 ms ago" in told["a"] and "334 ms ago" in told["b"] and "ms ago" not in told["c"]
