"""Faults of a cluster that is not ours: only what its operator supplies as commands, and each with its undoing."""

from __future__ import annotations

import asyncio
import os
import random
import shlex
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from orchestrator.config import Address
from orchestrator.verify.undoing import Record

COMMAND_S = 60.0


class CommandFailed(Exception):
    """A command did not end well, or in time; the message has what it said."""


@dataclass(frozen=True)
class Target:
    node: str
    address: str

    def fill(self, template: str) -> str:
        """{node}, {address} and {host} in the place of its own, quoted for a shell."""
        host = Address.parse(self.address).host
        values = {"node": self.node, "address": self.address, "host": host}
        for name, value in values.items():
            template = template.replace("{" + name + "}", shlex.quote(value))
        return template


async def run(command: str, timeout_s: float = COMMAND_S) -> None:
    """By the shell, in a session of its own, so that Ctrl-C does not end it half-way. Raises CommandFailed."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            said, _ = await process.communicate()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise CommandFailed(f"`{command}` did not end in {timeout_s:.0f} s") from None
    if process.returncode != 0:
        text = " ".join(said.decode(errors="replace").split())[-300:]
        raise CommandFailed(f"`{command}` ended with exit code {process.returncode}: {text}")


class CommandFaults:
    """`targets` answers the nodes, the leader first."""

    def __init__(self, faults: Mapping[str, str], undos: Mapping[str, str], record: Record,
                 targets: Callable[[], Awaitable[list[Target]]], *, timeout_s: float = COMMAND_S) -> None:
        self._faults = faults
        self._undos = undos
        self._record = record
        self._targets = targets
        self._timeout_s = timeout_s
        self._left: dict[int, str] = {}
        self._running: asyncio.Task[None] | None = None

    @property
    def kinds(self) -> list[str]:
        return list(self._faults)

    async def strike(self, kind: str, dice: random.Random) -> str:
        """To the leader as often as not. Its undoing is on the disk before it begins."""
        leader, *others = await self._targets()
        target = leader if not others or dice.randrange(2) else dice.choice(others)
        undo = target.fill(self._undos[kind])
        self._left[self._record.will_undo(undo)] = undo
        self._running = asyncio.create_task(run(target.fill(self._faults[kind]), self._timeout_s))
        # Who is interrupted meanwhile undoes what has come to its end, not what is half done.
        await asyncio.shield(self._running)
        return target.node

    async def heal(self) -> None:
        """Undoes what is not undone, the newest first; all is tried. Raises CommandFailed with what could not be."""
        if self._running is not None and not self._running.done():
            await asyncio.wait({self._running})
        self._running = None
        failed = await undo_all(self._left, self._record, self._timeout_s)
        if failed:
            raise CommandFailed("; ".join(failed))

    def check(self) -> None:
        """Nothing is known of these nodes' processes."""


async def undo_all(left: dict[int, str], record: Record, timeout_s: float = COMMAND_S) -> list[str]:
    """Takes out of `left` what it could undo; answers what went wrong with the rest."""
    failed = []
    for number in sorted(left, reverse=True):
        try:
            await run(left[number], timeout_s)
        except CommandFailed as error:
            failed.append(str(error))
            continue
        record.undone(number)
        del left[number]
    return failed
