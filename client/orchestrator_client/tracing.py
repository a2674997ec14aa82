"""Traces, where OpenTelemetry's API is installed: what is started carries its caller's context, each attempt is a span.

Spans are named and described as the conventions for messaging say. The context of the start is the parent of the spans
of all attempts, and they are linked to it. On the way it is written as W3C Trace Context and Baggage have it, whatever
propagators the program uses elsewhere.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

from orchestrator_api.v1 import events_pb2, workers_pb2, workflows_pb2
from orchestrator_api.v1.common_pb2 import TraceContext

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True
    _tracer: Final = trace.get_tracer("orchestrator_client")
    _trace_context: Final = TraceContextTextMapPropagator()
    _baggage: Final = W3CBaggagePropagator()

VALUE_CHARACTERS_MAX = 512
SYSTEM = "orchestrator"
# What its result says of the status of an attempt.
_STATUS = {number: name.removeprefix("TASK_STATUS_") for name, number in workflows_pb2.TaskStatus.items()}
_FAILED = ("FAILED", "FAILED_WITH_TERMINAL_ERROR")

Sendable = workflows_pb2.StartWorkflowRequest | events_pb2.PublishEventRequest


class Traced:
    """Something that may be a span. This one is none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        return None

    def note(self, name: str, value: str) -> None:
        """Says something of it that is only known now."""

    def ended(self, result: workers_pb2.TaskResult) -> None:
        """Says what has become of the attempt."""


_UNTRACED: Final = Traced()


def sending(operation: str, destination: str, request: Sendable) -> Traced:
    """Around a start, or an event that is published: while it is entered, its context is in the request."""
    return _Sending(operation, destination, request) if INSTALLED else _UNTRACED


def telling(operation: str, destination: str, namespace: str, workflow_id: str) -> Traced:
    """Around what an execution is told, which has a trace of its own: a signal, say."""
    return _Telling(operation, destination, namespace, workflow_id) if INSTALLED else _UNTRACED


def processing(given: workers_pb2.Assignment) -> Traced:
    """Around what a worker does for an attempt, which has the context of the start for its own."""
    return _Processing(given) if INSTALLED else _UNTRACED


def raised(error: BaseException) -> None:
    """What the function of a task has raised, which nobody else will see."""
    if INSTALLED:
        trace.get_current_span().record_exception(error)


class _Span(Traced):
    """`context`: that of what it is a part of."""

    def __init__(self, context: contexts.Context, span: trace.Span) -> None:
        self._context = trace.set_span_in_context(span, context)
        self._span = span

    def __enter__(self) -> Self:
        self._token = contexts.attach(self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        if error is not None:
            self._broken(error)
        self._span.end()

    def _broken(self, error: BaseException) -> None:
        """Its end is an exception."""
        self._span.record_exception(error)
        self._span.set_attribute("error.type", type(error).__name__)
        self._span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")

    def note(self, name: str, value: str) -> None:
        self._span.set_attribute(name, value)


class _Sent(_Span):
    def __init__(self, operation: str, destination: str, namespace: str, kind: trace.SpanKind) -> None:
        context = contexts.get_current()
        attributes = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": operation,
            "messaging.operation.type": "send",
            "messaging.destination.name": destination,
            "orchestrator.namespace": namespace or "default",
        }
        name = f"{operation} {destination}"
        super().__init__(context, _tracer.start_span(name, context, kind=kind, attributes=attributes))


class _Sending(_Sent):
    def __init__(self, operation: str, destination: str, request: Sendable) -> None:
        super().__init__(operation, destination, request.namespace, trace.SpanKind.PRODUCER)
        _write(request, self._context)


class _Telling(_Sent):
    def __init__(self, operation: str, destination: str, namespace: str, workflow_id: str) -> None:
        super().__init__(operation, destination, namespace, trace.SpanKind.CLIENT)
        self.note("orchestrator.workflow.id", workflow_id)


class _Processing(_Span):
    def __init__(self, given: workers_pb2.Assignment) -> None:
        # Not what was current when the worker began: that has nothing to do with the attempt.
        context = _read(given.trace) if given.HasField("trace") else contexts.Context()
        sender = trace.get_current_span(context).get_span_context()
        span = _tracer.start_span(
            f"process {given.name}",
            context,
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes_of(given),
            links=[trace.Link(sender)] if sender.is_valid else (),
        )
        if span.is_recording() and given.HasField("scheduled_time"):
            span.add_event("scheduled", timestamp=given.scheduled_time.ToNanoseconds())
        super().__init__(context, span)

    def ended(self, result: workers_pb2.TaskResult) -> None:
        status = _STATUS[result.status]
        self._span.set_attribute("orchestrator.task.status", status)
        if status in _FAILED:
            self._span.set_attribute("error.type", result.error_code or status)
            self._span.set_status(trace.StatusCode.ERROR, result.reason)

    def _broken(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            super()._broken(error)
        else:  # CancelledError: it is not wanted any more
            self._span.set_attribute("orchestrator.task.status", "CANCELED")


def attributes_of(given: workers_pb2.Assignment) -> dict[str, str | int | bool]:
    """What is said of each attempt, also of one that a node executes itself."""
    found: dict[str, str | int | bool] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": given.kind or given.queue or given.name,
        "messaging.message.id": given.task_id,
        "orchestrator.namespace": given.namespace or "default",
        "orchestrator.workflow.id": given.workflow_id,
        "orchestrator.workflow.name": given.workflow_name,
        "orchestrator.task.name": given.name,
        "orchestrator.task.reference": given.reference,
        "orchestrator.task.attempt": given.retry_count + 1,
        "orchestrator.task.idempotency_key": given.idempotency_key,
    }
    if given.correlation_id:
        found["messaging.message.conversation_id"] = given.correlation_id
    if given.iteration:
        found["orchestrator.task.iteration"] = given.iteration
    if given.HasField("compensation"):
        found["orchestrator.task.compensates"] = given.compensation.reference
    return found


def _read(given: TraceContext) -> contexts.Context:
    carrier = {"traceparent": given.traceparent, "tracestate": given.tracestate, "baggage": given.baggage}
    return _baggage.extract(carrier, _trace_context.extract(carrier, contexts.Context()))


def _write(request: Sendable, context: contexts.Context) -> None:
    """No start fails for its trace: what a node would refuse stays here."""
    carrier: dict[str, Any] = {}
    _trace_context.inject(carrier, context)
    _baggage.inject(carrier, context)
    for name, value in carrier.items():
        fitting = _whole_members(value)
        if fitting and fitting.isascii() and fitting.isprintable():
            setattr(request.trace, name, fitting)


def _whole_members(value: str) -> str:
    """Of a list, as many of the first members as fit."""
    if len(value) <= VALUE_CHARACTERS_MAX:
        return value
    return value[: VALUE_CHARACTERS_MAX + 1].rpartition(",")[0]
