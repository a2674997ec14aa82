"""Spans of what a node does for an execution: what it commits, system work, and events for others. Their parent is the
trace of its start.

They are exported as the standard variables of OpenTelemetry say, OTEL_TRACES_EXPORTER and the others, where the extra
`otel` is installed. Without it, or without being asked to, a node hands on what it was given and makes no spans.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, Final, Self

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True
    _propagator: Final = TraceContextTextMapPropagator()

Headers = tuple[tuple[str, str], ...]
Attributes = Mapping[str, str | int | bool]

# As it stands in the state: a line each, empty ones at the end left out.
LINES: Final = ("traceparent", "tracestate", "baggage")
# To whoever a task calls. Baggage is for the workers: it was not meant for strangers.
_CALLED: Final = LINES[:2]
_EXPORTERS: Final = "opentelemetry_traces_exporter"

TRACEPARENT_CHARACTERS_MAX: Final = 64
"""A version to come may have more than the 55 of today."""
VALUE_CHARACTERS_MAX: Final = 512
TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")

logger = logging.getLogger(__name__)


def values_of(text: str) -> dict[str, str]:
    """The trace of an execution by the names of its headers, as far as they are there."""
    return {name: value for name, value in zip(LINES, text.split("\n"), strict=False) if value}


def text_of(given: Mapping[str, str]) -> str:
    """The trace of what has come from elsewhere. A value that is not as the standard has it counts as absent."""
    traceparent = given.get(LINES[0], "")
    if len(traceparent) > TRACEPARENT_CHARACTERS_MAX or not TRACEPARENT.fullmatch(traceparent):
        return ""
    values = [given.get(name, "") for name in LINES[1:]]
    good = [value if len(value) <= VALUE_CHARACTERS_MAX and is_header(value) else "" for value in values]
    return "\n".join((traceparent, *good)).rstrip("\n")


def is_header(value: str) -> bool:
    """Whether a header may have the value."""
    return value.isascii() and value.isprintable()


class Traced:
    """Something that is done for an execution. This is no span; `headers` are as they were given."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self.headers: Headers = tuple((name, given[name]) for name in _CALLED if given.get(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        return None

    def ended(self, status: str, error_type: str = "", reason: str = "") -> None:
        """`error_type` of what has failed, which is empty otherwise."""


class Traces:
    """Of a node. This one makes no spans."""

    is_on = False

    def committing(self, name: str, text: str, attributes: Attributes, result: asyncio.Future[Any]) -> None:
        """A command for the execution with this trace is on its way; the span ends with its result."""

    def working(self, name: str, given: Mapping[str, str], attributes: Attributes, scheduled_ns: int) -> Traced:
        """Around what is done for an attempt; `given`: the values of its trace."""
        return Traced(given)

    def sending(self, stream: str, text: str, attributes: Attributes) -> Traced:
        """Around the writing of an event to a stream; `text`: its trace. It takes the headers along."""
        return Traced(values_of(text))

    def close(self) -> None:
        """Exports what has ended; takes as long as the exporter does."""


def traces_of(environment: Mapping[str, str], *, node: str, version: str) -> Traces:
    """As the variables say. Asked for what is not installed, it says so in the log and makes none."""
    names = _wanted(environment)
    if not names:
        return Traces()
    if not INSTALLED:
        logger.warning("no spans are exported, for want of: pip install orchestrator-cluster[otel]")
        return Traces()
    resource = Resource.create({
        "service.name": environment.get("OTEL_SERVICE_NAME") or "orchestrator", "service.version": version,
        "service.instance.id": node,
    })
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in names:
        found = list(entry_points(group=_EXPORTERS, name=name))
        if not found:
            logger.warning("no spans are exported to %s: no such exporter is installed", name)
            continue
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    return SpanTraces(provider, node)


def _wanted(environment: Mapping[str, str]) -> list[str]:
    """The names of exporters."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    asked = environment.get("OTEL_TRACES_EXPORTER", "")
    endpoints = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not asked and any(environment.get(name) for name in endpoints):
        asked = "otlp"
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    otlp = "otlp_proto_http" if (protocol or "").startswith("http/") else "otlp_proto_grpc"
    names = [name.strip() for name in asked.split(",")]
    return [otlp if name == "otlp" else name for name in names if name not in ("", "none")]


class SpanTraces(Traces):
    """Makes spans of the provider, which it closes."""

    is_on = True

    def __init__(self, provider: TracerProvider, node: str) -> None:
        self._provider = provider
        self._node = node
        self._tracer = provider.get_tracer("orchestrator")

    def committing(self, name: str, text: str, attributes: Attributes, result: asyncio.Future[Any]) -> None:
        context = _propagator.extract(values_of(text), contexts.Context())
        if not trace.get_current_span(context).get_span_context().is_valid:
            return
        about = {**attributes, "orchestrator.node": self._node}
        span = self._tracer.start_span(f"commit {name}", context, attributes=about)

        def end(result: asyncio.Future[Any]) -> None:
            error = None if result.cancelled() else result.exception()
            if error is not None:
                _fail(span, type(error).__name__, str(error))
            span.end()

        result.add_done_callback(end)

    def working(self, name: str, given: Mapping[str, str], attributes: Attributes, scheduled_ns: int) -> Traced:
        context = _propagator.extract(given, contexts.Context())
        sender = trace.get_current_span(context).get_span_context()
        if not sender.is_valid:
            return Traced(given)
        about = {**attributes, "orchestrator.node": self._node}
        kind, links = trace.SpanKind.CONSUMER, [trace.Link(sender)]
        span = self._tracer.start_span(f"process {name}", context, kind=kind, attributes=about, links=links)
        if scheduled_ns:
            span.add_event("scheduled", timestamp=scheduled_ns)
        return _Working(span)

    def sending(self, stream: str, text: str, attributes: Attributes) -> Traced:
        context = _propagator.extract(values_of(text), contexts.Context())
        if not trace.get_current_span(context).get_span_context().is_valid:
            return Traced(values_of(text))
        about = {**attributes, "messaging.system": "redis", "messaging.destination.name": stream,
                 "orchestrator.node": self._node}
        return _Sending(self._tracer.start_span(f"send {stream}", context, kind=trace.SpanKind.PRODUCER,
                                                attributes=about))

    def close(self) -> None:
        self._provider.shutdown()


class _Working(Traced):
    def __init__(self, span: trace.Span) -> None:
        headers: dict[str, str] = {}
        _propagator.inject(headers, trace.set_span_in_context(span, contexts.Context()))
        super().__init__(headers)
        self._span = span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            self.ended("CANCELED" if isinstance(error, asyncio.CancelledError) else "FAILED", type(error).__name__)
        self._span.end()

    def ended(self, status: str, error_type: str = "", reason: str = "") -> None:
        self._span.set_attribute("orchestrator.task.status", status)
        if error_type and status != "CANCELED":
            _fail(self._span, error_type, reason)


class _Sending(_Working):
    def ended(self, status: str, error_type: str = "", reason: str = "") -> None:
        if error_type:
            _fail(self._span, error_type, reason)


def _fail(span: trace.Span, error_type: str, reason: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(trace.StatusCode.ERROR, reason)
