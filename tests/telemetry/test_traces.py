"""Spans of a node: made where variables ask for them, parts of the traces of executions, and otherwise none."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from orchestrator.telemetry import traces
from orchestrator.telemetry.traces import SpanTraces, Traces, traces_of, values_of

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
GIVEN = {"traceparent": PARENT, "tracestate": "vendor=a", "baggage": "user=42"}


class Made:
    """What `traces` has made."""

    def __init__(self) -> None:
        self.exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces = SpanTraces(provider, "n1")

    def one(self) -> ReadableSpan:
        [span] = self.exporter.get_finished_spans()
        return span


@pytest.fixture
def made() -> Iterator[Made]:
    made = Made()
    yield made
    made.traces.close()


def test_the_text_of_the_state_is_a_line_for_each_header() -> None:
    assert values_of("\n".join(GIVEN.values())) == GIVEN
    assert values_of(f"{PARENT}\n\nuser=42") == {"traceparent": PARENT, "baggage": "user=42"}
    assert values_of(PARENT) == {"traceparent": PARENT} and values_of("") == {}


async def test_a_commit_is_a_span_until_its_result(made: Made) -> None:
    result = asyncio.get_running_loop().create_future()
    made.traces.committing("StartWorkflow", PARENT, {"orchestrator.workflow.id": "w"}, result)
    assert not made.exporter.get_finished_spans()
    result.set_result(None)
    await asyncio.sleep(0)
    span = made.one()
    assert (span.name, span.kind) == ("commit StartWorkflow", SpanKind.INTERNAL)
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert span.parent is not None and f"{span.parent.span_id:016x}" == PARENT_ID
    assert span.attributes == {"orchestrator.workflow.id": "w", "orchestrator.node": "n1"}
    assert span.status.status_code is StatusCode.UNSET


async def test_a_commit_that_fails_or_is_given_up_ends_its_span(made: Made) -> None:
    loop = asyncio.get_running_loop()
    failed, given_up, untraced = loop.create_future(), loop.create_future(), loop.create_future()
    made.traces.committing("CompleteTask", PARENT, {}, failed)
    made.traces.committing("PauseWorkflow", PARENT, {}, given_up)
    made.traces.committing("StartWorkflow", "\n\nuser=42", {}, untraced)  # baggage is no trace
    failed.set_exception(RuntimeError("no leader"))
    given_up.cancel()
    untraced.set_result(None)
    await asyncio.sleep(0)
    spans = {span.name: span for span in made.exporter.get_finished_spans()}
    assert spans.keys() == {"commit CompleteTask", "commit PauseWorkflow"}
    status = spans["commit CompleteTask"].status
    assert (status.status_code, status.description) == (StatusCode.ERROR, "no leader")
    assert spans["commit PauseWorkflow"].status.status_code is StatusCode.UNSET


def test_work_is_a_span_that_whoever_is_called_goes_on_from(made: Made) -> None:
    with made.traces.working("system/http", GIVEN, {"orchestrator.task.name": "call"}, 5) as traced:
        traced.ended("COMPLETED")
    span = made.one()
    assert (span.name, span.kind) == ("process system/http", SpanKind.CONSUMER)
    assert span.parent is not None and f"{span.parent.span_id:016x}" == PARENT_ID
    assert [link.context.span_id for link in span.links] == [span.parent.span_id]
    assert [(event.name, event.timestamp) for event in span.events] == [("scheduled", 5)]
    assert (span.attributes or {})["orchestrator.task.status"] == "COMPLETED"
    # Not the baggage: it was not meant for strangers.
    assert traced.headers == (
        ("traceparent", f"00-{TRACE_ID}-{span.context.span_id:016x}-01"), ("tracestate", "vendor=a"),
    )


@pytest.mark.parametrize(("error", "status", "code"), [
    (None, "FAILED", StatusCode.ERROR),
    (ZeroDivisionError("a bug"), "FAILED", StatusCode.ERROR),
    (asyncio.CancelledError(), "CANCELED", StatusCode.UNSET),
])
def test_work_that_fails_says_so(made: Made, error: BaseException | None, status: str, code: StatusCode) -> None:
    def work() -> None:
        with made.traces.working("system/http", GIVEN, {}, 0) as traced:
            if error is not None:
                raise error
            traced.ended("FAILED", "HTTP_502", "502 Bad Gateway")

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    span = made.one()
    assert ((span.attributes or {})["orchestrator.task.status"], span.status.status_code) == (status, code)


def test_without_spans_what_was_given_is_handed_on(made: Made) -> None:
    off = Traces()
    assert not off.is_on
    with off.working("system/http", GIVEN, {}, 0) as traced:
        traced.ended("COMPLETED")
    assert traced.headers == (("traceparent", PARENT), ("tracestate", "vendor=a"))
    with made.traces.working("system/http", {"baggage": "user=42"}, {}, 0) as traced:
        traced.ended("COMPLETED")
    assert traced.headers == () and not made.exporter.get_finished_spans()
    off.close()


# --- when there are any


@pytest.mark.parametrize("environment", [
    {},
    {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"},
    {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
])
def test_spans_are_made_only_where_variables_ask_for_them(environment: dict[str, str]) -> None:
    assert not traces_of(environment, node="n1", version="0").is_on


def test_spans_say_which_node_they_are_of(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(traces, "entry_points", lambda group, name: [SimpleNamespace(load=lambda: lambda: exporter)])
    made = traces_of({"OTEL_TRACES_EXPORTER": "mine", "OTEL_SERVICE_NAME": "flows"}, node="n1", version="9.9")
    assert made.is_on
    with made.working("system/http", GIVEN, {}, 0):
        pass
    made.close()
    [span] = exporter.get_finished_spans()
    said = span.resource.attributes
    assert (said["service.name"], said["service.version"], said["service.instance.id"]) == ("flows", "9.9", "n1")


@pytest.mark.parametrize(("environment", "exporter"), [
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, "otlp_proto_grpc"),
    ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
     "otlp_proto_http"),
    ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
])
def test_exporters_are_those_that_are_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, environment: dict[str, str], exporter: str
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(traces, "entry_points", lambda group, name: asked.append(name) or [])
    traces_of(environment, node="n1", version="0").close()
    assert asked == [exporter]
    assert f"no spans are exported to {exporter}: no such exporter is installed" in caplog.text


def test_without_the_package_a_node_says_what_is_missing_and_goes_on() -> None:
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
sys.modules["opentelemetry"] = None
from orchestrator.telemetry.traces import traces_of
made = traces_of({{"OTEL_TRACES_EXPORTER": "otlp"}}, node="n1", version="0")
assert not made.is_on
with made.working("system/http", {GIVEN!r}, {{}}, 0) as traced:
    assert traced.headers == (("traceparent", {PARENT!r}), ("tracestate", "vendor=a"))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)
    assert "pip install orchestrator-cluster[otel]" in done.stderr


def test_nothing_is_current_in_a_node(made: Made) -> None:
    with made.traces.working("system/http", GIVEN, {}, 0):
        assert not trace.get_current_span().get_span_context().is_valid
