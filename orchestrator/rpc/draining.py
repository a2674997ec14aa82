"""Who leads, and which node is in service: what an operator asks for before a machine is taken away."""

from __future__ import annotations

import grpc

from orchestrator.replication.errors import NoSuccessor
from orchestrator.replication.in_service import in_service
from orchestrator.rpc.backend import Backend, InService
from orchestrator.rpc.errors import RpcFailure, not_found, unimplemented

# The new leader says so within a heartbeat, of which there are several in an election timeout.
SUCCESSOR_SECONDS = 2.0


async def leader_known(backend: Backend) -> str:
    """Who leads, once this node has heard; "" if it hears of nobody for some time."""
    return await backend.log.wait_leader(SUCCESSOR_SECONDS) or ""


def service_of(backend: Backend, node: str) -> InService:
    """This node's, if it is meant. Raises RpcFailure."""
    if node != backend.node:
        message = f"this is node {backend.node!r}: ask {node!r} itself"
        raise RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "ANOTHER_NODE", message)
    if backend.service is None:
        raise unimplemented("node", "this node can't be drained")
    return backend.service


async def give_lead_away(backend: Backend, node: str) -> None:
    """To the node, or to whoever is nearest; returns once this one leads no longer. Raises RpcFailure."""
    peers = {peer.name for peer in backend.log.status().peers}
    able = in_service(peers, backend.peers())
    if node == backend.node:
        return
    if node and node not in peers:
        raise not_found("member", node)
    if node and node not in able:
        message = f"{node} is drained: it would give the lead away at once"
        raise RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "NODE_DRAINED", message)
    if not await backend.log.transfer_leadership({node} if node else able):
        raise NoSuccessor(node)
