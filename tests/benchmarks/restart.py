"""The time from starting three killed nodes to their first answer, with many finished and many live workflows.

The first `RUN_MAX` of the finished ones are executed; what is wanted beyond is copied into the databases while the
nodes are down. The live ones are started as any other, and wait for a time to pass.
"""

from __future__ import annotations

import asyncio
import itertools
import time

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, WorkflowStatus
from tests.benchmarks.arithmetic import median
from tests.benchmarks.finished import add_copies
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.processes import Options, Progress, running_cluster, running_workers
from tests.benchmarks.waiting import start_waiting
from tests.benchmarks.workload import W3, Parcel

RUN_MAX = 2_000
RUN_S = 60.0
CALLERS = 64
REPEATS = 5
RESTART_S = 5.0
ANSWER_S = 300.0
SAY_EVERY = 50_000


async def measure_restart(options: Options, progress: Progress) -> list[Measurement]:
    async with running_cluster(options) as cluster:
        executed = await _execute(cluster, options, min(options.finished, RUN_MAX), progress)
        async with Client(cluster.endpoints) as client:
            await start_waiting(client, options.live, progress)
        copies = max(options.finished - executed, 0)
        if copies:
            await _copy(cluster, copies, progress)
        asked = {"0": WorkflowStatus.COMPLETED}
        if copies:
            asked[f"0-copy-{copies}"] = WorkflowStatus.COMPLETED
        if options.live:
            asked[f"waiting-{options.live - 1}"] = WorkflowStatus.RUNNING
        times = []
        for repeat in range(REPEATS):
            seconds = await _restart(cluster, asked)
            progress.say(f"restart: {repeat + 1} of {REPEATS}: first answer after {seconds * 1000:.0f} ms")
            times.append(seconds * 1000)
            await cluster.wait_ready(timeout_s=ANSWER_S)
        # With its write-ahead log, where a young database has everything.
        megabytes = sum(file.stat().st_size for file in cluster.nodes["a"].data_dir.glob("state.db*")) / 1e6
    times.sort()
    return [
        Measurement(
            row="restart",
            concurrency=1,
            samples_ms=tuple(times),
            per_second=1000 / median(times),
            budgets=(Budget("worst", RESTART_S * 1000, "ms", times[-1]),),
            settings={
                "finished": executed + copies, "copied": copies, "live": options.live,
                "state_db_mb": round(megabytes, 1), **options.cluster_settings,
            },
            notes=(
                f"{executed} workflows executed, {copies} copied, {options.live} wait; state.db {megabytes:.0f} MB",
            ),
        )
    ]


async def _execute(cluster: LocalCluster, options: Options, count: int, progress: Progress) -> int:
    """How many were executed before the time was over."""
    numbers = itertools.count()
    deadline = time.perf_counter() + RUN_S
    done = 0

    async with running_workers(cluster, options), Client(cluster.endpoints) as client:

        async def caller() -> None:
            nonlocal done
            while time.perf_counter() < deadline and (number := next(numbers)) < count:
                await client.start_and_wait(W3, Parcel(number), id=str(number))
                done += 1

        progress.say(f"restart: executes {count} workflows")
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return done


async def _copy(cluster: LocalCluster, count: int, progress: Progress) -> None:
    # The followers learn with a heartbeat that the last entry is committed.
    await asyncio.sleep(1)
    await cluster.stop(timeout_s=60)
    databases = [node.data_dir / "state.db" for node in cluster.nodes.values()]
    progress.say(f"restart: copies {count} finished workflows into three databases")
    began = time.perf_counter()

    def said(done: int) -> None:
        if done % SAY_EVERY == 0:
            progress.say(f"restart: {done} of {count} copied")

    await asyncio.to_thread(add_copies, databases, ("default", "0"), count, said)
    progress.say(f"restart: copied in {time.perf_counter() - began:.0f} s")
    await cluster.start()
    await cluster.wait_ready(timeout_s=ANSWER_S)


async def _restart(cluster: LocalCluster, asked: dict[str, WorkflowStatus]) -> float:
    """Kills all nodes, starts them, and answers how long it took until a client had its first answer.

    Python's own start is in it.
    """
    await asyncio.gather(*(cluster.kill_node(name) for name in cluster.nodes))
    began = time.perf_counter()
    await cluster.start()
    async with Client(cluster.endpoints, deadline_s=ANSWER_S) as client:
        took = 0.0
        for workflow_id, status in asked.items():
            execution = await client.get(workflow_id)
            took = took or time.perf_counter() - began
            if execution.status is not status:
                raise RuntimeError(f"workflow {workflow_id} is {execution.status} after the restart, not {status}")
    return took
