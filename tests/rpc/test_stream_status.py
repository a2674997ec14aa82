"""What the leader knows of the streams to which events go and from which they come, over the wire."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import PutEventHandler, RaiseBehaviour, RegisterWorkflows, StartWorkflow
from orchestrator.engine.stream_commands import ReceiveEvents, StreamEntry
from orchestrator_api.v1 import events_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest
from tests.engine.driver import START_MS
from tests.engine.triggers.making import action, handler
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of
from tests.rpc.test_definitions import failure

EVENT = {"name": "sold", "taskReferenceName": "sold", "type": "EVENT", "sink": "redis:${workflow.input.to}"}


class Known(SimpleNamespace):
    connected, last_error = False, "connection refused"

    def group_of(self, namespace: str) -> str:
        return f"orchestrator:{namespace}"

    def error_out(self, stream: str) -> str:
        return "WRONGTYPE" if stream == "orders" else ""

    def error_in(self, namespace: str, event: str) -> str:
        return f"{namespace} may not" if event == "redis:paid" else ""

    def lag(self, namespace: str, event: str) -> int | None:
        return 7 if event == "redis:paid" else None


@pytest.fixture(autouse=True)
def raised(bench: Bench) -> None:
    if bench.driver.state.meta.behaviour_level < STREAMS:
        bench.apply(RaiseBehaviour(STREAMS))


def tell(bench: Bench, stream: str, name: str, namespace: str = "default") -> None:
    """Owes an event of the namespace to the stream."""
    document = json.dumps({"name": "sells", "tasks": [EVENT]}).encode()
    bench.apply(RegisterWorkflows(namespace, (document,), True))
    bench.apply(StartWorkflow(namespace, "sells", 0, name, IfExists.FAIL, json.dumps({"to": stream}).encode()))


def handle(bench: Bench, stream: str, namespace: str = "default") -> None:
    text = json.dumps(handler(action("start_workflow", name="x"), name=stream, event=f"redis:{stream}")).encode()
    bench.apply(PutEventHandler(namespace, text))


async def status(stubs: Stubs, **fields: Any) -> Any:
    return await stubs.events.GetStreamStatus(pb.GetStreamStatusRequest(**fields))


async def test_a_node_without_redis_says_so_and_what_waits_all_the_same(bench: Bench, stubs: Stubs) -> None:
    assert await status(stubs) == pb.GetStreamStatusResponse()
    tell(bench, "orders", "w")
    reply = await status(stubs)
    assert not reply.configured and [each.stream for each in reply.outgoing] == ["orders"]


class TestWithRedis:
    @pytest.fixture(autouse=True)
    def known(self, bench: Bench) -> None:
        bench.streams = Known()

    async def test_what_is_owed_is_told_by_stream(self, bench: Bench, stubs: Stubs) -> None:
        tell(bench, "orders", "a")
        bench.driver.now_ms += 1_000
        tell(bench, "orders", "b")
        tell(bench, "paid", "c")
        reply = await status(stubs)
        assert (reply.configured, reply.connected, reply.last_error) == (True, False, "connection refused")
        orders, paid = reply.outgoing
        assert (orders.stream, orders.owed_events, orders.last_error) == ("orders", 2, "WRONGTYPE")
        owed = bench.driver.state.triggers.owed
        assert orders.owed_bytes == sum(len(one.payload) for one in owed.of("orders", 9)) > 0
        [oldest] = owed.of("orders", 1)
        assert orders.oldest_time.ToMilliseconds() == oldest.time_ms < paid.oldest_time.ToMilliseconds()
        assert (paid.stream, paid.owed_events, paid.last_error) == ("paid", 1, "")

    async def test_what_comes_in_is_told_by_stream(self, bench: Bench, stubs: Stubs) -> None:
        for stream in ("paid", "shipped"):
            handle(bench, stream)
        later = START_MS + 100_000
        entries = (StreamEntry(f"{later}-1", "e", b"{}"), StreamEntry(f"{later}-2", "e", b"{}"),
                   StreamEntry(f"{later}-3", "f", b"{}", invalid="no"))
        bench.apply(ReceiveEvents("default", "redis:paid", entries))
        paid, shipped = (await status(stubs)).incoming
        assert (paid.stream, paid.group, paid.cursor) == ("paid", "orchestrator:default", f"{later}-3")
        assert (paid.received, paid.repeated, paid.lag, paid.last_error) == (2, 1, 7, "default may not")
        assert paid.dead_letters >= 1
        assert shipped.stream == "shipped" and not shipped.HasField("lag")

    async def test_each_namespace_sees_its_own(self, bench: Bench, stubs: Stubs) -> None:
        tell(bench, "orders", "a")
        tell(bench, "orders", "b", "other")
        tell(bench, "elsewhere", "c", "other")
        handle(bench, "paid", "other")
        reply = await status(stubs)
        assert [(each.stream, each.owed_events) for each in reply.outgoing] == [("orders", 1)] and not reply.incoming
        reply = await status(stubs, namespace="other")
        assert [(each.stream, each.owed_events) for each in reply.outgoing] == [("elsewhere", 1), ("orders", 1)]
        assert [each.stream for each in reply.incoming] == ["paid"]

    async def test_it_comes_by_the_page(self, bench: Bench, stubs: Stubs) -> None:
        for stream in "abc":
            tell(bench, stream, stream)
            handle(bench, stream)
        seen: list[str] = []
        token, pages = "", 0
        while pages == 0 or token:
            reply = await status(stubs, page=PageRequest(size=2, token=token))
            seen += [f"in {each.stream}" for each in reply.incoming] + [f"out {each.stream}" for each in reply.outgoing]
            token, pages = reply.next_token, pages + 1
        assert (seen, pages) == (["in a", "in b", "in c", "out a", "out b", "out c"], 3)

    async def test_only_a_leader_knows(self, bench: Bench, stubs: Stubs) -> None:
        bench.is_leading = False
        error = await failure(status(stubs))
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_LEADER")
