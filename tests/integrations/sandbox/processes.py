"""What tests of evaluator processes share: input, waiting for what can only be looked at, and whether one is alive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from orchestrator.integrations.sandbox.sandbox import Sandbox

DEADLINE_S = 60.0
ENDLESS = "while (true) {}"
# The engine does not look at its own limits here: the kernel has to.
DEAF = "[].sort.call({length: 1e9})"


async def until(holds: Callable[[], object]) -> None:
    """Returns when it holds; fails after a generous deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 - what other processes do has no event here
            await asyncio.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether it runs: what has ended and was not reaped yet does not."""
    fields = told(pid, "stat").rpartition(")")[2].split()
    return bool(fields) and fields[0] != "Z"


def told(pid: int, name: str) -> str:
    """What /proc has of it under the name; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descriptors(pid: int) -> dict[str, str]:
    return {path.name: str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}


async def ready(sandbox: Sandbox) -> int:
    """The process id of the one evaluator that there is then."""
    await sandbox.script("1", b"{}")
    [pid] = sandbox.pids
    return pid
