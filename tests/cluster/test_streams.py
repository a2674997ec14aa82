"""Events come in from a real Redis and go out to it: once each, though leaders are killed and Redis is restarted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, StreamStatus
from tests.cluster.conftest import StartCluster
from tests.cluster.nodes import check_same_content
from tests.cluster.workload import eventually
from tests.integrations.redis.servers import RedisServer, Servers, needs_redis

pytestmark = needs_redis

TOLD = {"name": "tell", "taskReferenceName": "tell", "type": "EVENT", "sink": "redis:out",
        "inputParameters": {"n": "${workflow.input.n}"}}
TAKES = {"name": "takes", "version": 1, "schemaVersion": 2, "tasks": [TOLD]}
HANDLER = {"name": "taken", "event": "redis:in", "active": True, "actions": [
    {"action": "start_workflow", "start_workflow": {"name": "takes", "input": {"n": "${n}"}}}]}
BATCH = 20


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with Servers(tmp_path) as servers:
        yield servers.redis()


def write(redis: RedisServer, numbers: range) -> None:
    """As a service does it that says everything twice."""
    client = redis.client()
    for n in [*numbers, *numbers]:
        client.xadd("in", {"event_id": f"in-{n}", "payload": json.dumps({"n": n}), "source": "shop"})
    client.close()


def told(redis: RedisServer) -> Counter[int]:
    """How often each number has come out, to who drops repeats by their ids."""
    by_id = {fields["event_id"]: json.loads(fields["payload"])["n"] for _, fields in redis.entries("out")}
    return Counter(by_id.values())


async def test_effects_equal_events_though_leaders_and_redis_die(
    start_cluster: StartCluster, redis: RedisServer
) -> None:
    cluster: LocalCluster = await start_cluster(redis_endpoints=redis.endpoint)
    async with Client(cluster.endpoints) as client:
        await client.register(TAKES)
        await client.events.put_handler(HANDLER)
        written = 0

        async def more() -> None:
            nonlocal written
            await asyncio.to_thread(write, redis, range(written, written + BATCH))
            written += BATCH

        async def until_told() -> None:
            def is_told() -> bool:
                return sum(told(redis).values()) >= written

            await eventually(lambda: asyncio.to_thread(is_told), f"{written} events to come out")

        await more()
        await until_told()
        await more()
        leader = await cluster.wait_leader()
        await cluster.kill_node(leader)
        await more()
        redis.restart()
        await until_told()
        cluster.start_node(leader)
        await cluster.wait_ready()
        await more()
        redis.kill()
        # What is told meanwhile waits in the cluster; nobody waits for Redis.
        run = await client.start("takes", {"n": written}, id="meanwhile")
        await run.result(20)
        redis.start()
        written += 1
        await until_told()
        assert told(redis) == Counter(range(written))
        assert len([each async for each in client.search(name="takes")]) == written

        async def settled() -> StreamStatus | None:
            """Once the last repeats are read, too, and all that was written is known to be."""
            status = await client.events.streams()
            is_read = status.connected and status.incoming[0].repeated >= written - 1
            return status if is_read and not status.outgoing else None

        status = await eventually(settled, "everything to be read, and acknowledged")
        [stream] = status.incoming
        assert (stream.received, stream.group) == (written - 1, "orchestrator:default")
        assert stream.dead_letters == 0
        assert told(redis) == Counter(range(written))
    await check_same_content(cluster)


async def test_without_redis_what_needs_it_is_refused(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(nodes=1)
    async with Client(cluster.endpoints) as client:
        for refused in (client.register(TAKES), client.events.put_handler(HANDLER)):
            with pytest.raises(Exception, match="redis_endpoints"):
                await refused
        status = await client.events.streams()
        assert not status.configured
