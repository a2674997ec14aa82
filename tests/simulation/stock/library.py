"""PySyncObj as it is, in a simulated world: the names through which its modules reach clocks, chance, files and
processes lead to the machine whose process is running. Not a line of its logic is replaced.
"""

from __future__ import annotations

import copy
import gzip
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from pysyncobj import journal, serializer, syncobj
from pysyncobj.pickle import dumps, loads

from orchestrator.testing.loop import Process, current_process
from orchestrator.testing.machine import Machine
from tests.simulation.stock.files import MappedFile, open_file


class ChildEnded(BaseException):
    """`os._exit` in a forked child."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Place:
    """Where one process of a stock node runs, or a child that it forked."""

    def __init__(self, machine: StockMachine, process: Process, dice: random.Random) -> None:
        self.machine = machine
        self.process = process
        self.dice = dice
        # What its code has used of its time since it was called last.
        self.spent_seconds = 0.0
        self.poll: Callable[[], None] = lambda: None
        self.wake: Callable[[], None] = lambda: None
        self.is_child = False
        # Of each child: its exit status, or None while it runs.
        self.children: dict[int, int | None] = {}
        # The memory of this process at the moment of a fork.
        self.forked: tuple[Any, Any, Any] | None = None

    def now(self) -> float:
        return self.process.local(self.machine.loop.now) + self.spent_seconds


class StockMachine(Machine):
    """Runs forked children, which outlive their parents, but not a loss of power."""

    has_power_losses = True
    fork_seconds = (0.2, 2.0)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.power_losses = 0
        self._children: list[Process] = []
        self._pids = 1000

    def lose_power(self) -> None:
        if not self.has_power_losses:
            self.kill()
            return
        self.power_losses += 1
        for child in self._children:
            child.alive = False
        super().lose_power()

    def fork(self, parent: Place, library: Library) -> int:
        self._pids += 1
        pid = self._pids
        assert self.process is not None and parent.forked is not None
        child = Process(f"{self.process.name}/{pid}", rate=self.rate, offset=self.process.offset)
        self._children.append(child)
        place = library.places[child] = Place(self, child, parent.dice)
        place.is_child = True
        parent.children[pid] = None
        memory, data, number = parent.forked
        # What it takes to pickle and compress a state of some size.
        delay = parent.dice.uniform(*self.fork_seconds)

        def run() -> None:
            try:
                serializer.Serializer.serialize(memory, data, number)
            except ChildEnded as ended:
                parent.children[pid] = ended.status

        self.loop.schedule(self.loop.now + delay, lambda: self.loop.call_soon(run, context=child.context))
        return pid


class ForkingSerializer(serializer.Serializer):
    """Keeps for a forked child what it would have in its memory."""

    here: Callable[[], Place]

    def serialize(self, data: Any, id: int) -> None:
        type(self).here().forked = (copy.copy(self), loads(dumps(data)), id)
        super().serialize(data, id)


class Library:
    """PySyncObj's modules, for the processes of one run."""

    def __init__(self) -> None:
        self.places: dict[Process, Place] = {}

    def here(self) -> Place:
        process = current_process()
        assert process is not None
        return self.places[process]

    @contextmanager
    def installed(self) -> Iterator[None]:
        here = self.here
        serialize = type("ForkingSerializer", (ForkingSerializer,), {"here": staticmethod(here)})
        names: list[tuple[Any, str, Any]] = [
            (syncobj, "monotonicTime", lambda: here().now()),
            (syncobj, "random", SimpleNamespace(random=self._random)),
            (syncobj, "os", SimpleNamespace(path=SimpleNamespace(isfile=self._is_file))),
            (syncobj, "createPoller", lambda kind: _Poller(here())),
            (syncobj, "PipeNotifier", lambda poller: SimpleNamespace(notify=lambda: here().wake())),
            (syncobj, "Serializer", serialize),
            (journal, "ResizableFile", self._map),
            (journal, "open", self._open),
            (journal, "shutil", SimpleNamespace(move=self._rename)),
            (serializer, "open", self._open),
            (serializer, "atomicReplace", self._rename),
            (serializer, "gzip", SimpleNamespace(GzipFile=_gzip_file)),
            (serializer, "os", self._processes()),
        ]
        with ExitStack() as stack:
            for module, name, value in names:
                stack.enter_context(mock.patch.object(module, name, value, create=True))
            yield

    def _random(self) -> float:
        return self.here().dice.random()

    def _is_file(self, path: str) -> bool:
        return self.here().machine.disk.exists(path)

    def _rename(self, source: str, target: str) -> None:
        self.here().machine.disk.rename(source, target)

    def _open(self, path: str, mode: str) -> Any:
        return open_file(self.here().machine.disk, path, mode)

    def _map(self, path: str, defaultContent: bytes | None = None) -> MappedFile:
        return MappedFile(self.here().machine.disk, path, content=defaultContent)

    def _processes(self) -> SimpleNamespace:
        def fork() -> int:
            place = self.here()
            return 0 if place.is_child else place.machine.fork(place, self)

        def waitpid(pid: int, options: int) -> tuple[int, int]:
            status = self.here().children[pid]
            return (0, 0) if status is None else (pid, status)

        def leave(status: int) -> None:
            raise ChildEnded(status)

        return SimpleNamespace(fork=fork, waitpid=waitpid, _exit=leave, WNOHANG=os.WNOHANG)


class _Poller:
    def __init__(self, place: Place) -> None:
        self._place = place

    def poll(self, seconds: float) -> None:
        self._place.poll()


def _gzip_file(fileobj: Any, mode: str | None = None) -> gzip.GzipFile:
    """Without the time of day in its header."""
    return gzip.GzipFile(fileobj=fileobj, mode=mode, compresslevel=1, mtime=0)
