"""The trace that a request is a part of, from the wire and back: kept as one text, which says nothing to the engine.

Its values become headers of calls that a node makes, so nothing passes that could not stand in one.
"""

from __future__ import annotations

from orchestrator.rpc.errors import invalid
from orchestrator.telemetry.traces import (
    TRACEPARENT,
    TRACEPARENT_CHARACTERS_MAX,
    VALUE_CHARACTERS_MAX,
    is_header,
    values_of,
)
from orchestrator_api.v1 import common_pb2, events_pb2, workflows_pb2


def trace_of(request: workflows_pb2.StartWorkflowRequest | events_pb2.PublishEventRequest) -> str:
    """A line each of `traceparent`, `tracestate` and `baggage`, as far as they are there. Raises RpcFailure."""
    if not request.HasField("trace"):
        return ""
    given = request.trace
    if len(given.traceparent) > TRACEPARENT_CHARACTERS_MAX:
        limit = str(TRACEPARENT_CHARACTERS_MAX)
        raise invalid("trace.traceparent", f"has over {limit} characters", limit)
    if given.traceparent and not TRACEPARENT.fullmatch(given.traceparent):
        raise invalid("trace.traceparent", "is not as W3C Trace Context has it")
    values = (_header("tracestate", given.tracestate), _header("baggage", given.baggage))
    return "\n".join((given.traceparent, *values)).rstrip("\n")


def _header(name: str, value: str) -> str:
    if len(value) > VALUE_CHARACTERS_MAX:
        raise invalid(f"trace.{name}", f"has over {VALUE_CHARACTERS_MAX} characters", str(VALUE_CHARACTERS_MAX))
    if not is_header(value):
        raise invalid(f"trace.{name}", "has characters that no header may have")
    return value


def write_trace(message: common_pb2.TraceContext, trace: str) -> None:
    """What `trace_of` has answered, as it was given."""
    for name, value in values_of(trace).items():
        setattr(message, name, value)
