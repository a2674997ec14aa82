"""A node whose data directory was lost is not the node that it was: it neither votes nor acknowledges."""

from __future__ import annotations

import shutil

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from orchestrator_client.status import Failure
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import pinned, role_of
from tests.cluster.workload import Load, arithmetic, eventually, working

CALL_TIMEOUT_S = 3.0
CALLS = 5


async def test_a_wiped_node_is_refused_and_never_counted(
    cluster: LocalCluster, client: Client, ledger: Ledger
) -> None:
    workflow, tasks = arithmetic(ledger)
    leader = await cluster.wait_leader()
    wiped, other = (name for name in cluster.nodes if name != leader)
    async with working(client, tasks), Load(client, ledger, workflow) as load:
        await load.progress()
        await wipe(cluster, wiped)
        await check_refused(cluster, leader, wiped)
        # The two others are a majority.
        await load.progress()
        await cluster.kill_node(other)
        await check_no_majority(cluster, leader, "arithmetic")
        assert await cluster.leader() is None
        cluster.start_node(other)
        await cluster.wait_leader()
        await load.progress()
        assert await role_of(cluster, wiped) == "AWAITING_ADMISSION"
    await ledger.check(client)


async def wipe(cluster: LocalCluster, name: str) -> None:
    """Its disk is lost, and somebody runs `init` again with the same cluster id, name and members."""
    await cluster.kill_node(name)
    shutil.rmtree(cluster.nodes[name].data_dir)
    cluster.prepare()
    cluster.start_node(name)


async def check_refused(cluster: LocalCluster, leader: str, wiped: str) -> None:
    async def awaits() -> bool:
        return [await role_of(cluster, wiped, asked=asked) for asked in (wiped, leader)] == ["AWAITING_ADMISSION"] * 2

    await eventually(awaits, f"node {wiped} to await its admission, as it and the leader see it")
    status = await cluster.status(leader)
    assert status is not None and status.faults_tolerable == 0
    assert "neither votes nor acknowledges" in cluster.nodes[wiped].log_tail()
    assert cluster.nodes[wiped].running


async def check_no_majority(cluster: LocalCluster, name: str, workflow: str) -> None:
    async with pinned(cluster, name) as node:
        for n in range(CALLS):
            answer = await node.start(workflow, inline=b'{"x": 1}', workflow_id=f"never-{n}", timeout_s=CALL_TIMEOUT_S)
            assert isinstance(answer, Failure), f"acknowledged with the vote of a node that lost its disk: {answer}"
        assert isinstance(await node.get("load-0", timeout_s=CALL_TIMEOUT_S), Failure)
