"""Runs the three services as processes, and starts one again at once when it crashes as planned.

A service that ends in any other way ends the demo, with the last lines of its log. None outlives the demo.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from audit import SERVICES
from clock import Stopwatch
from scoreboard import Scoreboard
from services import CRASH_EXIT_CODE

SERVICE_SCRIPT = Path(__file__).with_name("service.py")
STOP_TIMEOUT_S = 10.0
LOG_TAIL_LINES = 20


class ServiceBroken(Exception):
    """A service has ended, and not by a planned crash."""


class Supervisor:
    """Use it as a context, and await `watch` meanwhile: it never returns, but raises when a service is broken."""

    def __init__(self, folder: Path, endpoints: list[str], board: Scoreboard, watch: Stopwatch) -> None:
        self._folder = folder
        self._endpoints = endpoints
        self._board = board
        self._stopwatch = watch
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.crashes = 0

    async def __aenter__(self) -> Self:
        for name in SERVICES:
            await self._start(name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            for process in running:
                if process.returncode is None:
                    process.kill()
            await asyncio.gather(*(process.wait() for process in running))

    async def watch(self) -> None:
        async with asyncio.TaskGroup() as keepers:
            for name in SERVICES:
                keepers.create_task(self._keep(name))

    async def _keep(self, name: str) -> None:
        while True:
            code = await self._processes[name].wait()
            if code != CRASH_EXIT_CODE:
                raise ServiceBroken(f"the {name} service ended with exit code {code}\n{self._log_tail(name)}")
            self.crashes += 1
            await self._start(name)
            self._board.happened(self._stopwatch.s, f"{name} crashed between its effect and its answer; started again")

    async def _start(self, name: str) -> None:
        with self._log_file(name).open("ab") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                str(SERVICE_SCRIPT),
                name,
                str(self._folder),
                ",".join(self._endpoints),
                stdin=asyncio.subprocess.PIPE,  # it ends with us, see service.py
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us to act on
            )

    def _log_file(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _log_tail(self, name: str) -> str:
        return "\n".join(self._log_file(name).read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
