"""One large execution, and another workflow beside it: a fork of 10,000 branches, a loop of 10,000 iterations.

A tenth of it goes first, on the same cluster: what each part costs must not grow with the number of parts. The samples
of these rows are those of the other workflow, one task of a worker of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.benchmarks.arithmetic import cpu_per_1000, highest_bucket, median
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.processes import Options, Progress, cpu_by_part, running_cluster, running_workers
from tests.benchmarks.stalls import term_of
from tests.benchmarks.workload import FAN_OUT, LOOP, W1, Parcel, branch, first

SMALL, LARGE = 1_000, 10_000
# Time per part of the large one against the small one; it would be ten if all parts were looked at for each.
RATIO_MAX = 1.5
ELECTION_MIN_MS = 500  # the default of the shortest silence after which a node stands for election
PATIENCE_S = 1_200
# Between two executions of the other workflow.
BETWEEN_S = 0.02
ALONE = 100
_LAG = "orchestrator_event_loop_lag_seconds_bucket"

RunOne = Callable[[Client, int, str], Awaitable[str]]
"""Runs an execution of so many parts under an id, to its end; answers what is wrong with its result."""


@dataclass
class Beside:
    """The other workflow."""

    client: Client
    prefix: str
    samples_ms: list[float] = field(default_factory=list)

    async def once(self) -> None:
        number = len(self.samples_ms)
        began = time.perf_counter()
        await self.client.start_and_wait(W1, Parcel(number), id=f"{self.prefix}-{number}")
        self.samples_ms.append(1000 * (time.perf_counter() - began))

    async def for_ever(self) -> None:
        while True:
            await self.once()
            await asyncio.sleep(BETWEEN_S)


@contextlib.asynccontextmanager
async def _beside(client: Client) -> AsyncIterator[Beside]:
    other = Beside(client, secrets.token_hex(4))
    running = asyncio.create_task(other.for_ever())
    try:
        yield other
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def measure_fan_out(options: Options, progress: Progress) -> list[Measurement]:
    """From the start to the end of the execution, all branches executed by a worker."""
    return await _measure("fanout", fan_out, options, progress)


async def measure_loop(options: Options, progress: Progress) -> list[Measurement]:
    """From the start to the end of the execution; each iteration asks a script whether there is another."""
    return await _measure("loop", _loop, options, progress)


async def fan_out(client: Client, size: int, workflow_id: str) -> str:
    run = await client.start(FAN_OUT, {"items": [{"n": n} for n in range(size)]}, id=workflow_id)
    ended = await run.wait(PATIENCE_S)
    if ended.status != "COMPLETED":
        return f"it is {ended.status}: {ended.reason}"
    numbers = sorted(output["n"] for output in ended.output["joined"].values())
    return "" if numbers == list(range(size)) else f"{len(numbers)} of {size} branches are joined"


async def _loop(client: Client, size: int, workflow_id: str) -> str:
    run = await client.start(LOOP, {"count": size}, id=workflow_id)
    ended = await run.wait(PATIENCE_S)
    if ended.status != "COMPLETED":
        return f"it is {ended.status}: {ended.reason}"
    reached = ended.output["reached"]
    return "" if reached == size else f"the loop ended after {reached} of {size} iterations"


async def _measure(row: str, run: RunOne, options: Options, progress: Progress) -> list[Measurement]:
    async with (
        running_cluster(options) as cluster,
        running_workers(cluster, options, branch.name) as workers,
        running_workers(cluster, Options(slots=8), first.name) as others,
        Client(cluster.endpoints) as client,
    ):
        leader = await cluster.wait_ready()
        alone = Beside(client, secrets.token_hex(4))
        for _ in range(ALONE):
            await alone.once()
        each = [
            await _measure_one(row, size, run, cluster, leader, [*workers, *others], client, progress)
            for size in (SMALL, LARGE)
        ]
    before = f"another workflow took {median(sorted(alone.samples_ms)):.1f} ms in the median before"
    return [_measurement(row, one, each[0].part_ms, before, options) for one in each]


@dataclass
class Large:
    """One execution of so many parts."""

    size: int
    seconds: float
    samples_ms: list[float]
    lag_ms: float
    elections: int
    cpu: dict[str, float]
    wrong: str

    @property
    def part_ms(self) -> float:
        return 1000 * self.seconds / self.size


async def _measure_one(
    row: str, size: int, run: RunOne, cluster: LocalCluster, leader: str, workers: list[int], client: Client,
    progress: Progress,
) -> Large:
    progress.say(f"{row}-{size}: begins")
    term, lags, spent = await term_of(cluster), await _lags(cluster), cpu_by_part(cluster, leader, workers)
    async with _beside(client) as other:
        began = time.perf_counter()
        wrong = await run(client, size, f"{row}-{size}")
        seconds = time.perf_counter() - began
    cpu = cpu_per_1000(spent, cpu_by_part(cluster, leader, workers), size)
    after = await _lags(cluster)
    lag_s = max(highest_bucket(lags[name], after[name]) for name in after)
    elections = await term_of(cluster) - term
    return Large(size, seconds, sorted(other.samples_ms), 1000 * lag_s, elections, cpu, wrong)


async def _lags(cluster: LocalCluster) -> dict[str, dict[float, float]]:
    """How often the event loop of each node was at most so many seconds late."""

    def read(address: str) -> dict[float, float]:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        found = [line for line in lines if line.startswith(_LAG)]
        return {float(line.split('le="')[1].split('"')[0]): float(line.rpartition(" ")[2]) for line in found}

    nodes = cluster.nodes.values()
    return {node.name: await asyncio.to_thread(read, str(node.metrics_address)) for node in nodes}


def _measurement(row: str, one: Large, small_part_ms: float, before: str, options: Options) -> Measurement:
    lag = Budget("stall", ELECTION_MIN_MS, "ms", one.lag_ms)
    budgets = [Budget("elections", 1, "", one.elections), lag]
    took = f"{one.seconds:.1f} s, {one.part_ms:.2f} ms for each"
    notes = [f"{took}; {before}; no event loop stalled for more than {one.lag_ms:g} ms"]
    if one.size > SMALL:
        ratio = one.part_ms / small_part_ms
        budgets.append(Budget("ratio", RATIO_MAX, "", ratio))
        notes.append(f"each took {ratio:.2f} times as long as one of {SMALL}")
    return Measurement(
        row=f"{row}-{LARGE}" + ("-tenth" if one.size == SMALL else ""),
        concurrency=1,
        samples_ms=tuple(one.samples_ms),
        per_second=one.size / one.seconds,
        cpu_s_per_1000=one.cpu,
        budgets=tuple(budgets),
        faults=(one.wrong,) if one.wrong else (),
        settings={"nodes": 3, "workers": options.workers, "slots": options.slots, **options.node_settings},
        notes=tuple(notes),
    )
