"""Watches the nodes: asks each one what it is, and how far it has come."""

from __future__ import annotations

import asyncio

from scoreboard import NodeView

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_api.v1 import cluster_pb2

ASK_TIMEOUT_S = 0.5


async def look_at_nodes(cluster: LocalCluster) -> list[NodeView]:
    answers = await asyncio.gather(*(cluster.status(name, ASK_TIMEOUT_S) for name in cluster.nodes))
    committed = max((own.commit_index for own in map(_own_status, answers) if own is not None), default=0)
    return [_view(cluster, name, answer, committed) for name, answer in zip(cluster.nodes, answers, strict=True)]


def _own_status(answer: cluster_pb2.GetStatusResponse | None) -> cluster_pb2.NodeStatus | None:
    if answer is None:
        return None
    return next((node for node in answer.nodes if node.name == answer.node), None)


def _view(cluster: LocalCluster, name: str, answer: cluster_pb2.GetStatusResponse | None, committed: int) -> NodeView:
    own = _own_status(answer)
    if answer is None or own is None:
        return NodeView(name, "starting" if cluster.nodes[name].running else "down")
    role = cluster_pb2.NodeRole.Name(own.role).removeprefix("NODE_ROLE_").lower()
    return NodeView(name, role, answer.term, own.applied_index, max(0, committed - own.applied_index))
