"""The relay between nodes: all bytes, in order, late, and no more connections than there are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.benchmarks.relay import HOST, Relay, precise_loop

DEADLINE_S = 10
DELAY_S = 0.02

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def relayed(serve: Serve, delay_s: float) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(DEADLINE_S):
        server = await asyncio.start_server(serve, HOST, 0)
        port = await Relay(delay_s).listen(server.sockets[0].getsockname()[1])
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            yield reader, writer
        finally:
            writer.close()
            server.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await test()

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(main())


def test_a_round_trip_takes_both_delays() -> None:
    async def test() -> None:
        async with relayed(echo, DELAY_S) as (reader, writer):
            for _ in range(3):
                began = asyncio.get_running_loop().time()
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
                assert asyncio.get_running_loop().time() - began >= 2 * DELAY_S - 0.001

    run(test)


def test_all_bytes_come_in_their_order_also_when_nobody_reads_for_a_while() -> None:
    sent = b"".join(number.to_bytes(4, "big") for number in range(2_000_000))

    async def test() -> None:
        async with relayed(echo, 0.001) as (reader, writer):
            writer.write(sent)
            await asyncio.sleep(0.1)
            assert await reader.readexactly(len(sent)) == sent

    run(test)


def test_what_was_said_before_the_end_comes_before_the_end() -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async def test() -> None:
        async with relayed(hello, DELAY_S) as (reader, _):
            assert await reader.read() == b"hello"

    run(test)


def test_where_nobody_listens_the_connection_ends() -> None:
    async def test() -> None:
        async with asyncio.timeout(DEADLINE_S):
            server = await asyncio.start_server(echo, HOST, 0)
            port = server.sockets[0].getsockname()[1]
            server.close()
            await server.wait_closed()
            reader, writer = await asyncio.open_connection(HOST, await Relay(0.001).listen(port))
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    run(test)
