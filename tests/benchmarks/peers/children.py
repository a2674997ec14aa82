"""The processes of a peer: started in a directory that goes with them, awaited, weighed, and ended by their ids.

None outlives the process that started it, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

READY_S = 60.0
END_S = 10.0
LOG_TAIL_LINES = 30
HOST = "127.0.0.1"
_POLL_S = 0.05
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class ChildError(Exception):
    """A process did not do what was asked of it; the message ends with the last lines of what it printed."""


@dataclass(frozen=True)
class Child:
    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def error(self, what: str) -> ChildError:
        tail = "\n".join(self.said().splitlines()[-LOG_TAIL_LINES:])
        return ChildError(f"{self.name} {what}\n{tail}")

    async def wait_until(self, ready: Callable[[], Awaitable[bool]], what: str, seconds: float = READY_S) -> None:
        """Asks again and again; a process that ends is not waited for."""
        deadline = time.monotonic() + seconds
        while not await ready():
            if self.process.returncode is not None:
                raise self.error(f"ended with exit code {self.process.returncode}")
            if time.monotonic() > deadline:
                raise self.error(f"{what}: not within {seconds:g} s")
            await asyncio.sleep(_POLL_S)

    async def wait_port(self, port: int) -> None:
        async def connects() -> bool:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                return False
            writer.close()
            await writer.wait_closed()
            return True

        await self.wait_until(connects, f"listens on {port}")

    async def wait_line(self, line: str) -> None:
        async def printed() -> bool:
            return line in self.said().splitlines()

        await self.wait_until(printed, f"says {line!r}")


class Children:
    """Starts processes; `directory` holds their logs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[tuple[Child, signal.Signals]] = []

    async def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        end: signal.Signals = signal.SIGTERM,
    ) -> Child:
        """`end` is how it is asked to; the kernel kills it if this process is gone. What makes Python find modules of
        ours is kept from it."""
        log = self.directory / f"{name}.log"
        tied = ["setpriv", "--pdeathsig", "KILL"]
        if user is not None:
            tied += ["--reuid", user, "--regid", user, "--init-groups"]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        if user is None:
            # What it leaves there goes with the directory.
            inherited["TMPDIR"] = str(self.directory)
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *tied, "--", *map(str, command), cwd=self.directory, env={**inherited, **(environment or {})},
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )
        child = Child(name, process, log)
        self._started.append((child, end))
        return child

    async def end(self) -> None:
        """In the reverse order, so that nobody loses a server that it still uses; then whatever they left behind."""
        for child, number in reversed(self._started):
            tree = descendants([child.pid])
            if child.process.returncode is None:
                child.process.send_signal(number)
            try:
                async with asyncio.timeout(END_S):
                    await child.process.wait()
            except TimeoutError:
                child.process.kill()
                await child.process.wait()
            await _kill(tree - {child.pid})


async def _kill(pids: set[int]) -> None:
    deadline = time.monotonic() + END_S
    while left := descendants(pids):
        if time.monotonic() > deadline:
            raise ChildError(f"killed, and there all the same: {sorted(left)}")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(_POLL_S)


@contextlib.asynccontextmanager
async def children(directory: Path) -> AsyncIterator[Children]:
    """They have ended afterwards."""
    started = Children(directory)
    try:
        yield started
    finally:
        await started.end()


def descendants(roots: Iterable[int]) -> set[int]:
    """The roots that live, and all that they and their children have started and that live."""
    return {pid for pid, stat in _tree(roots).items() if stat.state != "Z"}


def cpu_of_trees(roots: Iterable[int]) -> float:
    """CPU-seconds so far of the roots and of all that they started, the ended ones that were waited for included."""
    return sum(stat.cpu_s for stat in _tree(roots).values())


class Stat(NamedTuple):
    """What /proc/PID/stat says."""

    state: str
    parent: int
    cpu_s: float  # of the process, and of those that it has waited for

    @classmethod
    def parsed(cls, text: str) -> Stat:
        """The name of a process may be anything, brackets included."""
        fields = text[text.rindex(")") + 2 :].split()
        return cls(fields[0], int(fields[1]), sum(map(int, fields[11:15])) / _TICKS_PER_SECOND)


def _tree(roots: Iterable[int]) -> dict[int, Stat]:
    found: dict[int, Stat] = {}
    processes = dict(_processes())
    wanted = set(roots)
    while wanted:
        found |= {pid: processes[pid] for pid in wanted if pid in processes}
        wanted = {pid for pid, stat in processes.items() if stat.parent in wanted} - set(found)
    return found


def _processes() -> Iterable[tuple[int, Stat]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield int(entry.name), Stat.parsed((entry / "stat").read_text(encoding="utf-8", errors="replace"))
