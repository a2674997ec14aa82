"""The example of client/MIGRATING.md runs: each order has its effects once, whoever leads it, and can be followed."""

from __future__ import annotations

import asyncio
import importlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import TrailEntryKind as Kind
from tests.integrations.redis.servers import ADMIN, ADMIN_PASSWORD, RedisServer, needs_redis

CLIENT = Path(__file__).parents[2] / "client"
EXAMPLE = CLIENT / "examples" / "choreography"
GUIDE = CLIENT / "MIGRATING.md"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return importlib.import_module("migrate")


async def walk(example: Any, endpoints: str, redis_url: str = "") -> None:
    async with example.opened(endpoints, redis_url) as shop:
        await shop.follow()
        before = await shop.order("choreographed", 1)
        assert {entry.kind for entry in before} == {Kind.EVENT_IN}
        assert [entry.source for entry in before] == ["shop", "payment", "shipping"]
        await shop.wait_along()
        along = await shop.order("watched", 2)
        assert {entry.workflow for entry in along if entry.kind is Kind.WORKFLOW_STARTED} == {"order_watched"}
        assert not [entry for entry in along if entry.failed]
        await shop.call_one()
        await shop.call_all()
        trails = await asyncio.gather(*(
            shop.order(flow, number)
            for number, flow in enumerate(("paying", "whole", "watched", "choreographed", "paying", "whole"), 3)
        ))
        for trail in trails:
            assert all(entry.workflow_status in (None, "COMPLETED") for entry in trail)
            assert not [entry for entry in trail if entry.failed]
        done = Counter(shop.books.entries)
        assert set(done.values()) == {1} and Counter(what for what, _ in done) == {"charge": 8, "ship": 8, "mail": 8}


async def test_one_service_after_the_other_comes_under_orchestration(example: Any, tmp_path: Path) -> None:
    async with LocalCluster(tmp_path, nodes=1) as cluster:
        await walk(example, ",".join(cluster.endpoints))


@needs_redis
async def test_the_same_by_streams_that_the_services_have_among_themselves(example: Any, tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        async with LocalCluster(tmp_path, nodes=1, node_settings={"redis_endpoints": server.endpoint}) as cluster:
            await walk(example, ",".join(cluster.endpoints), f"redis://{ADMIN}:{ADMIN_PASSWORD}@{server.endpoint}")
    finally:
        server.stop()


def test_what_the_guide_shows_is_what_runs() -> None:
    programs = "".join(path.read_text(encoding="utf-8") for path in sorted(EXAMPLE.glob("*.py")))
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        assert block in programs
