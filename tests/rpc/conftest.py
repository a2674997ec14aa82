"""Fixtures of the tests of the gRPC services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.rpc.asking import Way
from tests.rpc.bench import Bench, Stubs, served, until


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.fixture
async def stubs(bench: Bench) -> AsyncIterator[Stubs]:
    """Serves the bench; when all is over no task of a call is left."""
    before = asyncio.all_tasks()
    async with served(bench) as made:
        yield made
    await until("the tasks of the calls to end", lambda: not leaked(before))


@pytest.fixture(params=[True, False], ids=["stream", "calls"])
def way(stubs: Stubs, request: pytest.FixtureRequest) -> Way:
    return Way(stubs, streams=request.param)


def leaked(before: set[asyncio.Task[object]]) -> list[asyncio.Task[object]]:
    return [task for task in asyncio.all_tasks() - before if "orchestrator/" in str(task.get_coro())]
