"""Where events go: sinks of tasks and workflows, and what a task announces of itself (`onStateChange`).

There are two kinds of sinks: the cluster's own, whose events its handlers handle, and streams of Redis.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

import msgspec

from orchestrator.engine.behaviour import HIGHEST, STREAMS
from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented, quoted
from orchestrator.engine.definitions.fields import NAME_CHARACTERS_MAX, Fields
from orchestrator.engine.definitions.model import Announcement, Announcements, Change
from orchestrator.engine.expressions import elements_of, parse_template

INTERNAL_SINK = "conductor"
STREAM_SINK = "redis"
STREAM_PREFIX = "redis:"
ANNOUNCEMENTS_MAX = 10
STATUS_EVENT = "status"
"""What `conductor` alone calls the event of a workflow's statuses."""
TASK_EVENT = "task"
"""... and of those of its tasks."""


class Announced(msgspec.Struct, frozen=True):
    """One event of `onStateChange` as it was written."""

    change: Change
    type: str
    payload: bytes  # a JSON object
    path: str
    sink: str = ""  # "": the cluster's own


def is_expression(sink: str) -> bool:
    """Whether it is only known when its task's turn comes."""
    return "${" in sink


def is_stream(event: str) -> bool:
    """Whether the event is published to a stream outside, or comes from one."""
    return event.startswith(STREAM_PREFIX)


def read_task_sink(fields: Fields, level: int) -> str:
    """As `read_sink`, or with expressions in it."""
    sink = fields.name("sink")
    # Of what kind it is may be known all the same.
    return sink if is_expression(sink.partition(":")[0]) else read_sink(fields, level)


def read_sink(fields: Fields, level: int, key: str = "sink") -> str:
    """`conductor`, `conductor:<name>`, or `redis:<stream>`."""
    sink = fields.name(key)
    kind, colon, name = sink.partition(":")
    if kind == STREAM_SINK and level >= STREAMS:
        if not name:
            raise fields.invalid(key, "the name of a stream has to follow: redis:NAME")
        return sink
    if kind == INTERNAL_SINK and colon and not name:
        raise fields.invalid(key, "the name of an event has to follow the colon")
    if kind != INTERNAL_SINK and level >= STREAMS:
        raise fields.unimplemented(key, f"sinks of kind {quoted(kind)} are not supported yet, conductor and redis are")
    if kind != INTERNAL_SINK:
        raise fields.unimplemented(key, f"sinks of kind {quoted(kind)} are not supported yet, conductor is")
    return sink


def event_of_sink(sink: str, workflow: str, otherwise: str, level: int = HIGHEST) -> str:
    """The event that is published: `conductor:x` is one of the workflow, `conductor` the other one, and a stream is
    one by its own name.

    "" for a sink that is none of these.
    """
    kind, colon, name = sink.partition(":")
    if kind == STREAM_SINK and level >= STREAMS:
        return sink if name else ""
    if kind != INTERNAL_SINK or (colon and not name):
        return ""
    return f"{INTERNAL_SINK}:{workflow}:{name or otherwise}"


def read_status_sink(fields: Fields, workflow: str, level: int) -> str:
    """The event that the statuses of a workflow are told by; "" if it has no sink, or it is switched off."""
    is_enabled = fields.flag("workflowStatusListenerEnabled")
    event = _read_listener(fields, "workflowStatusListenerSink", workflow, STATUS_EVENT, level)
    return event if is_enabled else ""


def read_task_status_sink(fields: Fields, workflow: str, level: int) -> str:
    """The event that the statuses of a workflow's tasks are told by; "" if it has no sink for them."""
    return _read_listener(fields, "taskStatusListenerSink", workflow, TASK_EVENT, level)


def _read_listener(fields: Fields, key: str, workflow: str, otherwise: str, level: int) -> str:
    if not fields.is_set(key):
        return ""
    sink = read_sink(fields, level, key)
    if is_expression(sink):
        raise fields.unimplemented(key, "an expression in the sink of a workflow is not supported yet")
    event = event_of_sink(sink, workflow, otherwise)
    check_event(event, fields.at(key))
    return event


def check_event(name: str, path: str) -> None:
    """Refuses what nobody could publish."""
    if len(name) > NAME_CHARACTERS_MAX:
        message = f"the event {quoted(name)} has {len(name)} characters; the name of one may have {NAME_CHARACTERS_MAX}"
        raise DefinitionInvalid(path, message)


# --- what a task announces


def read_announcements(fields: Fields, level: int) -> tuple[Announced, ...]:
    """`onStateChange`: for one change of the task's state, or several with commas between them, a list of events."""
    found: list[Announced] = []
    path = fields.at("onStateChange")
    for key, raw in fields.mapping("onStateChange").items():
        if raw[:1] != b"[":
            raise DefinitionInvalid(f"{path}.{key}", "it must be a list of events")
        events = [_event(item, f"{path}.{key}[{at}]", level) for at, item in enumerate(elements_of(raw))]
        for name in key.split(","):
            change = _change(name.strip(), f"{path}.{key}")
            found += [Announced(change, kind, payload, at, sink) for kind, payload, at, sink in events]
            if sum(one.change is change for one in found) > ANNOUNCEMENTS_MAX:
                raise DefinitionInvalid(f"{path}.{key}", f"a change may be told by {ANNOUNCEMENTS_MAX} events")
    return tuple(found)


def _change(name: str, path: str) -> Change:
    for change in Change:
        if change.value == name:
            return change
    raise DefinitionInvalid(path, f"{quoted(name)} is none of {', '.join(change.value for change in Change)}")


def _event(raw: bytes, path: str, level: int) -> tuple[str, bytes, str, str]:
    """(type, payload, path, sink)"""
    fields = Fields(raw, path, ("type", "payload", "sink") if level >= STREAMS else ("type", "payload"))
    kind = fields.name("type")
    if "${" in kind:
        raise DefinitionUnimplemented(fields.at("type"), "an expression in the type of an event is not supported yet")
    sink = read_sink(fields, level) if fields.is_set("sink") else ""
    if is_expression(sink):
        raise DefinitionUnimplemented(fields.at("sink"), "an expression in the sink of an event is not supported here")
    return kind, fields.object("payload"), path, sink


def compile_announcements(
    announced: Iterable[Announced], names: Container[str] | None, *, step: bool = False
) -> Announcements:
    """`names`: the references that exist, if known; `step`: whether `step` does. Raises DefinitionInvalid."""
    found: dict[Change, tuple[Announcement, ...]] = {}
    for one in announced:
        template = parse_template(one.payload, f"{one.path}.payload", names, step=step)
        found[one.change] = (*found.get(one.change, ()), Announcement(one.type, template, one.sink))
    return found


def event_of_announcement(workflow: str, kind: str, sink: str) -> str:
    """As an EVENT task with that sink, or else with `conductor:<kind>`, would name it."""
    return event_of_sink(sink or f"{INTERNAL_SINK}:{kind}", workflow, kind)


def events_of(workflow: str, reference: str, sink: str, announced: Iterable[Announced]) -> Iterator[tuple[str, str]]:
    """(event, where the task says so, "" in its sink) of what the task may publish, as far as that is known."""
    if sink and not is_expression(sink):
        yield event_of_sink(sink, workflow, reference), ""
    for one in announced:
        yield event_of_announcement(workflow, one.type, one.sink), f"{one.path}.{'sink' if one.sink else 'type'}"
