"""Workflows that wait for a time to pass: the memory of each, and what many of them do to others.

Cold ones are in the database, and only what must be known to wake them is in memory. Some are measured hot, too.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator_client import Client
from tests.benchmarks.arithmetic import cpu_per_1000
from tests.benchmarks.clusters import MeasuredCluster
from tests.benchmarks.loops import Window, closed_loop
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.memory import all_metrics, node_bytes, settled
from tests.benchmarks.processes import Options, Progress, cpu_by_part, running_cluster, running_workers
from tests.benchmarks.throughput import results
from tests.benchmarks.workload import W3, WAITING, Parcel

STARTERS = 64
SAY_EVERY = 10_000
CALLERS = 128
HOT_MAX = 1_000
# So many are enough to know what a hot one takes.
HOT_SHARE = 10
WARM_UP = 1_000
COLD_BYTES = (2_048, 200)


async def start_waiting(client: Client, count: int, progress: Progress, first: int = 0) -> list[float]:
    """Starts workflows `waiting-<first>` and so on; the milliseconds of each start, ascending."""
    numbers = itertools.count(first)
    samples: list[float] = []

    async def caller() -> None:
        while (number := next(numbers)) < first + count:
            began = time.perf_counter()
            await client.start(WAITING, Parcel(number), id=f"waiting-{number}")
            samples.append(1000 * (time.perf_counter() - began))
            if len(samples) % SAY_EVERY == 0:
                progress.say(f"{first + len(samples)} of {first + count} wait")

    async with asyncio.TaskGroup() as group:
        for _ in range(STARTERS):
            group.create_task(caller())
    return sorted(samples)


async def measure_waiting(options: Options, progress: Progress) -> list[Measurement]:
    """W3 before the others wait and while they do."""
    cold = replace(options, node_settings={"hot_executions_max": HOT_MAX, **options.node_settings})
    async with (
        running_cluster(cold) as cluster,
        running_workers(cluster, cold) as workers,
        Client(cluster.endpoints) as client,
    ):
        leader = await cluster.wait_ready()

        async def w3(name: str) -> Window:
            progress.say(f"{name} c={CALLERS}: begins")
            return await closed_loop(
                name, CALLERS, options.seconds, results(client, W3), lambda: cpu_by_part(cluster, leader, workers),
                progress,
            )

        alone = await w3("w3-alone")
        grown = await _grow(cluster, client, options.waiting, progress)
        hot = max(of["orchestrator_hot_executions"] for of in (await all_metrics(cluster)).values())
        beside = await w3("w3-beside-waiting")
    hot_each = await _hot_bytes_each(options, progress)
    must, aim = COLD_BYTES
    settings = {"waiting": options.waiting, "seconds": options.seconds, **cold.cluster_settings}
    samples = grown.samples_ms
    waiting = Measurement(
        row="waiting",
        concurrency=STARTERS,
        samples_ms=tuple(samples),
        per_second=len(samples) / grown.seconds,
        budgets=(Budget("memory of each, cold", must, "bytes", max(grown.each.values()), aim),),
        settings={
            **settings, "bytes_each": grown.each, "bytes_each_later": grown.each_later, "bytes_each_hot": hot_each,
        },
        notes=(
            f"bytes for each of {options.waiting} that wait, at most {hot:.0f} of them hot: {_by_node(grown.each)}",
            f"... of the second half, when caches are fuller: {_by_node(grown.each_later)}",
            f"... when all are hot: {_by_node(hot_each)}",
            f"W3 beside them: {100 * beside.per_second / alone.per_second:.0f} % of what it was before",
        ),
    )
    return [waiting, _w3("w3-alone", alone, settings), _w3("w3-beside-waiting", beside, settings)]


@dataclass
class Grown:
    """By how much each node grew for each that waits, in all and in the second half; and the starts."""

    each: dict[str, int]
    each_later: dict[str, int]
    samples_ms: list[float]
    seconds: float


async def _grow(cluster: MeasuredCluster, client: Client, count: int, progress: Progress) -> Grown:
    await settled(cluster)
    half = count // 2
    sizes, samples, seconds = [node_bytes(cluster)], [], 0.0
    for first, number in ((0, half), (half, count - half)):
        began = time.perf_counter()
        samples += await start_waiting(client, number, progress, first)
        seconds += time.perf_counter() - began
        await settled(cluster)
        sizes.append(node_bytes(cluster))
    begin, middle, end = sizes
    return Grown(
        {name: (end[name] - begin[name]) // count for name in begin},
        {name: (end[name] - middle[name]) // (count - half) for name in begin},
        sorted(samples),
        seconds,
    )


async def _hot_bytes_each(options: Options, progress: Progress) -> dict[str, int]:
    count = max(options.waiting // HOT_SHARE, 1)
    hot = replace(options, node_settings={**options.node_settings, "hot_executions_max": WARM_UP + count})
    async with running_cluster(hot) as cluster, Client(cluster.endpoints) as client:
        # What a node has only once it has worked is not theirs.
        for number in range(WARM_UP):
            await client.start(W3, Parcel(number))
        return (await _grow(cluster, client, count, progress)).each


def _by_node(each: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in each.items())


def _w3(row: str, window: Window, settings: Mapping[str, Any]) -> Measurement:
    return Measurement(
        row=row,
        concurrency=CALLERS,
        samples_ms=tuple(window.samples_ms),
        per_second=window.per_second,
        cpu_s_per_1000=cpu_per_1000(window.before, window.after, len(window.samples_ms)),
        settings=dict(settings),
    )
