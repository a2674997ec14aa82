"""What streams of Redis promise besides: what stands in an entry, and what becomes of entries that are no events."""

from __future__ import annotations

import json

from tests.conformance.buses import RedisBus, event_task, wait_task
from tests.integrations.redis.servers import needs_redis

pytestmark = needs_redis


async def test_an_entry_says_what_happened_to_whom_and_when(redis_bus: RedisBus) -> None:
    bus = redis_bus
    await bus.client.start(
        {"name": bus.workflow, "tasks": [event_task("sells", bus.sink("sold"), n=7)]},
        id=bus.named("seller"), correlation_id="order-7")
    [entry] = await bus.entries(bus.stream("sold"), 1)
    execution = await bus.client.get(bus.named("seller"), tasks=True)
    assert entry["event_id"] == execution.tasks[0].task_id
    assert (entry["event"], entry["source"], entry["namespace"]) == ("sells", "task/sells", "default")
    assert (entry["workflow"], entry["workflow_id"]) == (bus.workflow, bus.named("seller"))
    assert entry["correlation_id"] == "order-7" and entry["time"].endswith("Z")
    assert json.loads(entry["payload"])["n"] == 7


async def test_each_entry_has_an_id_of_its_own(redis_bus: RedisBus) -> None:
    bus = redis_bus
    loops = [event_task(f"sells_{n}", bus.sink("sold"), n=n) for n in range(5)]
    await bus.start(*loops, workflowStatusListenerEnabled=True, workflowStatusListenerSink=bus.sink("sold"))
    entries = await bus.entries(bus.stream("sold"), 6)
    assert len({entry["event_id"] for entry in entries}) == len(entries) == 6
    assert [entry["event"] for entry in entries] == ["sells_0", "sells_1", "sells_2", "sells_3", "sells_4", "status"]


async def test_an_entry_that_is_no_event_is_put_aside_and_those_behind_it_are_handled(redis_bus: RedisBus) -> None:
    bus = redis_bus
    seen = await bus.collect("paid")
    bus.add("paid", payload="no JSON", event_id="bad-1")
    bus.add("paid", payload="[1]")
    bus.add("paid", payload='{"n":1}')
    assert await seen.until(1) == [1]
    letters = await bus.entries(f"{bus.stream('paid')}:dead-letters", 2)
    assert letters[0]["event_id"].startswith("bad-1/") and "no JSON" in letters[0]["payload"]
    assert all("payload" in letter["reason"] for letter in letters)


async def test_an_entry_without_a_payload_is_one_of_its_fields(redis_bus: RedisBus) -> None:
    bus = redis_bus
    seen = await bus.collect("paid", "${order} ${amount}")
    entry_id = bus.add("paid", order="o-1", amount="7")
    assert await seen.until("o-1 7") == ["o-1 7"]
    [run] = await bus.runs("paid")
    assert run.message_id == entry_id


async def test_entries_wait_for_a_handler_that_is_switched_off(redis_bus: RedisBus) -> None:
    bus = redis_bus
    seen = await bus.collect("paid")
    await bus.publish("paid", {"n": 1})
    assert await seen.until(1)
    [document] = [each async for each in bus.client.events.handlers(bus.event("paid"))]
    await bus.client.events.put_handler({**document, "active": False})
    await bus.publish("paid", {"n": 2})
    await bus.client.events.put_handler({**document, "active": True})
    assert await seen.all() == [1, 2]


async def test_a_workflow_that_an_event_starts_has_its_correlation_id(redis_bus: RedisBus) -> None:
    bus = redis_bus
    name = bus.named("ships")
    await bus.client.register({"name": name, "tasks": [wait_task("ever", signal="never")]})
    await bus.handler("paid", {"action": "start_workflow", "start_workflow": {"name": name}})
    bus.add("paid", payload="{}", correlation_id="order-7")
    [started] = await bus.started(name, 1)
    assert started.correlation_id == "order-7"
