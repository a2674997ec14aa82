"""Client and worker processes beside a cluster under faults: started, paused, killed and replaced."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from asyncio.subprocess import Process
from pathlib import Path

from tests.cluster.faults.history import History
from tests.cluster.workload import within

START_S = 120.0
# Callers go on until what they are at has come to its end, through everything that the faults have left behind.
PAUSE_S = 240.0


class Crowd:
    """Some clients and workers, whose files lie in the history's folder."""

    def __init__(self, history: History, endpoints: list[str], dice: random.Random, *, callers: int) -> None:
        self._history = history
        self._endpoints = ",".join(endpoints)
        self._dice = dice
        self._callers = callers
        self._made = 0
        self.clients: dict[str, Process] = {}
        self.workers: dict[str, Process] = {}

    async def start(self, clients: int, workers: int) -> None:
        await asyncio.gather(*(self.add_client() for _ in range(clients)), *(self.add_worker() for _ in range(workers)))

    async def add_client(self) -> None:
        name = self._name("client")
        process = await self._run("client", name, str(self._file(name)), str(self._dice.getrandbits(32)),
                                  str(self._callers), self._endpoints)
        self.clients[name] = process
        await self._answer(name, process, "ready", START_S)

    async def add_worker(self) -> None:
        name = self._name("worker")
        self.workers[name] = await self._run("worker", name, str(self._file(name)), self._endpoints)

    async def kill_client(self) -> str:
        """SIGKILL; another takes its place."""
        name = self._dice.choice(sorted(self.clients))
        self._history.killed_clients.add(self._file(name))
        await _kill(self.clients.pop(name))
        await self.add_client()
        return name

    async def kill_worker(self) -> str:
        name = self._dice.choice(sorted(self.workers))
        self._history.killed_workers.add(name)
        await _kill(self.workers.pop(name))
        await self.add_worker()
        return name

    async def pause(self) -> None:
        """Returns when no caller is at anything."""
        for process in self.clients.values():
            _say(process, "pause")
        await asyncio.gather(*(self._answer(name, each, "paused", PAUSE_S) for name, each in self.clients.items()))

    def resume(self) -> None:
        for process in self.clients.values():
            _say(process, "resume")

    async def stop(self) -> None:
        for process in [*self.clients.values(), *self.workers.values()]:
            await _kill(process)
        self.clients.clear()
        self.workers.clear()

    def log_tail(self) -> str:
        tails = []
        for file in [*sorted(self._history.folder.glob("*.log")), *sorted(self._history.folder.glob("*.client"))]:
            if text := file.read_text(errors="replace")[-2_000:]:
                tails.append(f"--- {file.name}\n{text}")
        return "\n".join(tails)

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

    def _file(self, name: str) -> Path:
        return self._history.folder / f"{name}.{name.rstrip('0123456789')}"

    async def _run(self, module: str, name: str, *arguments: str) -> Process:
        command = [sys.executable, "-m", f"tests.cluster.faults.{module}", str(os.getpid()), name, *arguments]
        with (self._history.folder / f"{name}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    async def _answer(self, name: str, process: Process, wanted: str, timeout_s: float) -> None:
        assert process.stdout is not None
        line = await within(process.stdout.readline(), f"{name} to say {wanted!r}", timeout_s)
        if line.decode().strip() != wanted:
            raise AssertionError(f"{name} ended by itself, or said {line!r} instead of {wanted!r}\n{self.log_tail()}")


def _say(process: Process, word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{word}\n".encode())


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
