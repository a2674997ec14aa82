"""Messages and bytes at random against a real node; `make fuzz SECONDS=600` is the longer form."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.fuzz.session import Fuzz, FuzzedCluster, is_made_up

SECONDS = 8
DEADLINE_S = 60
MADE_UP = "Internal error from Core"


async def test_nothing_that_is_said_to_a_node_breaks_it(tmp_path: Path, chance: random.Random) -> None:
    async with FuzzedCluster(tmp_path / "fuzzed", nodes=1) as cluster:
        fuzz = Fuzz(cluster, chance.randrange(1 << 32))
        await fuzz.run(SECONDS)
        # Much of it was understood, and much refused with a reason.
        assert fuzz.answers["OK"] and fuzz.answers["INVALID_ARGUMENT"] and fuzz.answers["NOT_FOUND"]


@asynccontextmanager
async def refusing(code: grpc.StatusCode, message: str, *, reads: bool) -> AsyncIterator[tuple[Any, Counter[str]]]:
    """A server that ends each stream with this status, and counts what it sent."""
    sent: Counter[str] = Counter()

    async def refuse(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        if reads:
            async for _ in requests:
                pass
        sent[code.name] += 1
        await context.abort(code, message)
        yield b""

    handler = grpc.method_handlers_generic_handler("x.Y", {"Z": grpc.stream_stream_rpc_method_handler(refuse)})  # type: ignore[arg-type]  # it is annotated for the other kind of server
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel.stream_stream("/x.Y/Z"), sent
    finally:
        await server.stop(0)


async def asked(method: Any) -> grpc.aio.AioRpcError:
    async def requests() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b"x" * 100

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in method(requests()):
            pass
    return refused.value


async def test_what_is_ignored_was_never_sent_by_a_server() -> None:
    """Or the client does it no more: then nothing need be ignored."""
    made_up: list[grpc.aio.AioRpcError] = []
    async with refusing(grpc.StatusCode.INVALID_ARGUMENT, "no", reads=False) as (method, sent):
        async with asyncio.timeout(DEADLINE_S):
            while not made_up:
                answers = await asyncio.gather(*(asked(method) for _ in range(10)))
                made_up = [answer for answer in answers if answer.code() is grpc.StatusCode.INTERNAL]
    assert set(sent) == {"INVALID_ARGUMENT"}
    assert all(answer.details() == MADE_UP and is_made_up(answer) for answer in made_up)


async def test_what_a_server_says_in_the_same_words_is_not_ignored() -> None:
    async with refusing(grpc.StatusCode.INTERNAL, MADE_UP, reads=True) as (method, _):
        answer = await asked(method)
    assert (answer.code(), answer.details()) == (grpc.StatusCode.INTERNAL, MADE_UP) and not is_made_up(answer)
