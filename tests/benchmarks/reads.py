"""Reads: of a cluster by its clients, linearizable or possibly stale, and what the barrier costs alone.

The barrier is that of three logs with real sockets and disks, in one loop, without gRPC around them.
"""

from __future__ import annotations

from orchestrator_client import Client
from tests.benchmarks.arithmetic import median
from tests.benchmarks.loops import closed_loop
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.processes import Options, Progress, cpu_by_part, running_cluster, running_workers, temporary
from tests.benchmarks.throughput import measurement_of
from tests.benchmarks.workload import W3, Parcel
from tests.replication.cluster import Cluster

BARRIER_MEDIAN_MS = 1
CALLERS = (1, 64)


async def measure_reads(options: Options, progress: Progress) -> list[Measurement]:
    """One workflow that has ended, without its tasks, again and again."""
    measurements = []
    async with running_cluster(options) as cluster, Client(cluster.endpoints) as client:
        leader = await cluster.wait_ready()
        async with running_workers(cluster, options):
            await client.start_and_wait(W3, Parcel(1), id="read")
        for row, stale_ok in (("read", False), ("read-stale", True)):

            async def call(number: int, stale_ok: bool = stale_ok) -> None:
                execution = await client.get("read", stale_ok=stale_ok)
                if execution.output != {"number": 1}:
                    raise RuntimeError(f"the workflow was read as {execution}")

            for concurrency in options.concurrency:
                name = f"{row} c={concurrency}"
                progress.say(f"{name}: begins")
                window = await closed_loop(
                    name, concurrency, options.seconds, call, lambda: cpu_by_part(cluster, leader, []), progress
                )
                measurements.append(measurement_of(row, concurrency, window, options, with_workers=False))
    return measurements


async def measure_barrier(options: Options, progress: Progress) -> list[Measurement]:
    """From the call on the leader to the index that may be read; the budget is for one caller."""
    measurements = []
    with temporary(options) as directory:
        async with Cluster(directory) as cluster:
            leader = await cluster.leader()
            await cluster.put(b"x")
            for callers in CALLERS:
                rounds, last_index = leader.log._core.barrier.round, leader.log.last_index

                async def call(number: int) -> None:
                    await leader.log.barrier()

                progress.say(f"barrier c={callers}: begins")
                window = await closed_loop("barrier", callers, options.seconds, call, dict, progress)
                rounds = leader.log._core.barrier.round - rounds
                budget = Budget("median", BARRIER_MEDIAN_MS, "ms", median(window.samples_ms))
                measurements.append(
                    Measurement(
                        "barrier",
                        callers,
                        tuple(window.samples_ms),
                        window.per_second,
                        budgets=(budget,) if callers == 1 else (),
                        faults=("reads wrote to the log",) if leader.log.last_index != last_index else (),
                        notes=(f"{rounds} rounds",),
                    )
                )
    return measurements
