"""Single nodes, looked at directly: calls that follow no hint, metrics, and what is on their disks."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from orchestrator.cli.local_cluster import LocalCluster, LocalNode
from orchestrator.storage.reading import content_hash
from orchestrator.storage.schema import Applied, connect, read_applied
from orchestrator_api.v1 import cluster_pb2, workflows_pb2, workflows_pb2_grpc
from orchestrator_api.v1.common_pb2 import Payload, ReadOptions, RequestIdentity
from orchestrator_client.connection import failure_of
from orchestrator_client.status import Failure
from tests.cluster.workload import eventually

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


class Pinned:
    """Speaks to one node only: follows no hint, repeats nothing, and answers a failure as a value."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._service: Any = workflows_pb2_grpc.WorkflowServiceStub(channel)

    async def start(self, name: str, *, timeout_s: float = 10, request: RequestIdentity | None = None,
                    inline: bytes = b"{}", **fields: Any) -> workflows_pb2.StartWorkflowResponse | Failure:
        message = workflows_pb2.StartWorkflowRequest(name=name, input=Payload(inline=inline), request=request, **fields)
        return await self._call(self._service.StartWorkflow, message, timeout_s)

    async def get(self, workflow_id: str, *, stale_ok: bool = False, consistency_token: str = "",
                  timeout_s: float = 10) -> workflows_pb2.GetWorkflowResponse | Failure:
        read = ReadOptions(stale_ok=stale_ok, consistency_token=consistency_token)
        message = workflows_pb2.GetWorkflowRequest(workflow_id=workflow_id, read=read)
        return await self._call(self._service.GetWorkflow, message, timeout_s)

    async def search(self, *, stale_ok: bool = False, timeout_s: float = 10,
                     **fields: Any) -> workflows_pb2.SearchWorkflowsResponse | Failure:
        message = workflows_pb2.SearchWorkflowsRequest(read=ReadOptions(stale_ok=stale_ok), **fields)
        return await self._call(self._service.SearchWorkflows, message, timeout_s)

    async def open_session(self) -> str:
        reply = await self._service.OpenClientSession(workflows_pb2.OpenClientSessionRequest(), timeout=10)
        return str(reply.session_id)

    @staticmethod
    async def _call(method: Any, message: Any, timeout_s: float) -> Any:
        try:
            return await method(message, timeout=timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            return failure_of(error)


@asynccontextmanager
async def pinned(cluster: LocalCluster, name: str) -> AsyncIterator[Pinned]:
    async with grpc.aio.insecure_channel(cluster.addresses[name], options=OPTIONS) as channel:
        yield Pinned(channel)


async def metric(node: LocalNode, name: str, label: str = "") -> float:
    """The value of a metric, of all its series (with the label, as in `a="b"`) together; 0 if it has none yet."""
    def read() -> str:
        try:
            with urllib.request.urlopen(f"http://{node.metrics_address}/metrics", timeout=5) as page:
                return str(page.read().decode())
        except OSError:
            return ""  # it has just been started

    page = await eventually(lambda: asyncio.to_thread(read), f"the metrics of node {node.name}")
    lines = [line for line in page.splitlines() if re.split("[{ ]", line)[0] == name and label in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def role_of(cluster: LocalCluster, name: str, *, asked: str | None = None) -> str:
    """A node's role, as the node `asked` sees it (by default as it says itself); empty if there is no answer."""
    status = await cluster.status(asked or name)
    roles = {node.name: node.role for node in status.nodes} if status is not None else {}
    return cluster_pb2.NodeRole.Name(roles[name]).removeprefix("NODE_ROLE_") if name in roles else ""


async def caught_up(cluster: LocalCluster, name: str) -> None:
    """Returns when the node has applied everything that the leader had committed at the beginning."""
    leader = await cluster.wait_leader()
    goal = await metric(cluster.nodes[leader], "orchestrator_commit_index")

    async def reached() -> bool:
        return await metric(cluster.nodes[name], "orchestrator_applied_index") >= goal

    await eventually(reached, f"node {name} to apply entry {goal:.0f}")


async def check_same_content(cluster: LocalCluster) -> None:
    """All nodes hold the same rows at the same index, on disk. Kills every node."""
    for _ in range(5):
        await eventually(lambda: _settled(cluster), "all nodes to have applied and stored the same entries")
        for name in cluster.nodes:
            cluster.pause(name)
        for name in cluster.nodes:
            await cluster.kill_node(name)
        found = {name: await asyncio.to_thread(_on_disk, node) for name, node in cluster.nodes.items()}
        if len({applied.index for applied, _ in found.values()}) == 1:
            _compare(found)
            return
        # An entry came in between.
        await cluster.start()
        await cluster.wait_ready()
    raise AssertionError("the nodes never stood still at one index")


async def _settled(cluster: LocalCluster) -> bool:
    names = ("orchestrator_commit_index", "orchestrator_applied_index", "orchestrator_flushed_index")
    values = [await metric(node, name) for node in cluster.nodes.values() for name in names]
    return len(set(values)) == 1


def _on_disk(node: LocalNode) -> tuple[Applied, int]:
    connection = connect(str(node.data_dir / "state.db"), None)
    try:
        return read_applied(connection), content_hash(connection)
    finally:
        connection.close()


def _compare(found: dict[str, tuple[Applied, int]]) -> None:
    for name, (applied, scanned) in found.items():
        assert applied.content_hash == scanned, f"node {name}: its rows are not those that its hash counts"
    assert len({scanned for _, scanned in found.values()}) == 1, f"the nodes differ in content: {found}"
    assert len({applied.chain_hash for applied, _ in found.values()}) == 1, f"the nodes differ in history: {found}"
