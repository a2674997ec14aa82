"""A node that lost its disk is replaced under load, and then the cluster bears the loss of another; nodes come, too."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import caught_up, check_same_content, role_of
from tests.cluster.test_wiped_node import check_refused, wipe
from tests.cluster.workload import Load, arithmetic, eventually, within, working


async def orchestrator(cluster: LocalCluster, *arguments: str, as_json: bool = True) -> tuple[int, str]:
    """The command line, as an operator has it: exit code and what it printed."""
    options = ("-e", ",".join(cluster.endpoints), *(["--json"] if as_json else []))
    command = (sys.executable, "-m", "orchestrator", *options, *arguments)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment
    )
    out, _ = await within(process.communicate(), f"{arguments} to end")
    return process.returncode or 0, out.decode()


async def votes(cluster: LocalCluster, name: str) -> None:
    async def does() -> bool:
        return await role_of(cluster, name, asked=await cluster.wait_leader()) in ("FOLLOWER", "LEADER")

    await eventually(does, f"node {name} to be a member that votes")


async def test_a_wiped_node_is_replaced_and_then_another_may_die(
    cluster: LocalCluster, client: Client, ledger: Ledger
) -> None:
    workflow, tasks = arithmetic(ledger)
    leader = await cluster.wait_leader()
    lost, _ = (name for name in cluster.nodes if name != leader)
    async with working(client, tasks), Load(client, ledger, workflow) as load:
        await load.progress()
        await wipe(cluster, lost)
        await check_refused(cluster, leader, lost)
        code, said = await orchestrator(cluster, "cluster", "replace", lost)
        assert code == 0, said
        assert json.loads(said)["peer_address"] == str(cluster.nodes[lost].peer_address)
        await votes(cluster, lost)
        await load.progress()
        # It takes the place of the one that dies now, and that is the leader.
        leader = await cluster.wait_leader()
        dies = leader if leader != lost else next(name for name in cluster.nodes if name != lost)
        await cluster.kill_node(dies)
        await load.progress()
        cluster.start_node(dies)
        await cluster.wait_ready()
    await caught_up(cluster, lost)
    await ledger.check(client)
    await check_same_content(cluster)


async def test_what_the_operator_asks_wrongly_is_refused(cluster: LocalCluster) -> None:
    await cluster.wait_leader()
    assert (await orchestrator(cluster, "cluster", "remove", "nobody"))[0] == 3
    code, said = await orchestrator(cluster, "cluster", "add", "nobody")
    assert code == 4 and "NODE_NOT_WAITING" in said
    first, second = list(cluster.nodes)[:2]
    code, said = await orchestrator(cluster, "cluster", "replace", first)
    assert code == 4 and "NODE_NOT_WAITING" in said
    await cluster.kill_node(second)
    survivors = [name for name in cluster.nodes if name != second]

    async def refused() -> bool:
        code, said = await orchestrator(cluster, "cluster", "remove", survivors[0])
        return code == 4 and "QUORUM_WOULD_BE_LOST" in said

    await eventually(refused, "the removal of one of the two that are left to be refused")
    # The dead one may go: two of two are left.
    code, said = await orchestrator(cluster, "cluster", "remove", second)
    assert code == 0, said
    shutil.rmtree(cluster.nodes[second].data_dir)
    status = await cluster.status(await cluster.wait_leader())
    assert status is not None and sorted(node.name for node in status.nodes) == sorted(survivors)
