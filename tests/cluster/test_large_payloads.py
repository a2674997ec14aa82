"""Payloads of megabytes through a real cluster with a shared directory, while leaders die and files are damaged."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalNode
from orchestrator_client import Client, OrchestratorError, task
from tests.cluster.conftest import StartCluster
from tests.cluster.nodes import check_same_content, metric
from tests.cluster.workload import eventually, working
from tests.integrations.redis.servers import Servers, needs_redis

MIB = 1 << 20


PACKING = {
    "name": "packing", "version": 1, "schemaVersion": 2,
    "tasks": [{"name": "pack", "taskReferenceName": "pack", "type": "SIMPLE",
               "inputParameters": {"items": "${workflow.input.items}"}}],
    "outputParameters": {"parcel": "${pack.output.parcel}"},
}
SHIPPING = {
    "name": "shipping", "version": 1, "schemaVersion": 2,
    "tasks": [{"name": "inner", "taskReferenceName": "inner", "type": "SUB_WORKFLOW",
               "subWorkflowParam": {"name": "packing"}, "inputParameters": {"items": "${workflow.input.items}"}},
              {"name": "count", "taskReferenceName": "count", "type": "INLINE", "inputParameters": {
                  "evaluatorType": "javascript", "expression": "$.items.length", "items": "${workflow.input.items}"}}],
    "outputParameters": {"shipped": "${inner.output.parcel}", "length": "${count.output.result}"},
}


def text(seed: int, size: int) -> str:
    """Not to be compressed, nor to be mistaken for another."""
    pieces = (hashlib.sha256(b"%d-%d" % (seed, n)).hexdigest() for n in range(size // 64 + 1))
    return "".join(pieces)[:size]


async def knows(node: LocalNode, values: int) -> bool:
    return await metric(node, "orchestrator_blobs") == values


WAITS = {
    "name": "waits", "version": 1, "schemaVersion": 2,
    "tasks": [{"name": "go", "taskReferenceName": "go", "type": "WAIT"}],
    "outputParameters": {"more": "${go.output.more}"},
}


async def test_megabytes_go_through_whole_though_leaders_die(start_cluster: StartCluster, tmp_path: Path) -> None:
    shared = tmp_path / "values"
    shared.mkdir()
    cluster = await start_cluster(blob_store="directory", blob_directory=str(shared), behaviour_raise_after_ms=1)
    seen: list[str] = []
    turn, entered = asyncio.Event(), asyncio.Event()

    @task(name="pack")
    async def pack(items: str) -> dict[str, str]:
        seen.append(items)
        entered.set()
        await turn.wait()
        return {"parcel": items[::-1]}

    items = text(1, 3 * MIB)
    async with Client(cluster.endpoints) as client, working(client, [pack]):
        await client.register(PACKING, SHIPPING)
        run = await client.start("shipping", {"items": items}, id="large")
        await asyncio.wait_for(entered.wait(), 60)
        leader = await cluster.wait_leader()
        await cluster.kill_node(leader)
        await cluster.wait_leader(other_than=leader)
        turn.set()
        ended = await run.wait(60)
        assert ended.status == "COMPLETED", ended
        assert seen[0] == items
        assert ended.output == {"shipped": items[::-1], "length": 3 * MIB}
        assert ended.input == {"items": items}
        cluster.start_node(leader)
        await cluster.wait_ready()
        for node in cluster.nodes.values():
            await eventually(partial(knows, node, 2), f"node {node.name} to have applied what was said of two values")
        # What is damaged is told, and by name; what is not goes on.
        (path,) = [path for path in shared.glob("values/*/*") if path.read_bytes()[1:-1] == items.encode()]
        for node in list(cluster.nodes):
            await cluster.kill_node(node)
        path.write_bytes(b"damaged")
        for node in cluster.nodes:
            cluster.start_node(node)
        await cluster.wait_ready()
        with pytest.raises(OrchestratorError, match=path.name):
            await client.get("large")
        # Who puts it again mends it.
        again = await (await client.start("shipping", {"items": items})).wait(60)
        assert again.output == {"shipped": items[::-1], "length": 3 * MIB}
        assert (await client.get("large")).input == {"items": items}
    await check_same_content(cluster)


@needs_redis
async def test_values_are_kept_in_redis_too(start_cluster: StartCluster, tmp_path: Path) -> None:
    with Servers(tmp_path / "redis") as servers:
        redis = servers.redis()
        cluster = await start_cluster(1, blob_store="redis", redis_endpoints=redis.endpoint)
        items = text(2, MIB)
        async with Client(cluster.endpoints) as client:
            await client.register(WAITS)
            await client.start("waits", {"items": items}, id="kept")
            assert (await client.get("kept")).input == {"items": items}
            await client.signal("kept", "go", {"more": items})
            # A node that has forgotten all reads it there.
            await cluster.kill_node("a")
            cluster.start_node("a")
            await cluster.wait_ready()
            ended = await client.wait("kept", 60)
            assert (ended.input, ended.output) == ({"items": items}, {"more": items})
        connection = redis.client()
        assert len(list(connection.scan_iter("orchestrator:values:blob:*"))) == 1
        connection.close()
