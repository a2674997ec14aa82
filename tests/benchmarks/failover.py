"""The pause that one client sees when it loses the leader, again and again, under a modest load.

A killed process is missed at once, because the kernel closes its connections; a silent one (SIGSTOP), like a machine
that is gone, only when the election timeout is over; one that is cut off from the other nodes, though not from clients,
when it notices that itself. One that is told to stop (SIGTERM) hands over before it goes.

Acknowledged starts are counted at the end: each must be there, and must have completed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.benchmarks.arithmetic import histogram, longest_pause, median
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.processes import (
    Options,
    Progress,
    namespaces,
    networked_cluster,
    running_cluster,
    running_workers,
)
from tests.benchmarks.workload import W1, Parcel

CALLERS = 16
# Between two starts of one caller; together they make some 250 starts a second.
PAUSE_S = (0.03, 0.09)
# From when all nodes are ready to the loss of the leader, and from there to its return.
BEFORE_LOSS_S = (0.5, 1.5)
BEFORE_RETURN_S = (2.5, 3.5)
RESUME_S = 60.0
COMPLETE_S = 120.0
STEP_MS = 100
# The pause in the median, and the worst.
BUDGETS_MS = {
    "failover": (500, 1_200),
    "silence": (1_000, 2_000),
    "partition": (1_000, 2_000),
    "handover": (200, 500),
}
AIMS_MS = {"failover": (200, 600)}


class Load:
    """Callers of one client, and when which of their starts was acknowledged."""

    def __init__(self, client: Client, rng: random.Random) -> None:
        self._client = client
        self._rng = rng
        self.moments: list[float] = []
        self.acknowledged: set[str] = set()
        self._moved = asyncio.Event()
        self._stop = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The first start that fails for good ends it, with its error."""
        async with asyncio.TaskGroup() as group:
            for caller in range(CALLERS):
                group.create_task(self._call(caller))
            yield
            self._stop = True

    async def _call(self, caller: int) -> None:
        number = 0
        while not self._stop:
            workflow_id = f"{caller}-{number}"
            await self._client.start(W1, Parcel(number), id=workflow_id)
            self.moments.append(time.perf_counter())
            self.acknowledged.add(workflow_id)
            self._moved.set()
            number += 1
            await asyncio.sleep(self._rng.uniform(*PAUSE_S))

    async def wait_resumed(self, after: float) -> None:
        async with asyncio.timeout(RESUME_S):
            while self.moments[-1] <= after:
                self._moved.clear()
                await self._moved.wait()


async def measure_failover(options: Options, progress: Progress) -> list[Measurement]:
    """The leader is killed (SIGKILL), and started again before the next is."""
    return await _measure("failover", options, progress)


async def measure_silence(options: Options, progress: Progress) -> list[Measurement]:
    """The leader is stopped (SIGSTOP), and goes on before the next is."""
    return await _measure("silence", options, progress)


async def measure_partition(options: Options, progress: Progress) -> list[Measurement]:
    """The kernel drops what the leader and the other nodes send each other, until the next is cut off."""
    return await _measure("partition", options, progress)


async def measure_handover(options: Options, progress: Progress) -> list[Measurement]:
    """The leader is told to stop (SIGTERM), and started again before the next is."""
    return await _measure("handover", options, progress)


async def _measure(row: str, options: Options, progress: Progress) -> list[Measurement]:
    rng = random.Random(options.seed)
    async with (
        (networked_cluster if row == "partition" else running_cluster)(options) as cluster,
        running_workers(cluster, options),
        Client(cluster.endpoints) as client,
    ):
        load = Load(client, rng)
        await client.start(W1, Parcel(0), id="warm-up")
        began = time.perf_counter()
        async with load.running():
            losses = await _lose_leaders(row, cluster, load, options.kills, rng, progress)
        seconds = time.perf_counter() - began
        progress.say(f"{row}: looks for {len(load.acknowledged)} acknowledged starts")
        faults = await _lost(client, load.acknowledged)
    ends = [*losses[1:], load.moments[-1]]
    pauses = sorted(longest_pause(load.moments, loss, end) * 1000 for loss, end in zip(losses, ends, strict=True))
    shown = ", ".join(f"{pause:.0f}" for pause in pauses)
    musts, aims = BUDGETS_MS[row], AIMS_MS.get(row, (None, None))
    return [
        Measurement(
            row=row,
            concurrency=CALLERS,
            samples_ms=tuple(pauses),
            per_second=len(load.moments) / seconds,
            budgets=(
                Budget("median", musts[0], "ms", median(pauses), aims[0]),
                Budget("worst", musts[1], "ms", pauses[-1], aims[1]),
            ),
            faults=tuple(faults),
            settings={
                "kills": options.kills, "seed": options.seed, "acknowledged": len(load.acknowledged),
                "pauses_ms": shown, **options.node_settings,
            },
            notes=(
                f"longest pause around each of {len(pauses)} losses of the leader, ms: {shown}",
                *histogram(pauses, STEP_MS),
                f"{len(load.acknowledged)} starts acknowledged, {'not ' if faults else ''}all of them completed",
            ),
        )
    ]


async def _lose_leaders(
    row: str, cluster: LocalCluster, load: Load, count: int, rng: random.Random, progress: Progress
) -> list[float]:
    """When each leader was lost. The node is back, and all agree, before the next."""
    losses: list[float] = []
    for number in range(1, count + 1):
        await cluster.wait_ready()
        await asyncio.sleep(rng.uniform(*BEFORE_LOSS_S))
        leader = await cluster.wait_leader()
        losses.append(time.perf_counter())
        await _lose(row, cluster, leader)
        await asyncio.sleep(rng.uniform(*BEFORE_RETURN_S))
        await load.wait_resumed(losses[-1])
        follower = await cluster.wait_leader(other_than=leader)
        pause_ms = longest_pause(load.moments, losses[-1], load.moments[-1]) * 1000
        progress.say(f"{row}: {number} of {count}: from {leader} to {follower}, {pause_ms:.0f} ms")
        await _bring_back(row, cluster, leader)
        await cluster.wait_ready()
    await asyncio.sleep(BEFORE_LOSS_S[1])
    return losses


async def _lose(row: str, cluster: LocalCluster, leader: str) -> None:
    if row == "silence":
        cluster.pause(leader)
    elif row == "handover":
        await cluster.stop_node(leader)
    elif row == "partition":
        others = [name for name in cluster.nodes if name != leader]
        await namespaces(cluster).cut(*((leader, other) for other in others), *((other, leader) for other in others))
    else:
        await cluster.kill_node(leader)


async def _bring_back(row: str, cluster: LocalCluster, leader: str) -> None:
    if row == "silence":
        cluster.resume(leader)
    elif row == "partition":
        await namespaces(cluster).heal()
    else:
        # In a thread: starting a process must not hold up the callers.
        await asyncio.to_thread(cluster.start_node, leader)


async def _lost(client: Client, acknowledged: set[str]) -> list[str]:
    """What is wrong with what was acknowledged."""
    deadline = time.perf_counter() + COMPLETE_S
    while [execution async for execution in client.search(statuses=["RUNNING"], page_size=1)]:
        if time.perf_counter() > deadline:
            break
        await asyncio.sleep(0.5)
    statuses = {
        execution.workflow_id: str(execution.status) async for execution in client.search(page_size=1_000)
    }
    missing = sorted(acknowledged - statuses.keys())
    unfinished = sorted(each for each in acknowledged & statuses.keys() if statuses[each] != "COMPLETED")
    faults = []
    if missing:
        faults.append(f"{len(missing)} acknowledged starts are missing: {', '.join(missing[:5])}")
    if unfinished:
        faults.append(f"{len(unfinished)} started workflows have not completed: {', '.join(unfinished[:5])}")
    return faults
