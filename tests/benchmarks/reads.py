"""The row of the read barrier alone: three logs with real sockets and disks, in one loop, without gRPC around them."""

from __future__ import annotations

from tests.benchmarks.arithmetic import median
from tests.benchmarks.loops import closed_loop
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.processes import Options, Progress, temporary
from tests.replication.cluster import Cluster

BARRIER_MEDIAN_MS = 1
CALLERS = (1, 64)


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
