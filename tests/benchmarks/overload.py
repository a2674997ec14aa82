"""More starts than the cluster can complete, offered at a steady rate that waits for nobody.

Starts have to be refused in time, and everything else has to go on: what was accepted before and meanwhile, reads, and
who wants to end something. Whoever makes the offer is another process than whoever looks on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from orchestrator_client import Client
from tests.benchmarks.arithmetic import percentile
from tests.benchmarks.clusters import ROOT, MeasuredCluster, environment
from tests.benchmarks.loops import closed_loop
from tests.benchmarks.measurement import Budget, Measurement
from tests.benchmarks.memory import all_metrics, node_bytes
from tests.benchmarks.offer import Outcomes
from tests.benchmarks.processes import Options, Progress, cpu_by_part, running_cluster, running_workers
from tests.benchmarks.stalls import term_of
from tests.benchmarks.throughput import results
from tests.benchmarks.waiting import start_waiting
from tests.benchmarks.workload import W3

CALLERS = 128
# The offer lasts this many windows.
WINDOWS = 3
# Processes that make it.
OFFERERS = 2
# How often somebody reads, and ends something.
READ_EVERY_S = 0.1
END_EVERY_S = 0.5
LOOK_EVERY_S = 1.0
READY_S = 20.0
# What is under way at the end of the offer has so long.
END_S = 60.0
DRAIN_S = 300.0
MIB = 1 << 20
# While overloaded it completes at least half of what it does otherwise, and should four fifths. Whoever makes the offer
# does so on the same processors.
SLOWDOWN_MAX = 2.0
SLOWDOWN_AIM = 1.25
READ_P99_MS = 1_000
END_P99_MS = 2_000
# The queue may be two seconds old before starts are refused.
ACCEPTED_P99_MS = 4_000
NODE_MIB_MAX = 1_024
# Where few may be under way at once; and how many more may be, as they came together.
LIVE_MAX = 2_000
MARGIN = 1_000


@dataclass
class Counts:
    """What the leader says of all workflows."""

    started: float
    live: float
    refused: float
    sessions_lost: float

    @property
    def ended(self) -> float:
        return self.started - self.live


class Pace(NamedTuple):
    """How many workflows are completed, and what that takes of the processors, of nodes and workers together."""

    per_second: float
    cpu_s_per_1000: float

    def __str__(self) -> str:
        return f"{self.per_second:.0f} a second, at {self.cpu_s_per_1000:.2f} CPU-seconds for 1,000"


@dataclass
class Others:
    """Who has nothing to do with the offer, how long each call took, and how large the nodes became."""

    reads_ms: list[float] = field(default_factory=list)
    ends_ms: list[float] = field(default_factory=list)
    largest: dict[str, int] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def _others(cluster: MeasuredCluster) -> AsyncIterator[Others]:
    found = Others()
    numbers = iter(range(1, 1 << 30))

    async with Client(cluster.endpoints) as client:

        async def read() -> None:
            await client.get("waiting-0")

        async def end() -> None:
            await client.run(f"waiting-{next(numbers)}").terminate("no longer wanted")

        async def look() -> None:
            for name, size in node_bytes(cluster).items():
                found.largest[name] = max(size, found.largest.get(name, 0))

        tasks = [
            asyncio.create_task(_again_and_again(read, READ_EVERY_S, found.reads_ms)),
            asyncio.create_task(_again_and_again(end, END_EVERY_S, found.ends_ms)),
            asyncio.create_task(_again_and_again(look, LOOK_EVERY_S, [])),
        ]
        try:
            yield found
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if not isinstance(error, asyncio.CancelledError):
            raise RuntimeError("a call beside the offer failed") from error
    found.reads_ms.sort()
    found.ends_ms.sort()


async def _again_and_again(call: Callable[[], Awaitable[None]], every_s: float, samples_ms: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await call()
        samples_ms.append(1000 * (time.perf_counter() - began))
        await asyncio.sleep(every_s)


async def measure_overload(options: Options, progress: Progress) -> list[Measurement]:
    """What is completed with as many callers as it likes, then with an offer of several times that."""
    return [await _measure("overload", options, progress)]


async def measure_overload_full(options: Options, progress: Progress) -> list[Measurement]:
    """The same where few may be under way at once, so that most of what is offered has to be refused."""
    live_max = int(options.node_settings.get("max_live_executions", LIVE_MAX))
    limited = replace(options, node_settings={**options.node_settings, "max_live_executions": live_max})
    found = await _measure("overload-full", limited, progress)
    outcomes, live = found.settings["outcomes"], found.settings["live_at_end"]
    refused = outcomes.get("refused", 0) / sum(outcomes.values())
    return [replace(found, budgets=(
        *found.budgets,
        Budget("of the offer not refused", 1.0, "", 1.0 - refused),
        # What was on its way when the limit was reached is still accepted.
        Budget("under way at the end", live_max + MARGIN, "", live),
    ))]


async def _measure(row: str, options: Options, progress: Progress) -> Measurement:
    async with (
        running_cluster(options) as cluster,
        running_workers(cluster, options) as workers,
        Client(cluster.endpoints) as client,
    ):
        leader = await cluster.wait_ready()
        seconds = WINDOWS * options.seconds
        # They are ended one after the other, also while those who make the offer are being started and end late.
        await start_waiting(client, int((READY_S + seconds + END_S) / END_EVERY_S) + 2, progress)
        progress.say(f"overload: capacity, w3 c={CALLERS}, begins")

        def spent() -> dict[str, float]:
            return cpu_by_part(cluster, leader, workers)

        async def capacity() -> Pace:
            before, cpu = await _counts(cluster), spent()
            measured = await closed_loop(row, CALLERS, options.seconds, results(client, W3), spent, progress)
            return Pace(measured.per_second, _cpu_s_per_1000(cpu, spent(), before, await _counts(cluster)))

        capacities = [await capacity()]
        offered = options.overload * capacities[0].per_second
        progress.say(f"overload: {capacities[0]}, is offered {offered:.0f} a second for {seconds:.0f} s")
        term, before, cpu = await term_of(cluster), await _counts(cluster), spent()
        async with _others(cluster) as others:
            began = time.perf_counter()
            offer = await _offer(cluster, offered, seconds)
            took = time.perf_counter() - began
            after = await _counts(cluster)
            completed = Pace((after.ended - before.ended) / took, _cpu_s_per_1000(cpu, spent(), before, after))
        progress.say(f"overload: {dict(offer.counts)}; {after.live - before.live:.0f} have not ended")
        drained_s = await _drained(cluster, before.live, progress)
        elections = await term_of(cluster) - term
        # What else the machine does changes meanwhile.
        capacities.append(await capacity())
    return _measurement(row, options, capacities, completed, offer, others, (before, after), elections, drained_s)


async def _offer(cluster: MeasuredCluster, per_second: float, seconds: float) -> Outcomes:
    """By several processes, that begin together."""
    command = [sys.executable, "-m", "tests.benchmarks.offer", str(os.getpid()), ",".join(cluster.endpoints)]
    found, offerers = Outcomes(), []
    try:
        for _ in range(OFFERERS):
            offerers.append(
                await asyncio.create_subprocess_exec(
                    *command, str(per_second / OFFERERS), str(seconds), cwd=ROOT, env=environment(),
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                    limit=1 << 28,  # the outcomes are one line
                )
            )
        async with asyncio.timeout(READY_S):
            await asyncio.gather(*(_line(offerer) for offerer in offerers))
        for offerer in offerers:
            assert offerer.stdin is not None
            offerer.stdin.write(b"go\n")
        async with asyncio.timeout(seconds + END_S):
            for line in await asyncio.gather(*(_line(offerer) for offerer in offerers)):
                found.add(json.loads(line))
    finally:
        for offerer in offerers:
            with contextlib.suppress(ProcessLookupError):
                offerer.kill()
        await asyncio.gather(*(offerer.wait() for offerer in offerers))
    return found


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process that offers starts ended with exit code {await process.wait()}")
    return line


async def _counts(cluster: MeasuredCluster) -> Counts:
    """Of all nodes, as leadership may have moved; each counts what it has applied."""
    found = (await all_metrics(cluster)).values()
    return Counts(
        max(of["orchestrator_workflows_started_total"] for of in found),
        max(of["orchestrator_live_workflows"] for of in found),
        sum(of.get("orchestrator_refused_starts_total", 0.0) for of in found),
        sum(of["orchestrator_sessions_lost_total"] for of in found),
    )


async def _drained(cluster: MeasuredCluster, live: float, progress: Progress) -> float:
    """How long it took until no more were under way than before."""
    began = time.perf_counter()
    while (now := (await _counts(cluster)).live) > live:
        if time.perf_counter() - began > DRAIN_S:
            raise RuntimeError(f"{now - live:.0f} workflows are still under way after {DRAIN_S:.0f} s")
        progress.say(f"overload: {now - live:.0f} are still under way")
        await asyncio.sleep(LOOK_EVERY_S)
    return time.perf_counter() - began


def _cpu_s_per_1000(before: dict[str, float], after: dict[str, float], began: Counts, ended: Counts) -> float:
    parts = [part for part in before if part != "generator"]
    return 1000 * sum(after[part] - before[part] for part in parts) / (ended.ended - began.ended)


def _measurement(
    row: str, options: Options, capacities: list[Pace], completed: Pace, offer: Outcomes, others: Others,
    counts: tuple[Counts, Counts], elections: int, drained_s: float,
) -> Measurement:
    before, after = counts
    capacity = Pace(*(sum(parts) / len(capacities) for parts in zip(*capacities, strict=True)))
    offered = options.overload * capacities[0].per_second
    accepted, refused = sorted(offer.accepted_ms), sorted(offer.refused_ms)
    largest_mib = max(others.largest.values()) / MIB
    return Measurement(
        row=row,
        concurrency=0,
        samples_ms=tuple(accepted),
        per_second=completed.per_second,
        budgets=(
            Budget("capacity to completed", SLOWDOWN_MAX, "", capacity.per_second / completed.per_second, SLOWDOWN_AIM),
            Budget("CPU of one to otherwise", SLOWDOWN_MAX, "", completed.cpu_s_per_1000 / capacity.cpu_s_per_1000,
                   SLOWDOWN_AIM),
            Budget("accepted p99", ACCEPTED_P99_MS, "ms", percentile(accepted, 0.99)),
            Budget("read p99", READ_P99_MS, "ms", percentile(others.reads_ms, 0.99)),
            Budget("terminate p99", END_P99_MS, "ms", percentile(others.ends_ms, 0.99)),
            Budget("elections", 1, "", elections),
            Budget("worker sessions lost", 1, "", after.sessions_lost - before.sessions_lost),
            Budget("largest node", NODE_MIB_MAX, "MiB", largest_mib),
        ),
        settings={
            "seconds": WINDOWS * options.seconds, "offered": offered,
            "capacities": [pace.per_second for pace in capacities],
            "outcomes": dict(offer.counts), "drained_s": drained_s, "live_at_end": after.live,
            **options.cluster_settings,
        },
        notes=(
            f"completed with {CALLERS} callers: {capacities[0]}; afterwards {capacities[1]}",
            f"{offered:.0f} a second offered",
            ", ".join(f"{count} {outcome}" for outcome, count in offer.counts.items()),
            f"{after.refused - before.refused:.0f} attempts were refused"
            + (f"; who gave up for that knew it after {_p50_p99(refused)} ms" if refused else ""),
            f"completed meanwhile: {completed}; {after.live - before.live:.0f} were under way at the end",
            f"{drained_s:.0f} s later none were",
            f"those who made the offer took {offer.cpu_s:.1f} CPU-seconds, and were up to {offer.late_ms:.0f} ms late",
            f"reads took {_p50_p99(others.reads_ms)} ms, terminations {_p50_p99(others.ends_ms)} ms",
        ),
    )


def _p50_p99(samples: list[float]) -> str:
    return f"{percentile(samples, 0.5):.0f} (p99 {percentile(samples, 0.99):.0f})"
