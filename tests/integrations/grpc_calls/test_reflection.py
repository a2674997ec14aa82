"""Asking a server for its methods, where it answers before the question has gone out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.aio
import pytest

from orchestrator.integrations.grpc_calls.reflection import NoReflection, reflected

QUESTIONS = 150


@pytest.fixture
def target() -> Iterator[str]:
    """A server in threads of its own, which has no method at all."""
    with ThreadPoolExecutor(max_workers=2) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


async def test_a_refusal_that_comes_early_is_one(target: str) -> None:
    """gRPC for asyncio calls it an INTERNAL error if a stream's first message finds the stream refused."""
    async with grpc.aio.insecure_channel(target) as channel:
        for _ in range(QUESTIONS):
            with pytest.raises(NoReflection):
                await reflected(channel, "shop.Orders", (), 30)
