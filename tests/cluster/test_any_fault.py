"""Faults of every kind, in an order left to chance, on nodes with little room; SEED=… repeats one."""

from __future__ import annotations

import asyncio
import random

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.cluster.conftest import StartCluster
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import check_same_content
from tests.cluster.workload import Load, arithmetic, working

FAULTS = 12
# Below and above what makes the others elect another leader.
PAUSES_S = (0.1, 0.4, 1.5)
# So that memory, journal and database are used up all the time, as otherwise only in large clusters.
LITTLE_ROOM = {
    "hot_executions_max": 100, "journal_segment_bytes": 64 * 1024, "journal_tail_entries": 50,
    "journal_tail_bytes": 64 * 1024, "flush_interval_ms": 20, "entry_close_commands": 4,
}


class Faults:
    """Each leaves the nodes running."""

    def __init__(self, cluster: LocalCluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance

    async def one(self) -> str:
        fault = self._chance.choice([self.kill, self.kill_two, self.kill_all, self.stop, self.pause])
        leader = await self._cluster.wait_leader()
        hit = self._chance.choice([leader, leader, *self._cluster.nodes])
        await fault(hit)
        await self._cluster.wait_ready()
        return f"{fault.__name__} {hit}{' (the leader)' if hit == leader else ''}"

    async def kill(self, name: str) -> None:
        await self._cluster.kill_node(name)
        self._cluster.start_node(name)

    async def kill_two(self, name: str) -> None:
        other = self._chance.choice([each for each in self._cluster.nodes if each != name])
        await asyncio.gather(self.kill(name), self.kill(other))

    async def kill_all(self, name: str) -> None:
        await asyncio.gather(*map(self.kill, self._cluster.nodes))

    async def stop(self, name: str) -> None:
        assert await self._cluster.stop_node(name) == 0
        self._cluster.start_node(name)

    async def pause(self, name: str) -> None:
        self._cluster.pause(name)
        await asyncio.sleep(self._chance.choice(PAUSES_S))  # the fault has to last
        self._cluster.resume(name)


@pytest.mark.long
@pytest.mark.parametrize("entries_in_flight", [1, 4])
async def test_whatever_happens_nothing_is_lost_or_doubled(
    start_cluster: StartCluster, ledger: Ledger, chance: random.Random, entries_in_flight: int
) -> None:
    cluster = await start_cluster(**LITTLE_ROOM, entries_in_flight=entries_in_flight)
    faults = Faults(cluster, chance)
    workflow, tasks = arithmetic(ledger)
    async with Client(cluster.endpoints) as client:
        async with (working(client, tasks, worker_id="one"), working(client, tasks, worker_id="two", slots=3),
                    Load(client, ledger, workflow) as load):
            for _ in range(FAULTS):
                await load.progress(chance.randrange(1, 60))
                print(await faults.one())
        await ledger.check(client)
    await check_same_content(cluster)
