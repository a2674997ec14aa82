"""Calls to processes that run `line_server`: one connection to each, whose answers come in any order."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import Any

from tests.benchmarks.peers.line_server import HOST


class CallFailed(Exception):
    """The message is what the process said, or that it is gone."""


class LineCalls:
    """To each of the processes in turn."""

    def __init__(self, connections: Sequence[_Connection]) -> None:
        self._connections = connections
        self._turns = itertools.cycle(connections)

    @classmethod
    async def connected(cls, ports: Sequence[int]) -> LineCalls:
        return cls([_Connection(*await asyncio.open_connection(HOST, port)) for port in ports])

    async def call(self, argument: Any) -> Any:
        return await next(self._turns).call(argument)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._answers = asyncio.create_task(self._read(reader))

    async def call(self, argument: Any) -> Any:
        if self._answers.done():
            raise CallFailed("the process is gone")
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps([number, argument]).encode() + b"\n")
        return await future

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            async for line in reader:
                number, result, *error = json.loads(line)
                future = self._waiting.pop(number)
                if future.done():  # its caller was cancelled
                    continue
                if error:
                    future.set_exception(CallFailed(error[0]))
                else:
                    future.set_result(result)
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(CallFailed("the process is gone"))

    async def close(self) -> None:
        """Ends the process's connection, and with it the reading of answers."""
        self._writer.close()
        await asyncio.wait([self._answers])
