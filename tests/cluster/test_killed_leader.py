"""Leaders are killed with SIGKILL under load: nothing is lost, nothing doubled, no running step is handed out again."""

from __future__ import annotations

import asyncio
import random
import time

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import check_same_content
from tests.cluster.workload import PATIENCE_S, Gate, Load, Number, arithmetic, within, working

KILLS = 4
# Far more than an election takes; the number is printed.
PAUSE_MAX_S = 10.0


async def test_leaders_die_under_load(
    cluster: LocalCluster, client: Client, ledger: Ledger, chance: random.Random
) -> None:
    workflow, tasks = arithmetic(ledger)
    async with working(client, tasks), Load(client, ledger, workflow) as load:
        for _ in range(KILLS):
            await load.progress(chance.randrange(30, 300))
            leader = await cluster.wait_leader()
            await cluster.kill_node(leader)
            killed_at = time.monotonic()
            await load.progress()
            print(f"node {leader} killed: the longest pause was {ledger.longest_pause_s(killed_at):.3f} s")
            assert ledger.longest_pause_s(killed_at) < PAUSE_MAX_S
            cluster.start_node(leader)
            await cluster.wait_ready()
    await ledger.check(client)
    await check_same_content(cluster)


async def test_a_step_that_runs_while_leaders_die_is_not_handed_out_again(
    cluster: LocalCluster, client: Client, ledger: Ledger
) -> None:
    gate = Gate(ledger)
    steps = 10
    async with working(client, [gate.task], slots=steps), working(client, [gate.task], worker_id="idle"):
        runs = [await client.start(gate.workflow, Number(x), id=f"held-{x}") for x in range(steps)]
        for x, run in enumerate(runs):
            ledger.acknowledge(run.workflow_id, {"x": x})
            await within(gate.entered.acquire(), "the step to be executed")
        tokens = {ran.workflow_id: ran.fencing_token for ran in ledger.ran}
        for _ in range(2):
            leader = await cluster.wait_leader()
            await cluster.kill_node(leader)
            await cluster.wait_leader(other_than=leader)
            held = await asyncio.gather(*(run.get(tasks=True) for run in runs))
            assert {each.workflow_id: each.tasks[0].fencing_token for each in held} == tokens
            cluster.start_node(leader)
            await cluster.wait_ready()
        gate.open.set()
        for run in runs:
            await run.result(PATIENCE_S)
    assert len(ledger.ran) == steps
    await ledger.check(client)
    await check_same_content(cluster)


async def test_a_leader_that_is_told_to_stop_hands_over(
    cluster: LocalCluster, client: Client, ledger: Ledger
) -> None:
    workflow, tasks = arithmetic(ledger)
    async with working(client, tasks), Load(client, ledger, workflow) as load:
        for _ in range(2):
            await load.progress()
            leader = await cluster.wait_leader()
            told_at = time.monotonic()
            assert await cluster.stop_node(leader) == 0
            await load.progress()
            pause_s = ledger.longest_pause_s(told_at)
            print(f"node {leader} stopped: the longest pause was {pause_s:.3f} s")
            assert pause_s < PAUSE_MAX_S
            cluster.start_node(leader)
            await cluster.wait_ready()
    await ledger.check(client)
    await check_same_content(cluster)
