"""W3 while one of the followers is down, catches up, or is slow: the other two are a quorum, and must not wait for it.

It catches up twice: from the leader's journal, and, where that does not reach back far enough, by a copy of the
database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from orchestrator_client import Client
from tests.benchmarks.arithmetic import cpu_per_1000
from tests.benchmarks.clusters import MeasuredCluster
from tests.benchmarks.loops import Stream, Window, streaming
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.memory import metrics
from tests.benchmarks.processes import Options, Progress, cpu_by_part, running_cluster, running_workers
from tests.benchmarks.throughput import results
from tests.benchmarks.workload import W3

CALLERS = 64
WARM_UP_S = 2.0
POLL_S = 0.1
SAY_EVERY_S = 1.0
CAUGHT_UP_S = 120.0
# Of the slow one.
SYNC_MS = 50
# With no more than these behind it, whoever was away for a while needs a copy.
SHORT_TAIL = {"journal_tail_entries": 0, "journal_segment_bytes": 1 << 20}


async def measure_follower(options: Options, progress: Progress) -> list[Measurement]:
    by_journal = await _measure(options, "follower-from-journal", progress)
    short = replace(options, node_settings={**SHORT_TAIL, **options.node_settings})
    by_copy = await _measure(short, "follower-by-copy", progress, only_back=True)
    return [*by_journal, *by_copy]


async def _measure(
    options: Options, back: str, progress: Progress, *, only_back: bool = False
) -> list[Measurement]:
    """The phases one after the other, under the same callers; `back` is the name of the one in which it catches up."""
    windows: dict[str, Window] = {}
    notes: dict[str, str] = {}
    async with (
        running_cluster(options) as cluster,
        running_workers(cluster, options) as workers,
        Client(cluster.endpoints) as client,
    ):
        leader = await cluster.wait_ready()
        follower = next(name for name in cluster.nodes if name != leader)

        async def phase(name: str, stream: Stream, during: Callable[[], Awaitable[object]]) -> None:
            progress.say(f"{name}: begins")
            stream.begin_window()
            await during()
            windows[name] = stream.end_window()

        async def for_a_while() -> None:
            await asyncio.sleep(options.seconds)

        call, spent = results(client, W3), lambda: cpu_by_part(cluster, leader, workers)
        async with streaming(CALLERS, call, spent) as stream:
            await asyncio.sleep(WARM_UP_S)
            await phase("follower-well", stream, for_a_while)
            await cluster.kill_node(follower)
            await phase("follower-down", stream, for_a_while)
            await asyncio.to_thread(cluster.start_node, follower)
            await phase(back, stream, lambda: _caught_up(cluster, leader, follower, notes, back, progress))
            if not only_back:
                await _slow_down(cluster, follower)
                await _caught_up(cluster, leader, follower, notes, "follower-slow", progress)
                await phase("follower-slow", stream, for_a_while)
                notes["follower-slow"] = f"its disk takes {SYNC_MS} ms to sync"
        if await cluster.leader() != leader:
            notes["follower-well"] = "the leader has changed meanwhile"
    well = windows["follower-well"].per_second
    shown = {back: windows[back]} if only_back else windows
    return [_measurement(name, window, well, notes.get(name, ""), options) for name, window in shown.items()]


async def _slow_down(cluster: MeasuredCluster, follower: str) -> None:
    cluster.sync_ms[follower] = SYNC_MS
    await cluster.kill_node(follower)
    await asyncio.to_thread(cluster.start_node, follower)


async def _caught_up(
    cluster: MeasuredCluster, leader: str, follower: str, notes: dict[str, str], name: str, progress: Progress
) -> None:
    """Until it has applied what the leader had committed a moment before, as nearly as any follower has."""
    began = said = time.perf_counter()
    goal = (await metrics(cluster, leader))["orchestrator_commit_index"]
    served_s = 0.0
    while True:
        commit = (await metrics(cluster, leader))["orchestrator_commit_index"]
        found = await _metrics_of_starting(cluster, follower)
        now = time.perf_counter()
        served_s = served_s or (now - began if found else 0.0)
        applied = found.get("orchestrator_applied_index", 0.0)
        if applied >= commit:
            break
        if now - began > CAUGHT_UP_S:
            raise TimeoutError(f"after {CAUGHT_UP_S} s {follower} is at {applied:.0f}, and the leader at {commit:.0f}")
        if now - said > SAY_EVERY_S:
            said = now
            progress.say(f"{name}: {follower} is at {applied:.0f}, and the leader at {commit:.0f}")
        await asyncio.sleep(POLL_S)
    took = time.perf_counter() - began
    how = "by a copy" if found["orchestrator_snapshots_installed_total"] else "from the journal"
    notes[name] = (
        f"caught up in {took:.1f} s {how}, after {served_s:.1f} s to start; entry {goal:.0f} was the last then"
    )


async def _metrics_of_starting(cluster: MeasuredCluster, name: str) -> dict[str, float]:
    """Empty while it serves nothing yet."""
    try:
        return await metrics(cluster, name)
    except OSError:
        return {}


def _measurement(name: str, window: Window, well: float, note: str, options: Options) -> Measurement:
    share = f"{100 * window.per_second / well:.0f} % of what three do; nothing completed for {window.pause_ms:.0f} ms"
    return Measurement(
        row=name,
        concurrency=CALLERS,
        samples_ms=tuple(window.samples_ms),
        per_second=window.per_second,
        cpu_s_per_1000=cpu_per_1000(window.before, window.after, len(window.samples_ms)),
        settings={"seconds": window.seconds, "pause_ms": window.pause_ms, **options.cluster_settings},
        notes=(share, *([note] if note else [])),
    )
