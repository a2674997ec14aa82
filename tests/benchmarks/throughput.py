"""The rows of a cluster that nothing disturbs: starts alone, workflows of one step and of three, synchronous execution.

The W3 of `w3` is measured, too, with disks that take longer to sync and with nodes that are further from each other:
this machine's disk is quick, and a round trip on it takes no time.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace

from orchestrator_client import Client, Workflow
from tests.benchmarks.arithmetic import cpu_per_1000, median
from tests.benchmarks.clusters import MeasuredCluster
from tests.benchmarks.commits import commit_row, raw_log
from tests.benchmarks.loops import Window, closed_loop
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.memory import log_costs, metrics
from tests.benchmarks.processes import Measure, Options, Progress, cpu_by_part, running_cluster, running_workers
from tests.benchmarks.workload import W1, W3, Parcel

START_MEDIAN_MS = 5
START_IN_COMMITS = (3.5, 2.7)
STEPS = 3
STEP_MEDIAN_MS = (2.3, 1.6)
W3_CPU_S = (0.85, 0.5)
# Where the budgets hold.
ALONE, BUSY = 1, 128

Calls = Callable[[Client], Callable[[int], Awaitable[object]]]
"""Of a client: what each caller does again and again, with a number that it gets once."""


async def measure_start(options: Options, progress: Progress) -> list[Measurement]:
    """No worker: from the call to the acknowledgement. One caller waits for commits of the same log, too."""
    async with raw_log(options) as log:
        progress.say("commit c=1: begins")
        halves = [await log.measure(options.seconds / 2)]
        measurements = await _measure("start", _starts, options, progress, workers=False)
        # Before and after: what else the machine does must not fall on one of them alone.
        halves.append(await log.measure(options.seconds / 2))
    samples = sorted([*halves[0][0], *halves[1][0]])
    commit = commit_row(samples, {part: spent + halves[1][1][part] for part, spent in halves[0][1].items()}, options)
    return [commit, *(_with_start_budgets(each, commit.median_ms) for each in measurements)]


async def measure_w1(options: Options, progress: Progress) -> list[Measurement]:
    """From the call that starts a workflow of one step to its result at the caller."""
    return await _measure("w1", lambda client: results(client, W1), options, progress)


async def measure_w3(options: Options, progress: Progress) -> list[Measurement]:
    """From the call that starts a workflow of three steps to its result at the caller."""
    return [_with_w3_budgets(each) for each in await _measure_w3("w3", options, progress)]


async def measure_execute(options: Options, progress: Progress) -> list[Measurement]:
    """As `w3`, by synchronous execution: the answer is the whole execution, with its tasks."""
    return await _measure("execute", _executions, options, progress)


def on_slow_disks(sync_ms: float) -> Measure:
    """As `w3`, on disks that take so much longer to sync."""
    return lambda options, progress: _measure_w3(
        f"w3-fsync-{sync_ms:g}ms", replace(options, sync_ms=sync_ms), progress
    )


def over_distance(rtt_ms: float) -> Measure:
    """As `w3`, with nodes that are so far from each other."""
    return lambda options, progress: _measure_w3(f"w3-rtt-{rtt_ms:g}ms", replace(options, rtt_ms=rtt_ms), progress)


async def _measure_w3(row: str, options: Options, progress: Progress) -> list[Measurement]:
    return await _measure(row, lambda client: results(client, W3), options, progress)


async def _measure(
    row: str, calls: Calls, options: Options, progress: Progress, *, workers: bool = True
) -> list[Measurement]:
    async with running_cluster(options) as cluster, Client(cluster.endpoints) as client:
        if not workers:
            return await _windows(row, calls(client), cluster, [], options, progress)
        async with running_workers(cluster, options) as pids:
            return await _windows(row, calls(client), cluster, pids, options, progress)


async def _windows(
    row: str,
    call: Callable[[int], Awaitable[object]],
    cluster: MeasuredCluster,
    workers: list[int],
    options: Options,
    progress: Progress,
) -> list[Measurement]:
    """One after the other, as many callers as the command line says."""
    measurements = []
    leader = await cluster.wait_ready()
    pids = ", ".join(f"{name} {cluster.pid(name)}" for name in cluster.nodes)
    progress.say(f"{row}: processes: nodes {pids}, of which {leader} leads; workers {workers or 'none'}")
    for concurrency in options.concurrency:
        name = f"{row} c={concurrency}"
        progress.say(f"{name}: begins")
        before = await metrics(cluster, leader)
        window = await closed_loop(
            name, concurrency, options.seconds, call, lambda: cpu_by_part(cluster, leader, workers), progress
        )
        notes = [log_costs(before, await metrics(cluster, leader))]
        if await cluster.leader() != leader:
            notes.append("the leader has changed, so the CPU times of its parts are mixed up")
        found = measurement_of(row, concurrency, window, options, with_workers=bool(workers))
        measurements.append(replace(found, notes=tuple(filter(None, notes))))
    return measurements


def _starts(client: Client) -> Callable[[int], Awaitable[object]]:
    async def call(number: int) -> None:
        await client.start(W3, Parcel(number))

    return call


def results(client: Client, workflow: Workflow) -> Callable[[int], Awaitable[object]]:
    prefix = secrets.token_hex(4)

    async def call(number: int) -> None:
        # Numbers begin again with each window.
        result = await client.start_and_wait(workflow, Parcel(number), id=f"{prefix}-{secrets.token_hex(8)}")
        if result.number != number:
            raise RuntimeError(f"workflow {number} answered {result.number}")

    return call


def _executions(client: Client) -> Callable[[int], Awaitable[object]]:
    async def call(number: int) -> None:
        awaited = await client.execute(W3, Parcel(number))
        if awaited.timed_out or awaited.workflow is None or awaited.workflow.output != {"number": number}:
            raise RuntimeError(f"workflow {number} was answered by {awaited}")

    return call


def measurement_of(
    row: str, concurrency: int, window: Window, options: Options, *, with_workers: bool = True
) -> Measurement:
    settings = {"seconds": options.seconds, **options.cluster_settings}
    if with_workers:
        settings |= {"workers": options.workers, "slots": options.slots}
    return Measurement(
        row=row,
        concurrency=concurrency,
        samples_ms=tuple(window.samples_ms),
        per_second=window.per_second,
        cpu_s_per_1000=cpu_per_1000(window.before, window.after, len(window.samples_ms)),
        settings=settings,
    )


def _with_start_budgets(measurement: Measurement, commit_ms: float) -> Measurement:
    if measurement.concurrency != ALONE:
        return measurement
    took_ms = median(measurement.samples_ms)
    must, aim = START_IN_COMMITS
    budgets = (
        Budget("median", START_MEDIAN_MS, "ms", took_ms),
        Budget("median in raw commits", must, "", took_ms / commit_ms, aim),
    )
    return replace(measurement, budgets=budgets)


def _with_w3_budgets(measurement: Measurement) -> Measurement:
    budgets = []
    if measurement.concurrency == ALONE:
        must, aim = STEP_MEDIAN_MS
        budgets.append(Budget("median per step", must, "ms", measurement.median_ms / STEPS, aim))
    if measurement.concurrency == BUSY:
        must, aim = W3_CPU_S
        budgets.append(Budget("CPU per 1,000", must, "s", sum(measurement.cpu_s_per_1000.values()), aim))
    return replace(measurement, budgets=tuple(budgets))
