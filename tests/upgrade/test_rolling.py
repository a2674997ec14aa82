"""Three nodes of the previous release become nodes of this one, one by one and under load; one goes back and forth."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator import __version__
from orchestrator.cli import exits
from orchestrator.storage.stamps import stamp_of
from orchestrator_api.v1 import cluster_pb2 as pb
from orchestrator_client import Client, errors
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import check_same_content
from tests.cluster.test_replaced_node import orchestrator
from tests.cluster.workload import Load, arithmetic, eventually, working
from tests.upgrade.conftest import StartMixed, old_environment, program
from tests.upgrade.next_node import NEXT_LEVEL, PRIORITY
from tests.upgrade.releases import MixedCluster, previous_wheel, version_of

CHECKPOINT_MS = 1_000
LEVEL_OF_PREVIOUS = 1


async def test_node_by_node_back_and_raised(start_mixed: StartMixed, old_python: Path) -> None:
    cluster = await start_mixed(node_settings={"checkpoint_interval_ms": CHECKPOINT_MS})
    ledger = Ledger()
    workflow, tasks = arithmetic(ledger)
    async with (
        Client(cluster.endpoints) as client,
        working(client, tasks),
        program(str(old_python), "of-old", cluster.endpoints, old_environment()) as told,
    ):
        async with Load(client, ledger, workflow, width=3) as load:
            await load.progress()
            assert await versions(client) == {version_of(previous_wheel())}
            leader = await cluster.wait_leader()
            first, second = [name for name in cluster.nodes if name != leader]
            await cluster.exchange(first, old=False)
            await load.progress()
            # Of either release, a leader proposes what both know.
            await transfer(cluster, first)
            await load.progress()
            await refuses_to_raise(client)
            await cluster.exchange(second, old=False)
            await cluster.exchange(leader, old=False)
            await load.progress()
            await cluster.exchange(second, old=True)
            await transfer(cluster, second)
            await load.progress()
            await cluster.exchange(second, old=False)
            assert await versions(client) == {__version__}
            before = set(ledger.acknowledged)
            code, output = await orchestrator(cluster, "cluster", "raise-behaviour", "--yes")
            assert code == 0, output
            assert json.loads(output) == {"previous": LEVEL_OF_PREVIOUS, "level": NEXT_LEVEL}
            await load.progress()
            await refuses_to_start(cluster, second)
            await load.progress()
        await check_priorities(client, ledger, before)
        await ledger.check(client)
    async with Client(cluster.endpoints) as client:
        await told.ledger.check(client)
    assert str(old_python.parent.parent) in told.sdk and len(told.ledger.finished) > 20
    await check_same_content(cluster)


async def versions(client: Client) -> set[str]:
    async def all_known() -> set[str]:
        status = await client.status()
        return {node.version for node in status.nodes} if status.behaviour_level_known else set()

    return await eventually(all_known, "the node that answers to be connected to all")


async def transfer(cluster: MixedCluster, name: str) -> None:
    async def leads() -> bool:
        async with Client(cluster.endpoints) as client:
            try:
                await client.connection.call(
                    lambda node: node.cluster.TransferLeadership, pb.TransferLeadershipRequest(node=name))
            except errors.OrchestratorError:
                pass  # it has not caught up yet, or leads already
        return await cluster.leader() == name

    await eventually(leads, f"node {name} to lead")


async def refuses_to_raise(client: Client) -> None:
    with pytest.raises(errors.OrchestratorError, match=f"not all members know level {NEXT_LEVEL}"):
        await client.connection.call(lambda node: node.cluster.RaiseBehaviour, pb.RaiseBehaviourRequest())


async def refuses_to_start(cluster: MixedCluster, name: str) -> None:
    """With data of this level; then goes on as this release."""
    node = cluster.nodes[name]
    database = node.data_dir / "state.db"
    await eventually(lambda: stamp_of(database).level == NEXT_LEVEL, f"the level to be in the database of {name}")
    await cluster.stop_node(name, timeout_s=30)
    cluster.old_nodes.add(name)
    cluster.start_node(name)
    await eventually(lambda: node.exit_code is not None, f"node {name} to refuse")
    said = node.log_tail()
    assert node.exit_code == exits.DATA_DIRECTORY_REFUSED, said
    assert f"last opened by orchestrator {__version__}, is at behaviour level {NEXT_LEVEL}, and this" in said
    assert "run a newer release" in said
    cluster.old_nodes.discard(name)
    cluster.start_node(name)
    await cluster.wait_ready()


async def check_priorities(client: Client, ledger: Ledger, before: set[str]) -> None:
    found = {each.workflow_id: each.priority async for each in client.search(page_size=500)}
    old = {found[workflow_id] for workflow_id in before}
    late = [found[workflow_id] for workflow_id in ledger.acknowledged if workflow_id not in before]
    assert old == {0} and late[-1] == PRIORITY and set(late[len(late) // 2 :]) == {PRIORITY}


async def test_a_program_of_the_new_sdk_works_with_nodes_of_the_previous_release(start_mixed: StartMixed) -> None:
    cluster = await start_mixed()
    async with Client(cluster.endpoints) as client:

        async def enough() -> bool:
            return (await client.count()).count > 30

        async with program(sys.executable, "of-new", cluster.endpoints, cluster._child_environment()) as told:
            await eventually(enough, "the program to start workflows")
        await told.ledger.check(client)
