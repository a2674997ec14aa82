"""W3 by choreography: a parcel goes through all three services and ends in a stream of the caller's."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis.asyncio as redis

from tests.benchmarks.peers.children import HOST, children
from tests.benchmarks.peers.installation import Installation, make_venv, python
from tests.benchmarks.peers.peer import Peer, Running, check, parcel
from tests.benchmarks.peers.redis_streams.server import REDIS, start_redis
from tests.benchmarks.peers.redis_streams.service import BATCH, BLOCK_MS, LENGTH

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "requirements.txt"
_STREAMS = ("first", "second", "third", "done")

SERVICES = Installation(
    "redis-services", (_REQUIREMENTS,), ("setpriv",), lambda directory: make_venv(directory, _REQUIREMENTS)
)


class Caller:
    """Starts workflows and awaits their results: what gathers while one write is under way goes in the next."""

    def __init__(self, port: int) -> None:
        self._writes = redis.Redis(host=HOST, port=port)
        self._reads = redis.Redis(host=HOST, port=port)
        self._gathered: list[tuple[int, str]] = []
        self._more = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._numbers = 0
        self._closing = False

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(loop()) for loop in (self._write, self._read)]
        try:
            for task in tasks:
                task.add_done_callback(self._fail)
            yield
        finally:
            # Not cancelled: the wait_for() of Python 3.11, which the client uses, may swallow that.
            self._closing = True
            self._more.set()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._writes.aclose()
            await self._reads.aclose()

    async def call(self, number: int) -> None:
        # The numbers of callers begin again with each window.
        self._numbers += 1
        key = self._numbers
        future = self._waiting[key] = asyncio.get_running_loop().create_future()
        self._gathered.append((key, json.dumps(parcel(number))))
        self._more.set()
        check(number, await future)

    async def _write(self) -> None:
        while not self._closing:
            await self._more.wait()
            self._more.clear()
            gathered, self._gathered = self._gathered, []
            if not gathered:
                continue
            pipeline = self._writes.pipeline(transaction=False)
            for key, body in gathered:
                pipeline.xadd(_STREAMS[0], {"id": key, "body": body}, maxlen=LENGTH, approximate=True)
            await pipeline.execute()

    async def _read(self) -> None:
        last: bytes | str = "0"
        while not self._closing:
            for _, entries in await self._reads.xread({_STREAMS[-1]: last}, count=BATCH, block=BLOCK_MS) or ():
                last = entries[-1][0]
                for _, fields in entries:
                    future = self._waiting.pop(int(fields[b"id"]))
                    if not future.done():  # its caller may have been cancelled
                        future.set_result(json.loads(fields[b"body"]))

    def _fail(self, task: asyncio.Task[None]) -> None:
        """Whoever waits is told why nothing will come."""
        if not task.cancelled() and (error := task.exception()) is not None:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)
            self._waiting.clear()


@contextlib.asynccontextmanager
async def _start(appendfsync: str, directory: Path, callers: int) -> AsyncIterator[Running]:
    async with children(directory) as started:
        server, port = await start_redis(started, appendfsync)
        services = [
            await started.start(
                f"service-{source}", [python(SERVICES.directory), "-I", _HERE / "service.py", str(port), source, target]
            )
            for source, target in pairwise(_STREAMS)
        ]
        for service in services:
            await service.wait_line("connected")
        caller = Caller(port)
        async with caller.connected():
            yield Running(caller.call, servers=(server,), workers=tuple(services))


def _peer(appendfsync: str) -> Peer:
    return Peer(
        name=f"redis-{appendfsync}",
        installations=(REDIS, SERVICES),
        start=functools.partial(_start, appendfsync),
        settings={"appendfsync": appendfsync, "services": len(_STREAMS) - 1, "servers": 1},
    )


PEERS = (_peer("always"), _peer("everysec"))
