"""A load that goes on for minutes: times and memory have to be flat once everything that is kept in memory is full.

What has ended leaves memory when there are more executions than `hot_executions_max`, so a short soak shows flat memory
only with a lower one.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from orchestrator_client import Client
from tests.benchmarks.arithmetic import cpu_per_1000, growth, median
from tests.benchmarks.clusters import MeasuredCluster
from tests.benchmarks.loops import Window, streaming
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.memory import metrics, node_bytes, own_bytes
from tests.benchmarks.processes import Options, Progress, cpu_by_part, running_cluster, running_workers
from tests.benchmarks.throughput import results
from tests.benchmarks.workload import W3

CALLERS = 16
SLICES = 20
WARM_UP_S = 2.0
# From the beginning of the second half to the end.
GROWTH_MAX = 1.1
MIB = 1 << 20


@dataclass
class Slice:
    """A twentieth of it, and the memory of all processes at its end."""

    window: Window
    memory: dict[str, int]
    hot: float


async def measure_soak(options: Options, progress: Progress) -> list[Measurement]:
    """W3 from its start to its result."""
    slices: list[Slice] = []
    async with (
        running_cluster(options) as cluster,
        running_workers(cluster, options) as workers,
        Client(cluster.endpoints) as client,
    ):
        leader = await cluster.wait_ready()
        call, spent = results(client, W3), lambda: cpu_by_part(cluster, leader, workers)
        async with streaming(CALLERS, call, spent) as stream:
            await asyncio.sleep(WARM_UP_S)
            stream.begin_window()
            for number in range(SLICES):
                await asyncio.sleep(options.soak_s / SLICES)
                hot = (await metrics(cluster, leader))["orchestrator_hot_executions"]
                slices.append(Slice(stream.end_window(), _memory(cluster, workers), hot))
                progress.say(f"soak: {number + 1} of {SLICES}: {_line(slices[-1])}")
        changed = await cluster.leader() != leader
    notes = ("the leader has changed meanwhile",) if changed else ()
    return [_measurement(slices, notes, options)]


def _memory(cluster: MeasuredCluster, workers: list[int]) -> dict[str, int]:
    return {**node_bytes(cluster), "workers": sum(map(own_bytes, workers)), "generator": own_bytes(os.getpid())}


def _line(one: Slice) -> str:
    memory = ", ".join(f"{name} {size / MIB:.0f}" for name, size in one.memory.items())
    return (
        f"{one.window.per_second:.0f} a second, p50 {median(one.window.samples_ms):.1f} ms, {memory} MiB, "
        f"{one.hot:.0f} executions in memory"
    )


def _measurement(slices: list[Slice], notes: tuple[str, ...], options: Options) -> Measurement:
    samples = sorted(sample for one in slices for sample in one.window.samples_ms)
    half = slices[len(slices) // 2 :]
    grown = {name: growth([one.memory[name] for one in half]) for name in half[0].memory}
    times = growth([median(one.window.samples_ms) for one in half])
    return Measurement(
        row="soak",
        concurrency=CALLERS,
        samples_ms=tuple(samples),
        per_second=len(samples) / sum(one.window.seconds for one in slices),
        cpu_s_per_1000=cpu_per_1000(slices[0].window.before, slices[-1].window.after, len(samples)),
        budgets=(
            Budget("median, end to middle", GROWTH_MAX, "", times),
            *(Budget(f"memory of {name}, end to middle", GROWTH_MAX, "", value) for name, value in grown.items()),
        ),
        settings={
            "seconds": options.soak_s, "memory_mib": [
                {name: round(size / MIB, 1) for name, size in one.memory.items()} for one in slices
            ],
            "p50_by_slice_ms": [round(median(one.window.samples_ms), 2) for one in slices],
            **options.cluster_settings,
        },
        notes=(*notes, *(f"{number}/{len(slices)}: {_line(one)}" for number, one in enumerate(slices, start=1))),
    )
