"""A node out of service: it gives the lead away, does not take it, and executes nothing; it votes, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.cluster.directories import refused, said
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import check_same_content, metric
from tests.cluster.test_system_work import CALL, Calls, Server
from tests.cluster.workload import PATIENCE_S, Load, arithmetic, eventually, within, working


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.stop()


async def drained_nodes(cluster: LocalCluster) -> list[str]:
    """As the leader says."""
    status = await cluster.status(await cluster.wait_leader())
    return [node.name for node in status.nodes if node.drained] if status is not None else []


async def known_as_drained(cluster: LocalCluster, *names: str) -> None:
    async def are() -> bool:
        return await drained_nodes(cluster) == sorted(names)

    await eventually(are, f"{names or 'no node'} to be known as drained")


async def test_a_leader_is_drained_under_load_stays_so_over_a_restart_and_comes_back(
    cluster: LocalCluster, client: Client, ledger: Ledger
) -> None:
    """No call of a client fails, and no attempt is executed twice."""
    workflow, tasks = arithmetic(ledger)
    leader = await cluster.wait_leader()
    async with working(client, tasks), Load(client, ledger, workflow) as load:
        await load.progress()
        answer = await said(cluster, "cluster", "drain", leader)
        assert answer["leader"] not in ("", leader)
        await known_as_drained(cluster, leader)
        await load.progress()
        assert await cluster.stop_node(leader) == 0
        cluster.start_node(leader)
        await cluster.wait_ready()
        await known_as_drained(cluster, leader)
        # The others change the lead between themselves.
        second = await cluster.wait_leader()
        await cluster.kill_node(second)
        third = await cluster.wait_leader(other_than=second)
        assert third not in (leader, second)
        await load.progress()
        code, output = await refused(cluster, "cluster", "transfer", leader)
        assert code == 4 and "NODE_DRAINED" in output
        code, output = await refused(cluster, "cluster", "drain", third)
        assert code == 4 and "NO_SUCCESSOR" in output
        cluster.start_node(second)
        await cluster.wait_ready()
        await said(cluster, "cluster", "undrain", leader)
        await known_as_drained(cluster)
        assert (await said(cluster, "cluster", "transfer", leader))["leader"] == leader
        await load.progress()
    await ledger.check(client)
    await check_same_content(cluster)


async def test_the_lead_goes_where_it_is_sent(cluster: LocalCluster) -> None:
    await cluster.wait_ready()
    for name in sorted(cluster.nodes) * 2:
        answer = await said(cluster, "cluster", "transfer", name)
        assert answer["leader"] == name == await cluster.wait_leader()
    answer = await said(cluster, "cluster", "transfer")
    assert answer["leader"] not in ("", answer["from"])
    code, output = await refused(cluster, "cluster", "transfer", "nobody")
    assert code == 3 and "MEMBER_NOT_FOUND" in output


async def test_a_drained_node_ends_its_calls_and_takes_no_more(
    cluster: LocalCluster, client: Client, server: Server
) -> None:
    calls = Calls(cluster, client, server)
    await within(calls.begin(), "every node to make a call")
    node = cluster.nodes[await cluster.wait_leader()]
    draining = asyncio.create_task(said(cluster, "cluster", "drain", node.name))
    await cluster.wait_leader(other_than=node.name)
    assert {execution.output["status"] for execution in (await calls.end()).values()} == {200}
    await draining
    assert all(len(server.of(path)) == 1 for path in calls.runs) and server.cut_off == []
    assert await metric(node, "orchestrator_system_work_running") == 0
    made_by = set()
    for number in range(8):
        run = await client.start("call", {"uri": server.uri(f"/later-{number}")}, register=False)
        made_by.add((await run.wait(PATIENCE_S, tasks=True)).tasks[0].worker_id)
    assert made_by and node.name not in made_by
    await said(cluster, "cluster", "undrain", node.name)

    async def takes_part() -> bool:
        run = await client.start(CALL["name"], {"uri": server.uri("/again")}, register=False)
        return (await run.wait(PATIENCE_S, tasks=True)).tasks[0].worker_id == node.name

    await eventually(takes_part, "the node to make calls again")
