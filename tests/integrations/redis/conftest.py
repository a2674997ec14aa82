"""What tests of Redis share."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.integrations.redis.link import RedisLink
from orchestrator.integrations.redis.settings import RedisSettings
from tests.integrations.redis.servers import Servers

StartLink = Callable[..., Awaitable[RedisLink]]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with Servers(tmp_path / "servers") as made:
        yield made


@pytest.fixture
async def start_link() -> AsyncIterator[StartLink]:
    """Runs a link with these settings; `connected=False`: without waiting for that."""
    running: list[asyncio.Task[None]] = []

    async def start(settings: RedisSettings, *, connected: bool = True) -> RedisLink:
        link = RedisLink(settings, monotonic=time.monotonic, random=random.Random(1))
        running.append(asyncio.create_task(link.run()))
        if connected:
            async with asyncio.timeout(60):
                await link.wait_connected()
        return link

    yield start
    for task in running:
        task.cancel()
    for ended in await asyncio.gather(*running, return_exceptions=True):
        assert isinstance(ended, asyncio.CancelledError), ended
