"""Secrets by the SDK, against a real node; tasks that name them are in tests/cluster/test_secrets.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, InvalidRequest, NotFound, SyncClient

VALUE = "hunter2-of-the-bank"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path, nodes=1) as cluster:
        yield cluster


async def test_secrets_are_put_told_of_and_removed_and_outlive_a_restart(cluster: LocalCluster) -> None:
    async with Client(cluster.endpoints) as client:
        assert [await client.secrets.put("BANK", VALUE), await client.secrets.put("BANK", VALUE)] == [1, 2]
        await client.secrets.put("POST", "é" * 8192)
        with pytest.raises(InvalidRequest, match="the limit is 16384"):
            await client.secrets.put("POST", "é" * 8193)
        await cluster.kill_node("a")
        cluster.start_node("a")
        await cluster.wait_ready()
        told = await client.secrets.get("BANK")
        assert (told.name, told.version, told.readable) == ("BANK", 2, True)
        assert told.created < told.updated
        assert [one.name async for one in client.secrets.list(page_size=1)] == ["BANK", "POST"]
        assert (await client.secrets.rotate()).total == 2
        await client.secrets.delete("BANK")
        with pytest.raises(NotFound):
            await client.secrets.get("BANK")
    for path in cluster.directory.rglob("*"):
        assert path.is_dir() or VALUE.encode() not in path.read_bytes(), path


async def test_the_blocking_face_has_the_same_methods(cluster: LocalCluster) -> None:
    def use() -> None:
        with SyncClient(cluster.endpoints) as blocking:
            blocking.secrets.put("BANK", VALUE)
            assert [one.name for one in blocking.secrets.list()] == ["BANK"]
            ours = {name for name in dir(blocking.inner.secrets) if not name.startswith("_")}
            assert ours <= set(dir(blocking.secrets))

    await asyncio.to_thread(use)
