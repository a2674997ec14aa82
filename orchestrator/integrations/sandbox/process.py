"""One evaluator process, seen from the node: started, asked one thing at a time, killed.

It is a process of its own session with nothing of the node's environment, one socket, and no other descriptor. It is
started directly (and not by asyncio) since that takes the same few milliseconds however large the node is.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from orchestrator.integrations.sandbox.protocol import LENGTH, Ask, Limits, Ready, Reply, Setup, clock_ms, frame

_PROGRAM = """
import sys
sys.path[:] = sys.argv[1:]
from orchestrator.integrations.sandbox.evaluator import main
main()
"""
# A script's time is UTC on every node, without a table of time zones to read.
_ENVIRONMENT = {"TZ": "UTC0", "LC_ALL": "C.UTF-8"}
# What an interpreter may need to start at all.
_INHERITED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_START_SECONDS_MAX = 30.0
# An overrun is ended by the engine, else by the kernel a little later, else by the node: the process was stopped.
KILLED_AFTER_MS = 2_000

_Message = TypeVar("_Message", Ready, Reply)


class EvaluatorFailed(Exception):
    """No evaluator could be started; the message says why."""


class EvaluatorEnded(Exception):
    """The process has ended instead of answering. `status`: as subprocess has it, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the evaluator ended with status {status}")
        self.status = status


def _search_path() -> list[str]:
    return list(dict.fromkeys(str(Path(entry).absolute()) for entry in sys.path))


def _spawn() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, *_search_path()],
                stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                cwd="/", env={**inherited, **_ENVIRONMENT}, start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise EvaluatorFailed(f"no evaluator process can be started: {error}") from None
    return process, ours


class EvaluatorGarbled(Exception):
    """It has answered what is no answer: an engine was made to do what it should not be able to."""


class EvaluatorProcess:
    """Started by the constructor, which raises EvaluatorFailed; to be used after `ready`, one request at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process, self._socket = _spawn()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._reader is None or self._reader.at_eof()

    async def ready(self) -> Ready:
        """Returns when it waits for requests; raises EvaluatorFailed. After any exception it is to be killed."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        self._writer.write(frame(Setup(limits=self._limits, parent=os.getpid())))
        try:
            async with asyncio.timeout(_START_SECONDS_MAX):
                found = await self._receive(self._reader, Ready)
        except EvaluatorEnded as ended:
            raise EvaluatorFailed(f"an evaluator process ended at its start, with status {ended.status}") from None
        except TimeoutError:
            raise EvaluatorFailed(f"no evaluator process was ready within {_START_SECONDS_MAX:.0f} s") from None
        except EvaluatorGarbled as error:
            raise EvaluatorFailed(f"an evaluator process can't be understood: {error}") from None
        if found.error:
            raise EvaluatorFailed(f"an evaluator process can't work: {found.error}")
        return found

    async def ask(self, ask: Ask) -> Reply:
        """Raises EvaluatorEnded, EvaluatorGarbled, or TimeoutError long after the time limit."""
        assert self._reader is not None and self._writer is not None
        async with asyncio.timeout((clock_ms(ask.time_ms) + KILLED_AFTER_MS) / 1000):
            try:
                self._writer.write(frame(ask))
                await self._writer.drain()
            except ConnectionError:
                pass  # it has ended: reading says how
            return await self._receive(self._reader, Reply)

    async def _receive(self, reader: asyncio.StreamReader, type: type[_Message]) -> _Message:
        try:
            [length] = LENGTH.unpack(await reader.readexactly(LENGTH.size))
            if length > self._limits.reply_frame_bytes:
                raise EvaluatorGarbled(f"a message of {length} bytes")
            return msgspec.msgpack.decode(await reader.readexactly(length), type=type)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise EvaluatorEnded(await self.ended()) from None
        except msgspec.MsgspecError as error:
            raise EvaluatorGarbled(str(error)) from None

    def kill(self) -> None:
        """At once, whatever it does. To be followed by `ended`."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._socket.close()
        self._process.kill()

    async def ended(self) -> int:
        """Its status, once it has ended."""
        return await asyncio.to_thread(self._process.wait)
