"""Everything outside of itself that a node touches: clocks, randomness, disk, network, threads, the environment.

`World()` is the real one. A simulation hands in another, and the node does not know the difference.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.file_watch import OffLoop
from orchestrator.integrations.executors import ExecutorFactory, executors_of
from orchestrator.integrations.redis.link import RedisLink
from orchestrator.replication.files import Files, RealFiles
from orchestrator.replication.ports import Clock, Network, TcpNetwork
from orchestrator.replication.worker import WorkerFactory, thread_worker
from orchestrator.storage import files as database_files
from orchestrator.storage.files import DatabaseFiles
from orchestrator.storage.lanes import LaneFactory, ThreadLane
from orchestrator.telemetry.traces import Traces
from orchestrator_client.channels import ChannelFactory


class SystemClock:
    """This machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000  # noqa: TID251 - this is the clock that is injected


class OffsetClock:
    """Another clock, with its wall clock put forward, or back: what a node has whose clock is wrong."""

    def __init__(self, clock: Clock, offset_ms: int) -> None:
        self._clock = clock
        self._offset_ms = offset_ms

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def wall_ms(self) -> int:
        return self._clock.wall_ms() + self._offset_ms


def free_disk_bytes(directory: Path) -> int:
    """Room for this process on the disk of the directory."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


@dataclass(frozen=True, kw_only=True)
class World:
    """What is handed to a node; each part is replaceable by itself."""

    clock: Clock = field(default_factory=SystemClock)
    # What log time and the leader's deadlines go by, where that is another clock: one that passes over idle time.
    time: Clock | None = None
    random: random.Random = field(default_factory=random.Random)
    network: Network = field(default_factory=TcpNetwork)
    files: Files = field(default_factory=RealFiles)
    database_files: DatabaseFiles = field(default_factory=database_files.RealFiles)
    database_vfs: str | None = None
    workers: WorkerFactory = thread_worker
    lanes: LaneFactory = ThreadLane
    free_disk_bytes: Callable[[Path], int] = free_disk_bytes
    # So many bytes that nobody can guess, and files that settings name.
    entropy: Callable[[int], bytes] = os.urandom
    read_file: Callable[[Path], bytes] = Path.read_bytes
    # Where such a file is read.
    off_loop: OffLoop = asyncio.to_thread
    # Where calls go that may never return, as those of network file systems; None: to threads of their own.
    store_calls: OffLoop | None = None
    # Of this process; there are secrets among them, which no repr shows.
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    # How the node's own session reaches the nodes, by the address of their gRPC service; None: as its settings say.
    open_channel: ChannelFactory | None = None
    executors: ExecutorFactory = executors_of
    # What keeps the connection to Redis.
    redis: Callable[..., RedisLink] = RedisLink
    traces: Traces = field(default_factory=Traces)
