"""One cluster for each bus and process of tests: what tests use of it has names of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from orchestrator.cli.local_cluster import LocalCluster
from tests.conformance.buses import Bus, RedisBus, bus_of
from tests.integrations.redis.servers import Servers, needs_redis


@contextlib.contextmanager
def _running(directory: Path, **settings: int | str) -> Iterator[LocalCluster]:
    cluster = LocalCluster(directory, nodes=1, node_settings={"log_level": "warning", **settings})

    async def start() -> None:
        await cluster.start()
        await cluster.wait_ready()

    try:
        asyncio.run(start())
        yield cluster
    finally:
        print(f"--- the last lines of the node\n{cluster.nodes['a'].log_tail()}")
        asyncio.run(cluster.stop(timeout_s=0))


@pytest.fixture(scope="session")
def without_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with _running(tmp_path_factory.mktemp("embedded")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def with_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, redis.Redis]]:
    directory = tmp_path_factory.mktemp("redis")
    with Servers(directory / "servers") as servers:
        server = servers.redis()
        with (_running(directory / "cluster", redis_endpoints=server.endpoint) as cluster,
              contextlib.closing(server.client()) as client):
            yield cluster, client


@pytest.fixture(params=["embedded", pytest.param("redis", marks=needs_redis)])
def place(request: pytest.FixtureRequest) -> tuple[LocalCluster, redis.Redis | None]:
    """Where a bus is: a cluster, and the Redis that it has, if it has any."""
    if request.param == "embedded":
        return request.getfixturevalue("without_redis"), None
    cluster, server = request.getfixturevalue("with_redis")
    return cluster, server


@pytest.fixture
async def bus(place: tuple[LocalCluster, redis.Redis | None]) -> AsyncIterator[Bus]:
    async with bus_of(*place) as made:
        yield made


@pytest.fixture
async def redis_bus(with_redis: tuple[LocalCluster, redis.Redis]) -> AsyncIterator[RedisBus]:
    """For what a bus inside of the cluster has no word for."""
    async with bus_of(*with_redis) as made:
        assert isinstance(made, RedisBus)
        yield made
