"""The registry of schemas by the SDK, against a real node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import (
    AlreadyExists,
    Client,
    InvalidRequest,
    NotFound,
    SyncClient,
    Worker,
    Workflow,
    task,
)

PATIENCE_S = 60

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


@task(input_schema="order", output_schema={"required": ["receipt"]})
async def charge(id: int) -> dict[str, Any]:
    return {"receipt": f"r{id}"} if id < 100 else {}


async def test_what_is_started_and_done_has_to_keep_its_schemas(cluster: LocalCluster) -> None:
    async with Client(cluster.endpoints) as client:
        await client.schemas.register("order", ORDER)
        built = Workflow("ordering", input_schema=("order", 1), output_schema={"maxProperties": 1})
        built.returns(receipt=built.step(charge, id=built.input.id).receipt)
        worker = Worker(client, [charge], handle_signals=False)
        running = asyncio.create_task(worker.run())
        try:
            assert (await (await client.start(built, {"id": 7})).wait(PATIENCE_S)).output == {"receipt": "r7"}
            with pytest.raises(InvalidRequest, match=r"\$\.id: 'x' is not of type 'integer'") as refused:
                await client.start(built, {"id": "x"})
            assert refused.value.reason == "SCHEMA_VIOLATION"
            failed = await (await client.start(built, {"id": 100})).wait(PATIENCE_S, tasks=True)
            assert (failed.status, failed.tasks[-1].error_code) == ("FAILED", "SCHEMA_VIOLATION")
            assert "its output violates its schema: $: 'receipt' is a required property" in failed.reason
        finally:
            await worker.stop(timeout_s=5)
            await running
