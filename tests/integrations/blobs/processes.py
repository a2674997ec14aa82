"""Another node of a test, in a process of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.integrations.blobs.kits import Kit

DEADLINE_S = 60
ROOT = Path(__file__).parents[3]


class OtherNode:
    """Runs `other_node` with a job; it is ready inside, and gone after."""

    def __init__(self, kit: Kit, job: str) -> None:
        self._arguments = ("-m", "tests.integrations.blobs.other_node", kit.kind, kit.where, job)
        self._process: asyncio.subprocess.Process | None = None

    async def told(self) -> str:
        """Tells it to go on; answers what it says to that."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write(b"\n")
        await process.stdin.drain()
        return await self._line()

    async def kill(self) -> None:
        process = self._running()
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def _line(self) -> str:
        process = self._running()
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            line = await process.stdout.readline()
        assert line, "the other node has ended, and said nothing"
        return line.decode().strip()

    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def __aenter__(self) -> Self:
        paths = ":".join(str(path) for path in (ROOT, ROOT / "client", ROOT / "proto"))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *self._arguments, cwd=ROOT, env={"PYTHONPATH": paths},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        assert await self._line() == "ready"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()
