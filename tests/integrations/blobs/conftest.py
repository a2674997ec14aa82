from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integrations.blobs.kits import DirectoryKit, Kit, RedisKit, directory_kit, redis_kit
from tests.integrations.redis.servers import RedisServer, Servers, needs_redis


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[DirectoryKit]:
    async with directory_kit(tmp_path) as kit:
        yield kit


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests of a module, in which each has a cluster of its own."""
    with Servers(tmp_path_factory.mktemp("redis")) as servers:
        yield servers.redis(appendonly=False)


@pytest.fixture
async def redis(shared_redis: RedisServer) -> AsyncIterator[RedisKit]:
    async with redis_kit(shared_redis.port) as kit:
        yield kit


@pytest.fixture(params=["directory", pytest.param("redis", marks=needs_redis)])
def kit(request: pytest.FixtureRequest) -> Kit:
    return request.getfixturevalue(request.param)
