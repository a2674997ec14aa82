"""Entries of streams take effect once each, in order, whatever fails between any two steps and whoever leads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from orchestrator.engine import limits
from orchestrator.engine.behaviour import HIGHEST
from orchestrator.engine.commands import AnyCommand, DeleteEventHandler
from orchestrator.engine.model import Table
from orchestrator.engine.results import AnyResult, Code, Rejected
from orchestrator.engine.stream_commands import ReceiveEvents
from orchestrator.engine.triggers import streams
from orchestrator.engine.triggers.rows import StreamRow
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.streams import OpenAgain
from orchestrator.replication.errors import NotLeader, OutcomeUnknown
from orchestrator.services import consumer as module
from orchestrator.services.consumer import Consumer
from orchestrator.telemetry.traces import SpanTraces, Traces
from tests.engine.driver import Driver
from tests.engine.triggers.making import action, busy_driver, event_runs, input_of, put_handler
from tests.replication.cluster import wait_until
from tests.services.fake_streams import FakeStreams, place

ORDERS = "redis:orders"
START = action("start_workflow", name="report", input={"n": "${n}"})


class Bench:
    """A state, a Redis, and whoever leads."""

    def __init__(self) -> None:
        self.driver: Driver = busy_driver(HIGHEST)
        self.streams = FakeStreams()
        self.traces = Traces()
        self.submitted: list[AnyCommand] = []
        self.before: Callable[..., None] = lambda *_: None
        self.after: Callable[..., None] = lambda *_: None
        self.refusals = 0
        self.consumer: Consumer | None = None
        self.ended: list[BaseException] = []

    async def submit(self, command: AnyCommand) -> AnyResult:
        await asyncio.sleep(0)
        self.before()
        self.submitted.append(command)
        if self.refusals:
            self.refusals -= 1
            return Rejected(Code.INTERNAL, "INTERNAL", "broken")
        result = self.driver.do(command)
        self._applied()
        self.after()
        return result

    def _applied(self) -> None:
        if self.consumer is not None:
            self.consumer.entry_applied()

    def handle(self, event: str = ORDERS, name: str = "h", **fields: Any) -> None:
        put_handler(self.driver, START, event=event, name=name, **fields)
        self._applied()

    def unhandle(self, name: str = "h") -> None:
        self.driver.do(DeleteEventHandler("default", name))
        self._applied()

    def add(self, n: int, stream: str = "orders", **fields: str) -> str:
        return self.streams.add(stream, payload=json.dumps({"n": n}), event_id=f"{stream}-{n}", **fields)

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[None]:
        """As `services.leadership` does it: after each refusal it goes on; or another leader does."""
        running = asyncio.create_task(self._lead())
        try:
            yield
            assert not running.done(), running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            self.consumer = None

    async def _lead(self) -> None:
        while True:
            now = asyncio.get_running_loop().time
            self.consumer = Consumer(self.submit, lambda: self.driver.machine, self.streams, now, self.traces)
            try:
                await self.consumer.run()
            except (NotLeader, OutcomeUnknown) as error:
                self.ended.append(error)

    def row(self, stream: str = "orders") -> StreamRow:
        row = streams.row(self.driver.state, "default", f"redis:{stream}")
        assert row is not None
        return row

    def handled(self) -> list[int]:
        """What the executions were given that handlers have started, in their order."""
        return [input_of(self.driver, run.workflow_id)["n"] for run in event_runs(self.driver)
                if run.action == "start_workflow"]

    def unacknowledged(self, stream: str = "orders") -> list[str]:
        """Entries that Redis would deliver, or has delivered and would deliver again."""
        group = self.streams.groups.get((stream, "default"))
        entries = self.streams.entries.get(stream, [])
        if group is None:
            return [entry_id for entry_id, _ in entries]
        return [entry_id for entry_id, _ in entries if entry_id in group.pending or place(entry_id) > place(group.last)]

    async def until_handled(self, *numbers: int, stream: str = "orders") -> None:
        """... and Redis knows it."""
        await wait_until(f"{numbers} to be handled",
                         lambda: self.handled() == list(numbers) and not self.unacknowledged(stream))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in ("HOLD_SECONDS", "AGAIN_SECONDS"):
        monkeypatch.setattr(module, name, 0.002)
    monkeypatch.setattr(module, "BLOCK_MS", 20)
    return Bench()


async def test_what_comes_is_handled_and_then_acknowledged(bench: Bench) -> None:
    bench.handle()
    bench.add(0)
    async with bench.leading():
        await bench.until_handled(0)
        for n in (1, 2, 3):
            bench.add(n)
        await bench.until_handled(0, 1, 2, 3)
        standing = bench.consumer.standing_of("default", ORDERS) if bench.consumer else None
        await wait_until("the lag to be known", lambda: standing is not None and standing.lag == 0)
    assert (bench.row().received, bench.row().repeated, bench.row().dead) == (4, 0, 0)


async def test_each_takes_effect_once_whatever_happens_between_two_steps(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each failure at each step in turn, with something unread, something pending and something that comes later."""
    monkeypatch.setattr(module, "READ_TOGETHER", 2)
    bench.handle()
    expected: list[int] = []

    def failing(step: int, error: Exception) -> Callable[..., None]:
        count = iter(range(10_000))

        def hook(*_: Any) -> None:
            if next(count) == step:
                raise error

        return hook

    for step in range(8):
        for error in (RedisUnavailable("cut"), OpenAgain("gone"), NotLeader(None), OutcomeUnknown()):
            is_redis = isinstance(error, RedisUnavailable | OpenAgain)
            for hook in ("before", "after"):
                target: Any = bench.streams if is_redis else bench
                expected += [len(expected) + more for more in range(3)]
                for n in expected[-3:]:
                    bench.add(n)
                setattr(target, hook, failing(step, error))
                async with bench.leading():
                    await bench.until_handled(*expected)
                setattr(target, hook, lambda *_: None)
    assert bench.ended and bench.row().repeated, "nothing came twice: what failed?"
    assert bench.row().received == len(expected)
    assert all(reader.is_closed for reader in bench.streams.readers)


async def test_what_a_leader_was_given_that_leads_no_longer_is_not_passed_over(bench: Bench) -> None:
    """Its last read may be answered when another reads already: what it was given is before what the other is."""
    bench.handle()
    old = bench.streams.reader("orders", "default")
    async with bench.leading():
        bench.add(0)
        await bench.until_handled(0)
        calls = iter(range(100))

        def steal(what: str, stream: str) -> None:
            if what == "read_new" and next(calls) == 0:
                bench.add(1)
                assert len(old._new(10)) == 1
                bench.add(2)

        bench.streams.before = steal
        await bench.until_handled(0, 1, 2)


async def test_redis_without_its_data_is_read_from_its_beginning(bench: Bench) -> None:
    bench.handle()
    bench.add(0)
    async with bench.leading():
        await bench.until_handled(0)
    bench.streams.lose_data()
    bench.add(1)
    bench.add(0)
    async with bench.leading():
        await bench.until_handled(0, 1)
        await wait_until("the repeat to be seen", lambda: bench.row().repeated == 1)
    assert [each.restarted for each in bench.submitted if isinstance(each, ReceiveEvents)].count(True) == 1


async def test_a_full_cluster_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.handle()
    for n in range(4):
        bench.add(n)
    monkeypatch.setattr(limits, "EVENT_BYTES", -1)
    async with bench.leading():
        def error() -> str:
            standing = None if bench.consumer is None else bench.consumer.standing_of("default", ORDERS)
            return "" if standing is None else standing.error

        await wait_until("the reason", lambda: error() == "EVENTS_FULL")
        assert bench.handled() == [] and len(bench.unacknowledged()) == 4
        monkeypatch.setattr(limits, "EVENT_BYTES", 1 << 20)
        await bench.until_handled(0, 1, 2, 3)
        assert error() == ""


async def test_a_refused_command_is_tried_again(bench: Bench) -> None:
    bench.handle()
    bench.add(0)
    bench.refusals = 2
    async with bench.leading():
        await bench.until_handled(0)


async def test_what_is_no_event_goes_to_the_dead_letters(bench: Bench) -> None:
    bench.handle()
    bench.streams.add("orders", payload="[]", event_id="e")
    bench.add(1)
    async with bench.leading():
        await bench.until_handled(1)
    [letter] = bench.driver.state.resident[Table.OUTBOX].values()
    assert (letter.stream, letter.reason) == ("orders:dead-letters", "payload: it is not a JSON object")
    assert json.loads(letter.payload) == {"payload": "[]", "event_id": "e"}
    assert (bench.row().received, bench.row().dead) == (2, 1)


async def test_traces_and_correlation_ids_come_along(bench: Bench) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    bench.handle()
    bench.add(0, traceparent=trace, correlation_id="c-1", source="shop")
    async with bench.leading():
        await bench.until_handled(0)
    [command] = [each for each in bench.submitted if isinstance(each, ReceiveEvents) and each.entries]
    [entry] = command.entries
    assert (entry.trace, entry.correlation_id, entry.source) == (trace, "c-1", "shop")
    [run] = event_runs(bench.driver)
    assert bench.driver.header(run.workflow_id).trace == trace


async def test_the_command_that_an_event_comes_in_by_is_a_span_of_its_trace(bench: Bench) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    bench.traces = SpanTraces(provider, "n1")
    bench.handle()
    bench.add(0, traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    bench.add(1)
    async with bench.leading():
        await bench.until_handled(0, 1)
    [span] = exporter.get_finished_spans()
    assert span.name == "commit ReceiveEvents" and span.parent is not None
    assert f"{span.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert span.attributes is not None and span.attributes["messaging.message.id"] == "orders-0"
    bench.traces.close()


async def test_handlers_come_and_go(bench: Bench) -> None:
    async with bench.leading():
        bench.add(0)
        bench.add(1, "paid")
        bench.handle()
        await bench.until_handled(0)
        bench.handle("redis:paid", "other")
        await bench.until_handled(0, 1, stream="paid")
        bench.unhandle()
        await wait_until("nobody to read it", lambda: bench.streams.readers[0].is_closed)
        bench.add(2)
        bench.add(3, "paid")
        await bench.until_handled(0, 1, 3, stream="paid")
        assert bench.consumer is not None and bench.consumer.standing_of("default", ORDERS) is None


async def test_a_stream_that_can_not_be_read_does_not_hold_up_the_others(bench: Bench) -> None:
    def refuse(what: str, stream: str) -> None:
        if stream == "bad":
            raise RedisRefused("NOPERM")

    bench.streams.before = refuse
    bench.handle("redis:bad", "bad")
    bench.handle()
    async with bench.leading():
        bench.add(0)
        bench.add(1, "bad")
        await bench.until_handled(0)
        standing = bench.consumer.standing_of("default", "redis:bad") if bench.consumer else None
        assert standing is not None and standing.error == "NOPERM"
        bench.streams.before = lambda what, stream: None
        await bench.until_handled(0, 1, stream="bad")
        assert standing.error == ""


async def test_commands_are_bounded_by_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 20)
    bench.handle()
    for n in range(5):
        bench.add(n)
    async with bench.leading():
        await bench.until_handled(0, 1, 2, 3, 4)
    sizes = [len(each.entries) for each in bench.submitted if isinstance(each, ReceiveEvents)]
    assert sizes == [2, 2, 1]


async def test_while_there_is_no_redis_nothing_is_tried(bench: Bench) -> None:
    bench.streams.connected.clear()
    bench.handle()
    bench.add(0)
    async with bench.leading():
        await asyncio.sleep(0.02)
        assert bench.streams.readers == []
        bench.streams.connected.set()
        await bench.until_handled(0)
