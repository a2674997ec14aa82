"""The processes that are measured: a cluster in a temporary directory, its workers, and the CPU time of each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.__main__ import GRPC_EXPERIMENTS
from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.verify.machines.cluster import NetworkedCluster
from orchestrator.verify.machines.namespaces import Namespaces
from tests.benchmarks.clusters import ROOT, MeasuredCluster, environment
from tests.benchmarks.measurement import Measurement

WORKER_READY_S = 20
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_FSYNCS = 50


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    concurrency: tuple[int, ...] = (1, 16, 128)
    seconds: float = 10
    kills: int = 20
    finished: int = 1_000_000
    live: int = 100_000
    waiting: int = 100_000
    soak_s: float = 600
    overload: float = 3
    seed: int = 1
    workers: int = 1
    slots: int = 256
    directory: Path | None = None
    # How much longer each sync of a node's log takes, and what nodes send each other there and back.
    sync_ms: float = 0
    rtt_ms: float = 0
    node_settings: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def cluster_settings(self) -> dict[str, int | str | float]:
        """What tells one cluster of this machine from another."""
        slower = {"sync_ms": self.sync_ms, "rtt_ms": self.rtt_ms}
        return {"nodes": 3, **{name: value for name, value in slower.items() if value}, **self.node_settings}


class Progress:
    """Says on standard error what is being done, and for how long already."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", file=sys.stderr, flush=True)


Measure = Callable[[Options, Progress], Awaitable[list[Measurement]]]
"""What makes one row, or several that belong together."""


@contextlib.contextmanager
def temporary(options: Options) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="orchestrator-bench-", dir=options.directory) as directory:
        yield Path(directory)


@contextlib.asynccontextmanager
async def running_cluster(options: Options) -> AsyncIterator[MeasuredCluster]:
    """Three nodes on loopback, ready; gone afterwards, and so are their files."""
    with temporary(options) as directory:
        cluster = MeasuredCluster(directory, options.node_settings, options.sync_ms)
        async with cluster.relayed(options.rtt_ms), cluster:
            yield cluster


@contextlib.asynccontextmanager
async def networked_cluster(options: Options) -> AsyncIterator[LocalCluster]:
    """As `running_cluster`, each node in a network namespace of its own; this process must be in a private one."""
    with temporary(options) as directory:
        cluster = NetworkedCluster(directory, 3, dict(options.node_settings), None)
        try:
            namespaces(cluster).open()
            async with cluster.relay, cluster:
                yield cluster
        finally:
            namespaces(cluster).close()


def namespaces(cluster: LocalCluster) -> Namespaces:
    assert isinstance(cluster, NetworkedCluster)
    assert cluster.namespaces is not None
    return cluster.namespaces


@contextlib.asynccontextmanager
async def running_workers(cluster: LocalCluster, options: Options, *names: str) -> AsyncIterator[list[int]]:
    """Connected worker processes of the named tasks, or of all, by their ids; gone afterwards."""
    endpoints = ",".join(cluster.endpoints)
    served = [",".join(names)] if names else []
    command = [sys.executable, "-m", "tests.benchmarks.worker", endpoints, str(options.slots), *served]
    workers: list[asyncio.subprocess.Process] = []
    try:
        for _ in range(options.workers):
            workers.append(
                await asyncio.create_subprocess_exec(
                    *command, cwd=ROOT, env=_as_advised(), start_new_session=True,
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                )
            )
        async with asyncio.timeout(WORKER_READY_S):
            for worker in workers:
                assert worker.stdout is not None
                if await worker.stdout.readline() != b"connected\n":
                    raise RuntimeError(f"a worker ended with exit code {await worker.wait()}")
        yield [worker.pid for worker in workers]
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
        await asyncio.gather(*(worker.wait() for worker in workers))


def _as_advised() -> dict[str, str]:
    """What the SDK's page tells who has many messages, and a node does by itself."""
    return {"GRPC_EXPERIMENTS": GRPC_EXPERIMENTS, **environment()}


def cpu_of_stat(text: str, ticks_per_second: int) -> float:
    """User and system time in the text of /proc/PID/stat; a process may be called anything, brackets included."""
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / ticks_per_second


def cpu_seconds(pid: int) -> float:
    return cpu_of_stat(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8"), _TICKS_PER_SECOND)


def cpu_by_part(cluster: LocalCluster, leader: str, workers: list[int]) -> dict[str, float]:
    """CPU-seconds so far of the leader, the followers, the workers and this process, the generator."""
    parts = {"leader": 0.0, "followers": 0.0}
    if workers:
        parts["workers"] = sum(map(cpu_seconds, workers))
    for node in cluster.nodes.values():
        if node.process is not None and node.running:
            parts["leader" if node.name == leader else "followers"] += cpu_seconds(node.process.pid)
    if isinstance(cluster, MeasuredCluster) and cluster.relay_pid is not None:
        parts["relay"] = cpu_seconds(cluster.relay_pid)
    return {**parts, "generator": cpu_seconds(os.getpid())}


def surroundings(options: Options) -> dict[str, float | int]:
    """What the numbers depend on: processors, what else runs on them, and the disk."""
    with temporary(options) as directory:
        file = os.open(directory / "probe", os.O_CREAT | os.O_WRONLY)
        try:
            took = []
            for _ in range(_FSYNCS):
                began = time.perf_counter()
                os.write(file, b"x" * 4096)
                os.fdatasync(file)
                took.append(time.perf_counter() - began)
        finally:
            os.close(file)
    return {
        "cpus": os.cpu_count() or 0,
        "load_1m": round(os.getloadavg()[0], 2),
        "fsync_p50_ms": round(sorted(took)[_FSYNCS // 2] * 1000, 3),
    }
