"""Connections are kept for the next request, bounded, and none is lost however its request ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from orchestrator.integrations.http_calls import connections
from orchestrator.integrations.http_calls.executor import HttpExecutor
from orchestrator.integrations.work import Kind, Outcome
from tests.integrations.http_server import HttpServer, Last, Received, reply
from tests.integrations.works import Clock, Services, work
from tests.replication.cluster import wait_until

DEADLINE_S = 60.0


class Bench:
    def __init__(self) -> None:
        self.executor = HttpExecutor(Services(), Clock())
        self.server = HttpServer()

    async def get(self, uri: str = "") -> Outcome:
        given = {"uri": uri or self.server.uri, "method": "GET", "connectionTimeOut": 60_000, "readTimeOut": 60_000}
        async with asyncio.timeout(DEADLINE_S):
            return await self.executor.execute(work(Kind.HTTP, given))

    @property
    def kept(self) -> int:
        return self.executor._connections.count


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with made.server:
        yield made
        await made.executor.close()
        assert made.kept == 0


async def test_one_connection_serves_one_request_after_the_other(bench: Bench) -> None:
    for _ in range(5):
        assert (await bench.get()).error_code == ""
    assert (bench.server.connections, bench.kept) == (1, 1)


async def test_requests_at_once_have_connections_of_their_own(bench: Bench) -> None:
    together = asyncio.Barrier(8)

    async def answer(received: Received) -> bytes:
        await together.wait()
        return reply()

    bench.server.answer = answer
    for _ in range(2):
        await asyncio.gather(*(bench.get() for _ in range(8)))
    assert (bench.server.connections, bench.kept) == (8, 8)


async def test_a_connection_that_the_server_has_closed_is_not_used_again(bench: Bench) -> None:
    bench.server.answer = lambda received: Last(reply())
    for _ in range(5):
        assert (await bench.get()).error_code == ""
    assert bench.server.connections == 5


async def test_no_more_than_so_many_are_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_MAX", 2)
    async with HttpServer() as other, HttpServer() as third:
        for server in (bench.server, other, third, bench.server):
            assert (await bench.get(server.uri)).error_code == ""
        assert bench.kept == 2
        assert (bench.server.connections, other.connections, third.connections) == (2, 1, 1)


async def test_what_nobody_uses_is_closed_after_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.05)
    async with HttpServer() as other:
        for server in (bench.server, other, bench.server):
            await bench.get(server.uri)
        await wait_until("both to be closed", lambda: bench.kept == 0)
        assert (await bench.get()).error_code == ""


async def test_there_is_a_limit_of_those_in_use(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IN_USE_MAX", 1)
    bench.executor = HttpExecutor(Services(), Clock())
    come, go = asyncio.Event(), asyncio.Event()

    async def answer(received: Received) -> bytes:
        come.set()
        await go.wait()
        return reply()

    bench.server.answer = answer
    first = asyncio.create_task(bench.get())
    async with asyncio.timeout(DEADLINE_S):
        await come.wait()
    given = {"uri": bench.server.uri, "method": "GET", "connectionTimeOut": 50}
    refused = await bench.executor.execute(work(Kind.HTTP, given))
    assert (refused.error_code, refused.outcome_unknown) == ("HTTP_BUSY", False)
    go.set()
    assert (await first).error_code == ""
    assert (await bench.get()).error_code == "", "its place is free again"


@pytest.mark.parametrize("seed", range(4))
async def test_requests_that_are_cancelled_at_any_moment_leave_nothing_behind(bench: Bench, seed: int) -> None:
    dice = random.Random(seed)

    async def answer(received: Received) -> bytes:
        await asyncio.sleep(dice.random() * 0.01)
        data = reply(200, "x" * dice.randrange(100_000))
        return Last(data[: dice.randrange(1, len(data))]) if dice.random() < 0.1 else data

    bench.server.answer = answer
    await bench.get()
    cancelled = 0
    for _ in range(10):
        running = [asyncio.create_task(bench.get()) for _ in range(20)]
        for task in running:
            await asyncio.wait({task}, timeout=dice.random() * 0.005)
            cancelled += task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert 20 < cancelled < 200
    in_use = bench.executor._connections._in_use
    assert in_use._value == connections.IN_USE_MAX, "every place is free again"
    assert bench.kept == len(bench.executor._connections._idle)
    bench.server.answer = lambda received: reply()
    for _ in range(5):
        assert (await bench.get()).error_code == ""
    await wait_until("the server to see what was given up", lambda: bench.server.open == bench.kept)


async def test_closing_ends_requests_under_way(bench: Bench) -> None:
    come = asyncio.Event()

    async def answer(received: Received) -> bytes:
        come.set()
        await asyncio.Event().wait()
        return b""

    bench.server.answer = answer
    under_way = asyncio.create_task(bench.get())
    async with asyncio.timeout(DEADLINE_S):
        await come.wait()
        await bench.executor.close()
        outcome = await under_way
    assert (outcome.error_code, outcome.outcome_unknown) == ("HTTP_CONNECTION_LOST", True)
