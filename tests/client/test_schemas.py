"""The registry of schemas by the SDK, against a real node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import AlreadyExists, Client, InvalidRequest, NotFound, SyncClient

ORDER = {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path, nodes=1) as cluster:
        yield cluster


async def test_schemas_are_registered_read_listed_and_removed_and_outlive_a_restart(cluster: LocalCluster) -> None:
    async with Client(cluster.endpoints) as client:
        await client.schemas.register("order", ORDER)
        await client.schemas.register("order", ORDER)
        await client.schemas.register("order", {}, version=2)
        with pytest.raises(AlreadyExists):
            await client.schemas.register("order", {})
        await client.schemas.register("order", {"title": "another"}, version=2, overwrite=True)
        with pytest.raises(InvalidRequest, match=r"\$\.properties\.id\.type") as refused:
            await client.schemas.register("broken", {"properties": {"id": {"type": "number of a house"}}})
        assert (refused.value.reason, refused.value.metadata["path"]) == ("SCHEMA_INVALID", "data")
        await cluster.kill_node("a")
        cluster.start_node("a")
        await cluster.wait_ready()
        assert (await client.schemas.get("order", 1))["data"] == ORDER
        assert (await client.schemas.get("order"))["data"] == {"title": "another"}
        listed = [(each["name"], each["version"], "data" in each) async for each in client.schemas.list(page_size=1)]
        assert listed == [("order", 1, False), ("order", 2, False)]
        await client.schemas.delete("order", 2)
        assert (await client.schemas.get("order"))["version"] == 1
        await client.schemas.delete("order")
        with pytest.raises(NotFound):
            await client.schemas.get("order")


async def test_the_blocking_face_has_the_same_methods(cluster: LocalCluster) -> None:
    def use() -> None:
        with SyncClient(cluster.endpoints) as blocking:
            blocking.schemas.register("order", ORDER)
            assert [each["name"] for each in blocking.schemas.list()] == ["order"]
            ours = {name for name in dir(blocking.inner.schemas) if not name.startswith("_")}
            assert ours <= set(dir(blocking.schemas))

    await asyncio.to_thread(use)
