"""What a branch costs beside what a step costs: forks of 1,000 branches and W3, in one cluster, one after the other."""

from __future__ import annotations

import secrets
import time

from orchestrator_client import Client
from tests.benchmarks.arithmetic import cpu_per_1000
from tests.benchmarks.clusters import MeasuredCluster
from tests.benchmarks.large import fan_out
from tests.benchmarks.loops import closed_loop
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.processes import Options, Progress, cpu_by_part, running_cluster, running_workers
from tests.benchmarks.throughput import STEPS, results
from tests.benchmarks.workload import W3

BRANCHES = 1_000
STEP_CALLERS = 128
FORKS_MIN = 3
BRANCH_IN_STEPS = (1.0, 0.5)


async def measure_fan_out_1000(options: Options, progress: Progress) -> list[Measurement]:
    """From the start of a fork to its end, all branches executed by a worker."""
    async with (
        running_cluster(options) as cluster,
        running_workers(cluster, options) as workers,
        Client(cluster.endpoints) as client,
    ):
        leader = await cluster.wait_ready()
        name = f"w3 c={STEP_CALLERS}"
        progress.say(f"fanout-{BRANCHES}: {name} begins")
        window = await closed_loop(
            name, STEP_CALLERS, options.seconds, results(client, W3), lambda: cpu_by_part(cluster, leader, workers),
            progress,
        )
        steps = cpu_per_1000(window.before, window.after, STEPS * len(window.samples_ms))
        return [await _forks(cluster, leader, workers, client, sum(steps.values()), options, progress)]


async def _forks(
    cluster: MeasuredCluster, leader: str, workers: list[int], client: Client, step_cpu_s: float, options: Options,
    progress: Progress,
) -> Measurement:
    """One after the other, whole ones only. `step_cpu_s` is that of 1,000 steps."""
    faults: list[str] = []
    samples: list[float] = []
    before, begin = cpu_by_part(cluster, leader, workers), time.perf_counter()
    while time.perf_counter() < begin + options.seconds or len(samples) < FORKS_MIN:
        began = time.perf_counter()
        if wrong := await fan_out(client, BRANCHES, secrets.token_hex(8)):
            faults.append(wrong)
        samples.append(1000 * (time.perf_counter() - began))
        progress.say(f"fanout-{BRANCHES}: {len(samples)} done, the last in {samples[-1]:.0f} ms")
    seconds, after = time.perf_counter() - begin, cpu_by_part(cluster, leader, workers)
    branches = cpu_per_1000(before, after, BRANCHES * len(samples))
    must, aim = BRANCH_IN_STEPS
    return Measurement(
        row=f"fanout-{BRANCHES}",
        concurrency=1,
        samples_ms=tuple(sorted(samples)),
        per_second=BRANCHES * len(samples) / seconds,
        cpu_s_per_1000=branches,
        budgets=(Budget("CPU per branch in W3 steps", must, "", sum(branches.values()) / step_cpu_s, aim),),
        faults=tuple(faults),
        settings={
            "seconds": options.seconds, "workers": options.workers, "slots": options.slots, **options.cluster_settings,
        },
        notes=(
            "the rate and the CPU time are of branches, the times of whole forks",
            f"1,000 branches took {sum(branches.values()):.2f} CPU-seconds, 1,000 steps of W3 {step_cpu_s:.2f}",
        ),
    )
