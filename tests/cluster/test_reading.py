"""Reads while leaders die: a search sees everything acknowledged before it began, a watch goes on to the end."""

from __future__ import annotations

import asyncio

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, Execution, Workflow
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import pinned
from tests.cluster.test_time import leader_dies
from tests.cluster.workload import Load, arithmetic, eventually, within, working

KILLS = 3

signals = Workflow("signals")
for number in range(KILLS + 1):
    signals.wait(signal=f"go-{number}", ref=f"wait-{number}")


class Reader:
    """Reads all the time, and compares each answer with what was acknowledged before it asked."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self.reads = 0
        self.tasks = [asyncio.create_task(self.search()), asyncio.create_task(self.get())]

    @property
    def failed(self) -> bool:
        return any(each.done() for each in self.tasks)

    async def search(self) -> None:
        while True:
            before = set(self._ledger.acknowledged)
            found = {each.workflow_id async for each in self._client.search(name="arithmetic", page_size=1_000)}
            assert before <= found, f"a search does not see what was acknowledged: {sorted(before - found)[:10]}"
            self.reads += 1

    async def get(self) -> None:
        while True:
            finished = dict(list(self._ledger.finished.items())[-5:])
            for workflow_id, output in finished.items():
                execution = await self._client.get(workflow_id)
                assert (execution.status, execution.output) == ("COMPLETED", output), "an end was taken back"
                self.reads += 1
            await asyncio.sleep(0)


async def test_reads_see_everything_acknowledged_through_failovers(
    cluster: LocalCluster, client: Client, ledger: Ledger
) -> None:
    workflow, tasks = arithmetic(ledger)
    async with working(client, tasks), Load(client, ledger, workflow) as load:
        await load.progress()
        reader = Reader(client, ledger)
        try:
            for _ in range(KILLS):
                await load.progress()
                await leader_dies(cluster)
                await cluster.wait_ready()
                goal = reader.reads + 20
                await eventually(lambda goal=goal: reader.reads >= goal or reader.failed, "more reads")
        finally:
            for each in reader.tasks:
                each.cancel()
            ends = await asyncio.gather(*reader.tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError] * 2, ends
    await ledger.check(client)


async def test_a_watch_goes_on_through_failovers(cluster: LocalCluster, client: Client) -> None:
    run = await client.start(signals, id="watched")
    seen: list[Execution] = []

    async def watch() -> None:
        async for execution in run.watch(tasks=True):
            seen.append(execution)

    def completed() -> int:
        return sum(task.status == "COMPLETED" for task in seen[-1].tasks) if seen else -1

    watching = asyncio.create_task(watch())
    await eventually(lambda: completed() == 0, "the first state")
    for number in range(KILLS):
        await leader_dies(cluster)
        await run.signal(f"go-{number}")
        await eventually(lambda number=number: completed() == number + 1, f"signal {number} to be seen")
        await cluster.wait_ready()
    await run.signal(f"go-{KILLS}")
    await within(watching, "the watch to end")
    assert seen[-1].status == "COMPLETED"
    done = [sum(task.status == "COMPLETED" for task in each.tasks) for each in seen]
    assert done == sorted(done), "a change was taken back"


async def test_any_node_answers_a_stale_read_and_catches_up_to_a_token(
    cluster: LocalCluster, client: Client
) -> None:
    await client.register(signals)
    async with pinned(cluster, await cluster.wait_leader()) as leader:
        for n in range(20):
            started = await leader.start("signals", workflow_id=f"token-{n}")
            for name in cluster.nodes:
                async with pinned(cluster, name) as node:
                    found = await node.get(f"token-{n}", stale_ok=True, consistency_token=started.consistency_token)
                    assert found.workflow.workflow_id == f"token-{n}", found
