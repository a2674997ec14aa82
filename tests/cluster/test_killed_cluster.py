"""All nodes are killed at once, or stopped: what was acknowledged is there when they are back, and goes on."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.cluster.conftest import StartCluster
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import check_same_content
from tests.cluster.workload import PATIENCE_S, Gate, Load, Number, arithmetic, within, working

MANY = 3_000
STARTS_AT_ONCE = 64


async def kill_all(cluster: LocalCluster) -> None:
    """No node has time to notice that another is gone."""
    for name in cluster.nodes:
        cluster.pause(name)
    for name in cluster.nodes:
        await cluster.kill_node(name)


async def test_all_nodes_die_at_once_under_load(
    cluster: LocalCluster, client: Client, ledger: Ledger, chance: random.Random
) -> None:
    workflow, tasks = arithmetic(ledger)
    async with working(client, tasks), Load(client, ledger, workflow) as load:
        for _ in range(3):
            await load.progress(chance.randrange(30, 200))
            await kill_all(cluster)
            await cluster.start()
            await cluster.wait_ready()
            await load.progress()
    await ledger.check(client)
    await check_same_content(cluster)


async def test_the_journal_alone_brings_back_what_the_database_never_had(
    start_cluster: StartCluster, ledger: Ledger
) -> None:
    cluster = await start_cluster(flush_interval_ms=60_000)
    async with Client(cluster.endpoints) as client:
        gate = Gate(ledger)
        async with working(client, [gate.task]):
            for x in range(20):
                run = await client.start(gate.workflow, Number(x), id=f"held-{x}")
                ledger.acknowledge(run.workflow_id, {"x": x})
                await within(gate.entered.acquire(), "the step to be executed")
            await kill_all(cluster)
            await cluster.start()
            await cluster.wait_ready()
            gate.open.set()
            await asyncio.gather(*(client.run(workflow_id).result(PATIENCE_S) for workflow_id in ledger.acknowledged))
        await ledger.check(client)


async def test_many_finished_workflows_are_there_after_a_restart(cluster: LocalCluster, client: Client) -> None:
    document = {
        "name": "short", "version": 1, "schemaVersion": 2, "outputParameters": {"x": "${workflow.variables.x}"},
        "tasks": [{"name": "set", "taskReferenceName": "set", "type": "SET_VARIABLE",
                   "inputParameters": {"x": "${workflow.input.x}"}}],
    }
    await client.register(document)
    gate = asyncio.Semaphore(STARTS_AT_ONCE)

    async def start(x: int) -> None:
        async with gate:
            await client.start("short", {"x": x}, id=f"short-{x}")

    await asyncio.gather(*map(start, range(MANY)))
    for name in cluster.nodes:
        assert await cluster.stop_node(name) == 0
    await cluster.start()
    await cluster.wait_ready()
    for page_size in (1_000, 97):
        found = [each async for each in client.search(name="short", page_size=page_size)]
        assert Counter(each.workflow_id for each in found) == Counter(f"short-{x}" for x in range(MANY))
        assert {each.status for each in found} == {"COMPLETED"}
    last = await client.get(f"short-{MANY - 1}")
    assert last.output == {"x": MANY - 1}
    await check_same_content(cluster)
