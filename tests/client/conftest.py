"""Fixtures of the SDK's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from orchestrator_client import Client
from tests.client.fake_cluster import FakeCluster


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    fake = FakeCluster()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture(params=[True, False], ids=["stream", "calls"])
async def client(cluster: FakeCluster, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    """One whose starts and waits share a stream, and one for which each is a call of its own."""
    async with Client(cluster.addresses, deadline_s=10, streams=request.param) as made:
        yield made
