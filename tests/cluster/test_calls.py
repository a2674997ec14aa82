"""HTTP and GRPC tasks on real nodes: services by name, sagas of calls, and calls under way while the leader dies."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import Any

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, CompensationState, Execution, WorkflowFailed, WorkflowStatus
from tests.cluster.nodes import check_same_content, metric
from tests.cluster.workload import PATIENCE_S, eventually
from tests.integrations.grpc_server import GrpcServer
from tests.integrations.http_server import HttpServer, Received, reply


def call(reference: str, kind: str, retries: int = 0, **given: Any) -> dict[str, Any]:
    definition = {"name": reference, "retryCount": retries, "retryDelaySeconds": 0}
    return {
        "name": reference, "taskReferenceName": reference, "type": kind, "inputParameters": given,
        "taskDefinition": definition,
    }


def workflow(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {"name": "order", "version": 1, "schemaVersion": 2, "tasks": list(tasks)}


def charged(received: Received) -> bytes:
    return reply(201, {"receipt": json.loads(received.body)["order"] + "-paid"})


async def ended(client: Client, workflow_id: str) -> Execution:
    return await client.wait(workflow_id, PATIENCE_S, tasks=True)


async def test_tasks_name_services_and_moving_one_changes_no_workflow(cluster: LocalCluster, client: Client) -> None:
    charge = call("charge", "HTTP", service="payments", path="/charges", method="POST",
                  body={"order": "${workflow.input.id}"})
    place = call("place", "GRPC", service="stock", method="shop.Orders/Place",
                 request={"orderId": "${charge.output.response.body.receipt}", "price": {"units": 5}})
    await client.register(workflow(charge, place))
    async with HttpServer(charged) as here, HttpServer(charged) as there, GrpcServer() as stock:
        await client.register_service({"name": "payments", "endpoints": [f"{here.uri}/v1"]})
        await client.register_service({"name": "stock", "protocol": "GRPC", "endpoints": [stock.target]})
        await _known_everywhere(cluster)
        first = await client.start_and_wait("order", {"id": "a"}, id="a", timeout_s=PATIENCE_S)
        assert first.response["body"]["orderId"] == "a-paid"
        assert first.response["body"]["total"] == "5"
        await client.register_service({"name": "payments", "endpoints": [f"{there.uri}/v2"]})
        await eventually(_moved(client, there), "a node to go by the new record")
    assert {received.target for received in here.received} == {"/v1/charges"}
    assert {received.target for received in there.received} == {"/v2/charges"}
    execution = await client.get("a", tasks=True)
    keys = {task.reference: task.idempotency_key for task in execution.tasks}
    assert here.received[0].header("Idempotency-Key") == [keys["charge"]]
    assert stock.calls[0][1]["idempotency-key"] == keys["place"]
    await check_same_content(cluster)


async def _known_everywhere(cluster: LocalCluster) -> None:
    """A node that is behind by an entry would not know of a service that was just registered."""
    leader = cluster.nodes[await cluster.wait_leader()]
    index = await metric(leader, "orchestrator_commit_index")

    async def all_have_applied() -> bool:
        applied = [await metric(node, "orchestrator_applied_index") for node in cluster.nodes.values()]
        return min(applied) >= index

    await eventually(all_have_applied, "all nodes to have applied what was registered")


def _moved(client: Client, server: HttpServer) -> Any:
    """A node that is behind by an entry may still go by the old record."""

    async def moved() -> bool:
        await client.start_and_wait("order", {"id": "b"}, timeout_s=PATIENCE_S)
        return bool(server.received)

    return moved


@pytest.mark.parametrize("outcome", ["no answer", "refused"])
async def test_a_call_without_an_answer_is_undone_and_one_that_was_refused_is_not(
    cluster: LocalCluster, client: Client, outcome: str
) -> None:
    undone = asyncio.Event()

    async def pay(received: Received) -> bytes:
        if received.target == "/refund":
            undone.set()
            return reply()
        if outcome == "no answer":
            await undone.wait()
        return reply(409, {"why": "no money"})

    async with HttpServer(pay) as server:
        charge = call("charge", "HTTP", uri=f"{server.uri}/charge", method="POST", readTimeOut=200)
        charge["compensateWith"] = call("refund", "HTTP", uri=f"{server.uri}/refund", method="POST")
        del charge["compensateWith"]["taskReferenceName"]
        await client.register(workflow(charge))
        with pytest.raises(WorkflowFailed) as failed:
            await client.start_and_wait("order", id="a", timeout_s=PATIENCE_S)
        targets = [received.target for received in server.received]
    execution = await ended(client, "a")
    assert execution.status == WorkflowStatus.FAILED and failed.value.failed_task == "charge"
    if outcome == "refused":
        assert (targets, execution.tasks[0].reason) == (["/charge"], '{"why": "no money"}')
        assert execution.error_code == "HTTP_409"
    else:
        assert targets == ["/charge", "/refund"]
        assert execution.compensation.state == CompensationState.COMPLETE
        assert execution.compensation.done[0].outcome_unknown


async def test_calls_under_way_survive_the_leader_and_lost_ones_keep_their_key(
    cluster: LocalCluster, client: Client
) -> None:
    """A call that runs is not made again; one whose node died is, under the same key and a higher token."""
    orders, release = 12, asyncio.Event()
    seen: dict[str, list[int]] = defaultdict(list)

    async def held(received: Received) -> bytes:
        seen[received.header("Idempotency-Key")[0]].append(int(received.header("Fencing-Token")[0]))
        await release.wait()
        return reply(200, {})

    async with HttpServer(held) as server:
        hold = call("hold", "HTTP", 3, uri=server.uri, method="POST", readTimeOut=600_000, totalTimeOut=600_000)
        await client.register(workflow(hold))
        for number in range(orders):
            await client.start("order", id=f"o{number}")
        await eventually(lambda: len(seen) == orders, "every call to be made")
        before = await _attempts(client, orders)
        leader = await cluster.wait_leader()
        await cluster.kill_node(leader)
        await cluster.wait_leader(other_than=leader)
        lost = {key for key, task in before.items() if task.worker_id == leader}
        await eventually(lambda: all(len(seen[key]) > 1 for key in lost), "lost calls to be made again")
        release.set()
        for number in range(orders):
            assert (await ended(client, f"o{number}")).status == WorkflowStatus.COMPLETED
    assert 0 < len(lost) < orders
    assert {key for key, tokens in seen.items() if len(tokens) > 1} == lost
    assert all(tokens == sorted(set(tokens)) for tokens in seen.values())
    cluster.start_node(leader)
    await cluster.wait_ready()
    await check_same_content(cluster)


async def _attempts(client: Client, orders: int) -> dict[str, Any]:
    executions = [await client.get(f"o{number}", tasks=True) for number in range(orders)]
    return {execution.tasks[0].idempotency_key: execution.tasks[0] for execution in executions}
