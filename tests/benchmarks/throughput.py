"""The rows of a cluster that nothing disturbs: a single start, and workflows of three steps."""

from __future__ import annotations

import secrets
from typing import Any

from orchestrator_client import Client
from tests.benchmarks.arithmetic import cpu_per_1000, median
from tests.benchmarks.loops import Window, closed_loop
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.processes import Options, Progress, cpu_by_part, running_cluster, running_workers
from tests.benchmarks.workload import W3, Parcel

START_MEDIAN_MS = 5


async def measure_start(options: Options, progress: Progress) -> list[Measurement]:
    """One caller, no worker: from the call to the acknowledgement."""
    async with running_cluster(options) as cluster, Client(cluster.endpoints) as client:
        leader = await cluster.wait_ready()

        async def call(number: int) -> None:
            await client.start(W3, Parcel(number))

        def spent() -> dict[str, float]:
            parts = cpu_by_part(cluster, leader, [])
            del parts["workers"]
            return parts

        progress.say("start: begins")
        window = await closed_loop("start", 1, options.seconds, call, spent, progress)
    budget = Budget("median", START_MEDIAN_MS, "ms", median(window.samples_ms))
    return [_measurement("start", 1, window, options, (budget,))]


async def measure_w3(options: Options, progress: Progress) -> list[Measurement]:
    """From the call that starts a workflow to its result at the caller."""
    measurements = []
    async with (
        running_cluster(options) as cluster,
        running_workers(cluster, options) as workers,
        Client(cluster.endpoints) as client,
    ):
        leader = await cluster.wait_ready()
        for concurrency in options.concurrency:
            prefix = secrets.token_hex(4)

            async def call(number: int, prefix: str = prefix) -> None:
                result = await client.start_and_wait(W3, Parcel(number), id=f"{prefix}-{number}")
                if result.number != number:
                    raise RuntimeError(f"workflow {number} answered {result.number}")

            name = f"w3 c={concurrency}"
            progress.say(f"{name}: begins")
            window = await closed_loop(
                name, concurrency, options.seconds, call, lambda: cpu_by_part(cluster, leader, workers), progress
            )
            measurements.append(_measurement("w3", concurrency, window, options, ()))
        if await cluster.leader() != leader:
            progress.say("w3: the leader has changed meanwhile, so the CPU times of its parts are mixed up")
    return measurements


def _measurement(
    row: str, concurrency: int, window: Window, options: Options, budgets: tuple[Budget, ...]
) -> Measurement:
    settings: dict[str, Any] = {"seconds": options.seconds, "nodes": 3, **options.node_settings}
    if row == "w3":
        settings |= {"workers": options.workers, "slots": options.slots}
    return Measurement(
        row=row,
        concurrency=concurrency,
        samples_ms=tuple(window.samples_ms),
        per_second=window.per_second,
        cpu_s_per_1000=cpu_per_1000(window.before, window.after, len(window.samples_ms)),
        budgets=budgets,
        settings=settings,
    )
