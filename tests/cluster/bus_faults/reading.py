"""Reads along in streams of Redis, beside everybody else, so that what was there is known when it is gone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import redis
import redis.asyncio

from tests.integrations.redis.servers import ADMIN, ADMIN_PASSWORD, HOST, RedisServer

READ_TOGETHER = 500
EVERY_S = 0.03
TIMEOUT_S = 1.0
GONE = (redis.ConnectionError, redis.TimeoutError, TimeoutError)
"""Redis is away: what was asked of it may have been done."""


def client_of(server: RedisServer) -> redis.asyncio.Redis:
    """For whoever uses Redis as the nodes do, but not through the gate. Repeats nothing.

    It has no timeouts, as with those of the library a task that is cancelled may go on.
    """
    return redis.asyncio.Redis(
        host=HOST, port=server.port, username=ADMIN, password=ADMIN_PASSWORD, decode_responses=True, protocol=2,
        socket_timeout=None, socket_connect_timeout=None, retry=None)


@dataclass
class Sequel:
    """What was read of a stream: its entries, in order, each once; over all its lives."""

    entries: list[dict[str, str]] = field(default_factory=list)
    # The id of the last, in this life of the stream.
    last: str = "0-0"

    def ids(self) -> list[str]:
        """The ids of events, repeats left out as a consumer does it: each where it came first."""
        return list(dict.fromkeys(entry["event_id"] for entry in self.entries))

    def first_of_each(self) -> list[dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for entry in self.entries:
            found.setdefault(entry["event_id"], entry)
        return list(found.values())


class Reading:
    """`heard` is called with each entry, by the name of its stream."""

    def __init__(self, server: RedisServer, *streams: str) -> None:
        self._client = client_of(server)
        self.streams = {name: Sequel() for name in streams}
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    def check(self) -> None:
        """Raises what has ended it."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def catch_up(self) -> None:
        """Returns when there is nothing more to be read. Redis runs, and nobody writes."""
        while await self._read():
            pass

    def begin_anew(self) -> None:
        """The streams have lost their entries."""
        for sequel in self.streams.values():
            sequel.last = "0-0"

    async def _run(self) -> None:
        while True:
            try:
                await self._read()
            except GONE:
                pass
            await asyncio.sleep(EVERY_S)

    async def _read(self) -> int:
        async with self._turn:
            asked: dict[Any, Any] = {name: sequel.last for name, sequel in self.streams.items()}
            count = 0
            async with asyncio.timeout(TIMEOUT_S):
                found = await self._client.xread(asked, count=READ_TOGETHER)
            for name, entries in found or []:
                for entry_id, fields in entries:
                    self.streams[name].entries.append(fields)
                    self.streams[name].last = entry_id
                    count += 1
            return count


def payload_of(entry: dict[str, str]) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(entry["payload"])
    return payload
