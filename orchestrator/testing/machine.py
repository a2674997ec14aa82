"""A machine of the simulation: its disk, its clocks, and the process that runs on it until something happens to it."""

from __future__ import annotations

import asyncio
import base64
import random
from collections import deque
from collections.abc import Callable, Coroutine
from errno import ENOENT
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.integrations.executors import ExecutorFactory
from orchestrator.replication import worker
from orchestrator.replication.errors import Stopped
from orchestrator.sealing.keys import KEY_BYTES
from orchestrator.storage import lanes
from orchestrator.storage.errors import StorageClosed
from orchestrator.storage.vfs import KeptVFS
from orchestrator.testing.disk import DatabaseKeeper, LogFiles, SimulatedDisk, StoreFiles
from orchestrator.testing.loop import Process, VirtualLoop
from orchestrator.testing.network import NodeNetwork, SimulatedNetwork
from orchestrator.testing.rpc import SimulatedChannel
from orchestrator.world import World

T = TypeVar("T")

EPOCH_MS = 1_700_000_000_000
FREE_DISK_BYTES = 1 << 40
SECRET_KEYS = Path("/secret.keys")


class MachineClock:
    """The clocks of one process: a monotonic one of its own speed, and a wall clock that may be set."""

    def __init__(self, loop: VirtualLoop, machine: Machine, process: Process) -> None:
        self._loop = loop
        self._machine = machine
        self._process = process

    def monotonic(self) -> float:
        process = self._process
        return process.offset + self._loop.now * process.rate

    def wall_ms(self) -> int:
        return EPOCH_MS + int(self._loop.now * self._process.rate * 1000) + self._machine.wall_offset_ms


class Machine:
    """Survives its processes."""

    def __init__(
        self, name: str, loop: VirtualLoop, network: SimulatedNetwork, dice: random.Random, scratch: Path | None
    ) -> None:
        self.name = name
        self.loop = loop
        self.network = network
        self.dice = dice
        self.disk = SimulatedDisk(dice)
        self.vfs = KeptVFS(DatabaseKeeper(self.disk), scratch / name) if scratch is not None else None
        self.wall_offset_ms = 0
        self.rate = 1.0
        # Work off the loop takes about so long, and syncs this much longer.
        self.job_seconds = 0.0004
        # ... but for reads of the database and the journal, if this is given.
        self.read_seconds: float | None = None
        self.stall_seconds = 0.0
        self.process: Process | None = None
        # Others that run here, and end with it.
        self.companions: dict[str, Process] = {}
        self.boots = 0
        # The variables of a node that runs here.
        self.environment: dict[str, str] = {}
        # What is in its file of keys: the same on all machines, unless a test says otherwise.
        self.secret_keys = base64.b64encode(bytes(KEY_BYTES))
        # Of the system work of a node that runs here.
        self.executors: ExecutorFactory = lambda config, surroundings: {}

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.alive

    def boot(self) -> Process:
        """A new process, of which the caller makes what it likes."""
        assert not self.running
        self.boots += 1
        self.companions = {}
        self.process = Process(f"{self.name}#{self.boots}", rate=self.rate, offset=self.dice.uniform(10, 10_000))
        if self.vfs is not None:
            self.vfs.restart()
        self.network.set_up(self.name, up=True)
        return self.process

    def companion(self, name: str) -> Process:
        """Another process beside the one that runs now, which lives no longer and stands still with it."""
        if name not in self.companions:
            made = self.companions[name] = Process(f"{self.name}#{self.boots}'s {name}")
            made.alive, made.paused = self.running, self.process is not None and self.process.paused
        return self.companions[name]

    def spawn(self, program: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        assert self.process is not None
        return self.loop.spawn(self.process, program, name)

    def kill(self, *, lost: float = 0.0) -> None:
        """As kill -9: what was written stays written, and connections end; of what was on its way a share is lost."""
        if self.process is not None and self.process.alive:
            self.process.alive = False
            self._end_companions()
            self.network.process_ended(self.process, silent=False, lost=lost)
            self.disk.strikes_in = 0

    def lose_power(self) -> None:
        """The process is gone without a word, and what was not synced may be."""
        process = self.process
        if process is not None:
            process.alive = False
            self._end_companions()
            self.network.process_ended(process, silent=True)
        self.network.set_up(self.name, up=False)
        self.disk.lose_power()

    def _end_companions(self) -> None:
        for companion in self.companions.values():
            companion.alive = False

    def pause(self) -> None:
        if self.process is not None:
            for process in (self.process, *self.companions.values()):
                process.paused = True

    def resume(self) -> None:
        if self.process is not None and self.process.paused:
            for process in (self.process, *self.companions.values()):
                self.loop.resume(process)

    def world(self) -> World:
        """For a node in the process that runs now."""
        assert self.process is not None and self.vfs is not None
        process = self.process

        def open_channel(address: str) -> Any:
            return SimulatedChannel(self.network, process, self.name, address)

        return World(
            clock=MachineClock(self.loop, self, process),
            random=random.Random(self.dice.getrandbits(64)),  # noqa: S311 - a simulation repeats
            network=NodeNetwork(self.network, process, self.name),
            files=LogFiles(self.disk),
            database_files=StoreFiles(self.disk),
            database_vfs=self.vfs.name,
            workers=lambda name: SimulatedWorker(self, reads="reader" in name),
            lanes=lambda name: SimulatedLane(self, reads="reader" in name),
            free_disk_bytes=lambda directory: 0 if self.disk.full else FREE_DISK_BYTES,
            open_channel=open_channel,
            executors=self.executors,
            environment=self.environment,
            entropy=self.dice.randbytes,
            read_file=self._read_file,
            off_loop=_here,
        )

    def _read_file(self, path: Path) -> bytes:
        if path != SECRET_KEYS:
            raise FileNotFoundError(ENOENT, "No such file or directory", str(path))
        return self.secret_keys

    def job_delay(self, *, reads: bool) -> float:
        """How long a job off the loop takes."""
        seconds = self.job_seconds if self.read_seconds is None or not reads else self.read_seconds
        return seconds * (0.25 + self.dice.random()) + self.stall_seconds * self.dice.random()


async def _here(job: Callable[[], T], /) -> T:
    """In the one thread that there is."""
    return job()


_Done = Callable[[Any, BaseException | None], None]


class _Jobs:
    """One job after the other, each at once but late, and its end told a little later."""

    def __init__(self, machine: Machine, *, reads: bool) -> None:
        self._machine = machine
        self._reads = reads
        self.waiting: deque[tuple[Callable[[], Any], _Done]] = deque()
        self._busy = False

    def add(self, job: Callable[[], Any], done: _Done) -> None:
        self.waiting.append((job, done))
        if not self._busy:
            self._busy = True
            self.later(self._begin)

    def later(self, callback: Callable[..., object], *args: Any) -> None:
        # Not the running loop: what is left of a killed process is cleaned up when none runs.
        self._machine.loop.call_later(self._machine.job_delay(reads=self._reads) / 2, callback, *args)

    def _begin(self) -> None:
        if not self.waiting:
            self._busy = False
            return
        job, done = self.waiting.popleft()
        self.later(self._end, done, *_outcome(job))

    def _end(self, done: _Done, result: Any, error: BaseException | None) -> None:
        done(result, error)
        self._begin()


class SimulatedWorker:
    """The replicated log's thread; what has not begun when it is closed never will, and is told so."""

    def __init__(self, machine: Machine, *, reads: bool) -> None:
        self._jobs = _Jobs(machine, reads=reads)
        self._closed = False

    def submit(self, job: Callable[[], None], done: worker.Done) -> None:
        if self._closed:
            self._jobs.later(done, Stopped("this node is stopping"))
        else:
            self._jobs.add(job, lambda result, error: done(error))

    def stand_by(self) -> None:
        """Time passes only when the loop turns."""

    def close(self) -> None:
        self._closed = True
        while self._jobs.waiting:
            _, done = self._jobs.waiting.popleft()
            self._jobs.later(done, None, Stopped("this node is stopping"))


class SimulatedLane:
    """The database's thread; closing it waits for the jobs that were given."""

    def __init__(self, machine: Machine, *, reads: bool) -> None:
        self._jobs = _Jobs(machine, reads=reads)
        self._closed = False

    def submit(self, job: Callable[[], Any], done: lanes.Done) -> None:
        if self._closed:
            raise StorageClosed("the database is closed")
        self._jobs.add(job, done)

    def close(self) -> None:
        self._closed = True
        while self._jobs.waiting:
            job, done = self._jobs.waiting.popleft()
            self._jobs.later(done, *_outcome(job))


def _outcome(job: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return job(), None
    except Exception as error:  # noqa: BLE001 - it is the caller's, in the loop
        return None, error
