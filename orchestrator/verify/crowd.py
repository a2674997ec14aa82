"""The client and worker processes of a run: started, paused, killed and replaced."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.verify.connecting import Connecting
from orchestrator.verify.machines import children

START_S = 120.0
# Callers go on until what they are at has come to its end, through everything that the faults have left behind.
PAUSE_S = 240.0
LATE_S = 1.5
# Of a worker's session; who is silent for so long has lost what it was at.
SESSION_MS = 6_000
CALLER, LABOURER = "orchestrator.verify.caller", "orchestrator.verify.labourer"


class CrowdFailed(Exception):
    """A process of the run did not do what it was told; the message ends with what it said last."""


@dataclass(frozen=True)
class CrowdSettings:
    connecting: Connecting
    prefix: str
    folder: Path
    clients: int = 2
    callers: int = 8
    workers: int = 2
    deadline_s: float = 10.0
    session_timeout_ms: int = SESSION_MS
    # Tests put others in their place, which make mistakes.
    caller_module: str = CALLER
    labourer_module: str = LABOURER


class Crowd:
    """What they write lies in the folder: NAME.client, NAME.worker, and NAME.log for what they say besides."""

    def __init__(self, settings: CrowdSettings, dice: random.Random, began: float) -> None:
        self.settings = settings
        self._dice = dice
        self._began = began
        self._made = 0
        self.epoch = 0
        self.clients: dict[str, Process] = {}
        self.workers: dict[str, Process] = {}
        # Their attempts may be handed out again.
        self.lost_workers: set[str] = set()
        self._paused: list[str] = []

    async def start(self) -> None:
        await asyncio.gather(*(self.add_client() for _ in range(self.settings.clients)),
                             *(self.add_worker() for _ in range(self.settings.workers)))

    async def add_client(self) -> None:
        name = self._name("c")
        settings = {**self._told(name, f"{name}.client"), "seed": self._dice.getrandbits(32), "epoch": self.epoch,
                    "began": self._began, "callers": self.settings.callers}
        self.clients[name] = await self._run(self.settings.caller_module, name, settings)
        await self._answer(name, self.clients[name], "ready", START_S)

    async def add_worker(self) -> str:
        name = self._name("w")
        settings = {**self._told(name, f"{name}.worker"), "session_timeout_ms": self.settings.session_timeout_ms}
        self.workers[name] = await self._run(self.settings.labourer_module, name, settings)
        await self._answer(name, self.workers[name], "ready", START_S)
        return name

    async def kill_worker(self) -> str:
        """SIGKILL; nobody takes its place until `add_worker`."""
        name = self._dice.choice(sorted(self.workers))
        self.lost_workers.add(f"{self.settings.prefix}-{name}")
        await _kill(self.workers.pop(name))
        return name

    async def pause_worker(self) -> str:
        """SIGSTOP, for longer than its session lasts: what it has is handed out again, and what it reports is late."""
        name = self._dice.choice(sorted(self.workers))
        self.lost_workers.add(f"{self.settings.prefix}-{name}")
        self.workers[name].send_signal(signal.SIGSTOP)
        self._paused.append(name)
        await asyncio.sleep(self.settings.session_timeout_ms / 1000 + LATE_S)
        return name

    def resume_workers(self) -> None:
        while self._paused:
            self.workers[self._paused.pop()].send_signal(signal.SIGCONT)

    async def kill_client(self) -> str:
        """SIGKILL: of what it was at nobody knows the outcome."""
        name = self._dice.choice(sorted(self.clients))
        await _kill(self.clients.pop(name))
        return name

    async def pause(self) -> dict[str, dict[str, int]]:
        """Returns when no caller is at anything: how much each process says to have begun and completed."""
        for process in self.clients.values():
            _say(process, {"do": "pause"})
        answers = await asyncio.gather(*(self._answer(name, each, "paused", PAUSE_S)
                                         for name, each in self.clients.items()))
        return dict(zip(self.clients, answers, strict=True))

    def resume(self) -> None:
        self.epoch += 1
        for process in self.clients.values():
            _say(process, {"do": "resume", "epoch": self.epoch})

    async def stop(self) -> None:
        for process in [*self.clients.values(), *self.workers.values()]:
            await _kill(process)
        self.clients.clear()
        self.workers.clear()

    def check_running(self) -> None:
        """Raises CrowdFailed."""
        for name, process in [*self.clients.items(), *self.workers.items()]:
            if process.returncode is not None:
                raise CrowdFailed(f"{name} ended by itself with exit code {process.returncode}\n{self._log_tail(name)}")

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

    def _told(self, name: str, file: str) -> dict[str, Any]:
        settings = self.settings
        return {"name": name, "file": str(settings.folder / file), "prefix": settings.prefix,
                "connecting": settings.connecting.document(), "deadline_s": settings.deadline_s}

    async def _run(self, module: str, name: str, settings: dict[str, Any]) -> Process:
        with (self.settings.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, str(os.getpid()), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, env=children.environment(), start_new_session=True,  # Ctrl-C is for their parent to act on
            )
        _say(process, settings)
        return process

    async def _answer(self, name: str, process: Process, wanted: str, timeout_s: float) -> dict[str, Any]:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(timeout_s):
                line = await process.stdout.readline()
        except TimeoutError:
            raise CrowdFailed(f"{name} did not say {wanted!r} in {timeout_s:.0f} s\n{self._log_tail(name)}") from None
        said: dict[str, Any] = json.loads(line) if line else {}
        if said.get("said") != wanted:
            raise CrowdFailed(f"{name} ended by itself, or said {line!r} and not {wanted!r}\n{self._log_tail(name)}")
        return said

    def _log_tail(self, name: str) -> str:
        return (self.settings.folder / f"{name}.log").read_text(errors="replace")[-2_000:]


def _say(process: Process, document: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(document).encode() + b"\n")


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
