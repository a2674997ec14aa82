"""What is owed to streams is written to them in order, at least once, whatever fails between any two steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from orchestrator.engine.behaviour import HIGHEST
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import AnyCommand, StartWorkflow
from orchestrator.engine.outbox_commands import AcknowledgeEvents
from orchestrator.engine.results import AnyResult, Code, Rejected
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.replication.errors import NotLeader, OutcomeUnknown
from orchestrator.services import publisher as module
from orchestrator.services.publisher import Publisher
from orchestrator.telemetry.metrics import Metrics
from orchestrator.telemetry.traces import SpanTraces, Traces
from tests.engine.driver import Driver, workflow
from tests.replication.cluster import wait_until
from tests.services.fake_streams import FakeStreams


class Bench:
    """A state, a Redis, and whoever leads."""

    def __init__(self) -> None:
        self.driver = Driver(level=HIGHEST)
        task = {"name": "sold", "taskReferenceName": "sold", "type": "EVENT", "sink": "redis:${workflow.input.to}"}
        self.driver.register(workflow("sells", task))
        self.streams = FakeStreams()
        self.metrics = Metrics(node="n1", version="0")
        self.traces = Traces()
        self.submitted: list[AnyCommand] = []
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self.refusals = 0
        self.publisher: Publisher | None = None
        self.ended: list[BaseException] = []

    async def submit(self, command: AnyCommand) -> AnyResult:
        await asyncio.sleep(0)
        self.before()
        self.submitted.append(command)
        if self.refusals:
            self.refusals -= 1
            return Rejected(Code.INTERNAL, "INTERNAL", "broken")
        result = self.driver.do(command)
        if self.publisher is not None:
            self.publisher.entry_applied()
        self.after()
        return result

    def tell(self, stream: str, name: str) -> None:
        given = f'{{"to":"{stream}"}}'.encode()
        self.driver.do(StartWorkflow("default", "sells", 0, name, IfExists.FAIL, given))
        if self.publisher is not None:
            self.publisher.entry_applied()

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
            self.publisher = None

    async def _lead(self) -> None:
        while True:
            self.publisher = Publisher(
                self.submit, lambda: self.driver.machine, self.streams, asyncio.get_running_loop().time, self.metrics,
                self.traces)
            try:
                await self.publisher.run()
            except (NotLeader, OutcomeUnknown) as error:
                self.ended.append(error)

    @property
    def owed(self) -> int:
        return self.driver.state.triggers.owed.count

    async def until_written(self) -> None:
        await wait_until("everything that is owed to be written", lambda: not self.owed)

    def written(self, stream: str) -> list[str]:
        """The workflows whose events are in the stream."""
        return [fields[b"workflow_id"].decode() for _, fields in self.streams.entries.get(stream, [])]

    def ids(self, stream: str) -> list[str]:
        return [fields[b"event_id"].decode() for _, fields in self.streams.entries.get(stream, [])]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(module, "HOLD_SECONDS", 0.005)
    return Bench()


async def test_what_is_owed_is_written_in_order_and_owed_no_more(bench: Bench) -> None:
    for number in range(5):
        bench.tell("orders", f"w{number}")
    async with bench.leading():
        await bench.until_written()
        bench.tell("orders", "w5")
        await bench.until_written()
    assert bench.written("orders") == [f"w{number}" for number in range(6)]
    assert bench.ids("orders") == [bench.driver.latest("sold", f"w{number}").task_id for number in range(6)]


async def test_batches_are_bounded_by_events_and_by_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_EVENTS", 3)
    for number in range(7):
        bench.tell("orders", f"w{number}")
    async with bench.leading():
        await bench.until_written()
    assert [len(each.numbers) for each in bench.submitted if isinstance(each, AcknowledgeEvents)] == [3, 3, 1]
    monkeypatch.setattr(module, "BATCH_BYTES", 1)
    bench.submitted.clear()
    for number in range(3):
        bench.tell("orders", f"v{number}")
    async with bench.leading():
        await bench.until_written()
    assert [len(each.numbers) for each in bench.submitted if isinstance(each, AcknowledgeEvents)] == [1, 1, 1]


async def test_one_event_is_seen_whatever_happens_between_two_steps(bench: Bench) -> None:
    """Each failure at each step in turn; a consumer that drops repeats sees each event once, and in order."""
    def failing(step: int, error: Exception) -> Callable[..., None]:
        count = iter(range(1_000))

        def hook(*_: Any) -> None:
            if next(count) == step:
                raise error

        return hook

    told = 0
    for step in range(4):
        for error in (RedisUnavailable("cut"), NotLeader(None), OutcomeUnknown()):
            hooks = ("before", "after") if isinstance(error, RedisUnavailable) else ("submit before", "submit after")
            for hook in hooks:
                target = bench if hook.startswith("submit") else bench.streams
                for number in range(3):
                    bench.tell("orders", f"w{told + number}")
                told += 3
                setattr(target, hook.removeprefix("submit "), failing(step, error))
                async with bench.leading():
                    await bench.until_written()
                setattr(target, hook.removeprefix("submit "), lambda *_: None)
    first = list(dict.fromkeys(bench.written("orders")))
    assert first == [f"w{number}" for number in range(told)]
    assert len(bench.ids("orders")) > len(set(bench.ids("orders"))) == told, "nothing was written twice: what failed?"
    assert bench.ended


async def test_a_stream_that_takes_nothing_does_not_hold_up_the_others(bench: Bench) -> None:
    def refuse(what: str, stream: str) -> None:
        if stream == "bad":
            raise RedisRefused("WRONGTYPE it is no stream")

    bench.streams.before = refuse
    for number in range(3):
        bench.tell("bad", f"b{number}")
        bench.tell("good", f"g{number}")
    async with bench.leading():
        await wait_until("the others", lambda: bench.owed == 3)
        assert bench.written("good") == ["g0", "g1", "g2"]
        assert bench.publisher is not None
        assert bench.publisher.error_of("bad") == "WRONGTYPE it is no stream"
        assert bench.publisher.error_of("good") == ""
        bench.streams.before = lambda what, stream: None
        await bench.until_written()
        assert bench.publisher.error_of("bad") == ""
    assert bench.written("bad") == ["b0", "b1", "b2"]


async def test_what_was_written_before_a_refusal_is_not_written_again(bench: Bench) -> None:
    count = iter(range(100))

    def refuse(what: str, stream: str) -> None:
        if what == "entry" and next(count) == 2:
            raise RedisRefused("too large")

    bench.streams.before = refuse
    for number in range(4):
        bench.tell("orders", f"w{number}")
    async with bench.leading():
        await bench.until_written()
    assert bench.written("orders") == ["w0", "w1", "w2", "w3"]


async def test_a_stream_is_tried_again_later_and_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD_SECONDS_MAX", 0.04)
    now = asyncio.get_running_loop().time
    tries: list[float] = []

    def refuse(what: str, stream: str) -> None:
        tries.append(now())
        raise RedisRefused("no")

    bench.streams.before = refuse
    bench.tell("orders", "w")
    async with bench.leading():
        await wait_until("some tries", lambda: len(tries) == 6)
    pauses = [later - before for before, later in pairwise(tries)]
    expected = [0.005, 0.01, 0.02, 0.04, 0.04]
    assert all(pause >= least for pause, least in zip(pauses, expected, strict=True)), pauses


async def test_while_there_is_no_redis_nothing_is_tried(bench: Bench) -> None:
    bench.streams.connected.clear()
    for number in range(3):
        bench.tell("orders", f"w{number}")
    async with bench.leading():
        await asyncio.sleep(0.02)
        assert bench.streams.done == [] and bench.owed == 3
        bench.streams.connected.set()
        await bench.until_written()
    assert bench.written("orders") == ["w0", "w1", "w2"]


async def test_many_streams_get_their_turns(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    monkeypatch.setattr(module, "BATCH_EVENTS", 1)
    for number in range(3):
        for stream in "abcde":
            bench.tell(stream, f"{stream}{number}")
    async with bench.leading():
        await bench.until_written()
    turns = [stream for what, stream in bench.streams.done if what == "append"]
    assert sorted(turns[:5]) == sorted(turns[5:10]) == list("abcde")
    for stream in "abcde":
        assert bench.written(stream) == [f"{stream}{number}" for number in range(3)]


async def test_a_refused_acknowledgement_is_no_reason_to_write_at_once_again(bench: Bench) -> None:
    bench.refusals = 1
    bench.tell("orders", "w")
    async with bench.leading():
        await bench.until_written()
    assert bench.ids("orders") == [bench.driver.latest("sold", "w").task_id] * 2


async def test_it_is_counted_what_was_written(bench: Bench) -> None:
    for number in range(3):
        bench.tell("orders", f"w{number}")
    async with bench.leading():
        await bench.until_written()
    page = bench.metrics.page()[0].decode()
    assert 'orchestrator_events_published_total{partition="0",stream="orders"} 3.0' in page


async def test_an_event_takes_its_trace_along_and_its_writing_is_a_span_of_it(bench: Bench) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    bench.traces = SpanTraces(provider, "n1")
    trace_id, parent_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    trace = f"00-{trace_id}-{parent_id}-01\nvendor=a\nuser=42"
    bench.driver.do(StartWorkflow("default", "sells", 0, "w", IfExists.FAIL, b'{"to":"orders"}', trace=trace))
    failures = iter((RedisRefused("no"),))

    def fail_once(what: str, stream: str) -> None:
        for failure in failures:
            raise failure

    bench.streams.before = fail_once
    async with bench.leading():
        await bench.until_written()
    failed, sent = exporter.get_finished_spans()
    assert (sent.name, sent.kind) == ("send orders", SpanKind.PRODUCER)
    assert sent.parent is not None and f"{sent.parent.span_id:016x}" == parent_id
    [(_, fields)] = bench.streams.entries["orders"]
    assert fields[b"traceparent"].decode() == f"00-{trace_id}-{sent.context.span_id:016x}-01"
    assert fields[b"tracestate"] == b"vendor=a" and b"baggage" not in fields
    assert sent.attributes is not None and sent.attributes["messaging.message.id"] == fields[b"event_id"].decode()
    assert (failed.status.status_code, sent.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    bench.traces.close()
