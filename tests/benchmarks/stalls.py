"""Full load while each node stands still for a moment, again and again: nobody may stand for election because of it.

A moment is 200 ms: a garbage collection, a snapshot of the virtual machine, a disk that hesitates. Nodes are chosen
independently, so two or all three often stand still together.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from orchestrator.cli.cluster_calls import ask_leader
from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client
from tests.benchmarks.arithmetic import percentile
from tests.benchmarks.loops import closed_loop
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.processes import Options, Progress, cpu_by_part, running_cluster, running_workers
from tests.benchmarks.workload import W1, Parcel

CALLERS = 64
STALL_S = 0.2
# From the end of one stall of a node to the next.
BETWEEN_S = (0.3, 2.0)


@dataclass
class Stalls:
    """How long each of them lasted: longer than meant, if this machine is busy."""

    seconds: list[float] = field(default_factory=list)


async def measure_stalls(options: Options, progress: Progress) -> list[Measurement]:
    """The term at the end must be that of the beginning."""
    async with (
        running_cluster(options) as cluster,
        running_workers(cluster, options) as workers,
        Client(cluster.endpoints) as client,
    ):
        leader = await cluster.wait_ready()
        prefix = secrets.token_hex(4)

        async def call(number: int) -> None:
            await client.start_and_wait(W1, Parcel(number), id=f"{prefix}-{number}")

        await client.start_and_wait(W1, Parcel(0), id=f"{prefix}-warm-up")
        before = await term_of(cluster)
        async with _stalling(cluster, options) as stalls:
            window = await closed_loop(
                "stalls", CALLERS, options.seconds, call, lambda: cpu_by_part(cluster, leader, workers), progress
            )
        after = await term_of(cluster)
    lasted = sorted(1000 * seconds for seconds in stalls.seconds)
    return [
        Measurement(
            row="stalls",
            concurrency=CALLERS,
            samples_ms=tuple(window.samples_ms),
            per_second=window.per_second,
            budgets=(Budget("elections", 1, "", after - before),),
            settings={"seconds": options.seconds, "seed": options.seed, **options.node_settings},
            notes=(_note(lasted, window.seconds, before, after),),
        )
    ]


def _note(lasted_ms: list[float], seconds: float, before: int, after: int) -> str:
    if not lasted_ms:
        return f"no stall in {seconds:.0f} s"
    median_ms, longest_ms = percentile(lasted_ms, 0.5), lasted_ms[-1]
    found = f"{len(lasted_ms)} stalls in {seconds:.0f} s, {median_ms:.0f} ms in the median, {longest_ms:.0f} ms at most"
    return f"{found}; the term was {before}, and is {after}"


async def term_of(cluster: LocalCluster) -> int:
    """The highest of the nodes' terms."""
    answers = await asyncio.gather(*(ask_leader(address, timeout_s=10) for address in cluster.endpoints))
    return max(answer.term for answer in answers if answer is not None)


@contextlib.asynccontextmanager
async def _stalling(cluster: LocalCluster, options: Options) -> AsyncIterator[Stalls]:
    """In threads, one for each node, as the loop is busy with the callers."""
    stalls, over = Stalls(), threading.Event()

    def again_and_again(name: str) -> None:
        rng = random.Random(f"{options.seed}/{name}")
        process = cluster.nodes[name].process
        assert process is not None
        while not over.wait(rng.uniform(*BETWEEN_S)) and process.poll() is None:
            began = time.perf_counter()
            os.kill(process.pid, signal.SIGSTOP)
            try:
                time.sleep(STALL_S)
            finally:
                os.kill(process.pid, signal.SIGCONT)
            stalls.seconds.append(time.perf_counter() - began)

    threads = [threading.Thread(target=again_and_again, args=(name,)) for name in cluster.nodes]
    for thread in threads:
        thread.start()
    try:
        yield stalls
    finally:
        over.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
