"""The shop starts each order once, keeps its pace and its bound, and knows what it still waits for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
import shop
from clock import Stopwatch
from order_file import OrderLine
from scoreboard import Scoreboard
from shop import Shop

from orchestrator_api.v1 import workflows_pb2 as pb
from tests.client.fake_cluster import FakeCluster

ORDERS = [OrderLine(f"{number:04}", "mug-blue", 1, 740) for number in range(12)]


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    cluster = FakeCluster()
    await cluster.start()
    yield cluster
    await cluster.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "STARTS_PER_S", 1_000.0)


def open_shop(cluster: FakeCluster) -> tuple[Shop, Scoreboard]:
    board, stopwatch = Scoreboard(orders=len(ORDERS), seed=1), Stopwatch()
    stopwatch.start()
    return Shop(ORDERS, cluster.addresses, board, stopwatch), board


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - neither the fake nor the board signals its changes
            await asyncio.sleep(0.01)


async def until_started(cluster: FakeCluster, count: int) -> None:
    await until(lambda: len(cluster.executions) >= count)


async def test_every_order_is_started_with_its_own_id_and_seen_to_its_end(cluster: FakeCluster) -> None:
    shop_, board = open_shop(cluster)
    selling = asyncio.create_task(shop_.sell())
    await until_started(cluster, len(ORDERS))
    assert sorted(cluster.effects) == [f"order-{order.id}" for order in ORDERS]
    for number, workflow_id in enumerate(cluster.effects):
        failed = number % 3 == 0
        await cluster.end(workflow_id, pb.WORKFLOW_STATUS_FAILED if failed else pb.WORKFLOW_STATUS_COMPLETED)
    async with asyncio.timeout(20):
        await selling
    assert (board.acknowledged_count, board.shipped, board.compensated) == (12, 8, 4)
    assert (shop_.unacknowledged, shop_.unfinished) == (set(), set())


async def test_the_saga_does_not_know_what_trouble_an_order_will_meet(cluster: FakeCluster) -> None:
    shop_, _ = open_shop(cluster)
    selling = asyncio.create_task(shop_.sell())
    await until_started(cluster, 1)
    content = json.loads(next(iter(cluster.executions.values())).input.inline)
    assert set(content) == {"id", "sku", "quantity", "amount_cents"}
    selling.cancel()


async def test_no_more_are_in_flight_than_there_is_room_for(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop, "IN_FLIGHT_MAX", 5)
    shop_, board = open_shop(cluster)
    selling = asyncio.create_task(shop_.sell())
    for started in range(5, len(ORDERS) + 1):
        await until_started(cluster, started)
        await asyncio.sleep(0.02)
        assert len(cluster.executions) == started
        assert board.in_flight <= 5
        await cluster.end(cluster.effects[started - 5])
    selling.cancel()


async def test_it_says_what_it_waits_for(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "IN_FLIGHT_MAX", 2)
    shop_, board = open_shop(cluster)
    selling = asyncio.create_task(shop_.sell())
    await until(lambda: board.in_flight == 2)
    unfinished = ", ".join(sorted(workflow_id.removeprefix("order-") for workflow_id in cluster.effects))
    assert shop_.waits_for() == f"10 orders not yet acknowledged; not yet ended: {unfinished}"
    selling.cancel()
