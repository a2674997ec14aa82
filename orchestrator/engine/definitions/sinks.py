"""Where events go: sinks of tasks and workflows, and what a task announces of itself (`onStateChange`).

There is one kind of sink: the cluster's own, whose events its handlers handle.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

import msgspec

from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented, quoted
from orchestrator.engine.definitions.fields import NAME_CHARACTERS_MAX, Fields
from orchestrator.engine.definitions.model import Announcement, Announcements, Change
from orchestrator.engine.expressions import elements_of, parse_template

INTERNAL_SINK = "conductor"
ANNOUNCEMENTS_MAX = 10
STATUS_EVENT = "status"
"""What `conductor` alone calls the event of a workflow's statuses."""


class Announced(msgspec.Struct, frozen=True):
    """One event of `onStateChange` as it was written."""

    change: Change
    type: str
    payload: bytes  # a JSON object
    path: str


def is_expression(sink: str) -> bool:
    """Whether it is only known when its task's turn comes."""
    return "${" in sink


def read_task_sink(fields: Fields) -> str:
    """As `read_sink`, or with expressions in it."""
    sink = fields.name("sink")
    # Of what kind it is may be known all the same.
    return sink if is_expression(sink.partition(":")[0]) else read_sink(fields)


def read_sink(fields: Fields, key: str = "sink") -> str:
    """`conductor`, or `conductor:<name>`."""
    sink = fields.name(key)
    kind, colon, name = sink.partition(":")
    if kind == INTERNAL_SINK and colon and not name:
        raise fields.invalid(key, "the name of an event has to follow the colon")
    if kind != INTERNAL_SINK:
        raise fields.unimplemented(key, f"sinks of kind {quoted(kind)} are not supported yet, conductor is")
    return sink


def event_of_sink(sink: str, workflow: str, otherwise: str) -> str:
    """The event that is published here: `conductor:x` is one of the workflow, `conductor` the other one.

    "" for a sink that is elsewhere.
    """
    kind, colon, name = sink.partition(":")
    if kind != INTERNAL_SINK or (colon and not name):
        return ""
    return f"{INTERNAL_SINK}:{workflow}:{name or otherwise}"


def read_status_sink(fields: Fields, workflow: str) -> str:
    """The event that the statuses of a workflow are told by; "" if it has no sink, or it is switched off."""
    is_enabled = fields.flag("workflowStatusListenerEnabled")
    if not fields.is_set("workflowStatusListenerSink"):
        return ""
    key = "workflowStatusListenerSink"
    sink = read_sink(fields, key)
    if is_expression(sink):
        raise fields.unimplemented(key, "an expression in the sink of a workflow is not supported yet")
    event = event_of_sink(sink, workflow, STATUS_EVENT)
    check_event(event, fields.at(key))
    return event if is_enabled else ""


def check_event(name: str, path: str) -> None:
    """Refuses what nobody could publish."""
    if len(name) > NAME_CHARACTERS_MAX:
        message = f"the event {quoted(name)} has {len(name)} characters; the name of one may have {NAME_CHARACTERS_MAX}"
        raise DefinitionInvalid(path, message)


# --- what a task announces


def read_announcements(fields: Fields) -> tuple[Announced, ...]:
    """`onStateChange`: for one change of the task's state, or several with commas between them, a list of events."""
    found: list[Announced] = []
    path = fields.at("onStateChange")
    for key, raw in fields.mapping("onStateChange").items():
        if raw[:1] != b"[":
            raise DefinitionInvalid(f"{path}.{key}", "it must be a list of events")
        events = [_event(item, f"{path}.{key}[{at}]") for at, item in enumerate(elements_of(raw))]
        for name in key.split(","):
            change = _change(name.strip(), f"{path}.{key}")
            found += [Announced(change, kind, payload, at) for kind, payload, at in events]
            if sum(one.change is change for one in found) > ANNOUNCEMENTS_MAX:
                raise DefinitionInvalid(f"{path}.{key}", f"a change may be told by {ANNOUNCEMENTS_MAX} events")
    return tuple(found)


def _change(name: str, path: str) -> Change:
    for change in Change:
        if change.value == name:
            return change
    raise DefinitionInvalid(path, f"{quoted(name)} is none of {', '.join(change.value for change in Change)}")


def _event(raw: bytes, path: str) -> tuple[str, bytes, str]:
    """(type, payload, path)"""
    fields = Fields(raw, path, ("type", "payload"))
    kind = fields.name("type")
    if "${" in kind:
        raise DefinitionUnimplemented(fields.at("type"), "an expression in the type of an event is not supported yet")
    return kind, fields.object("payload"), path


def compile_announcements(
    announced: Iterable[Announced], names: Container[str] | None, *, step: bool = False
) -> Announcements:
    """`names`: the references that exist, if known; `step`: whether `step` does. Raises DefinitionInvalid."""
    found: dict[Change, tuple[Announcement, ...]] = {}
    for one in announced:
        template = parse_template(one.payload, f"{one.path}.payload", names, step=step)
        found[one.change] = (*found.get(one.change, ()), Announcement(one.type, template))
    return found


def event_of_announcement(workflow: str, kind: str) -> str:
    """As an EVENT task with the sink `conductor:<kind>` would name it."""
    return event_of_sink(f"{INTERNAL_SINK}:{kind}", workflow, "")


def events_of(workflow: str, reference: str, sink: str, announced: Iterable[Announced]) -> Iterator[tuple[str, str]]:
    """(event, where the task says so, "" in its sink) of what the task may publish, as far as that is known."""
    if sink and not is_expression(sink):
        yield event_of_sink(sink, workflow, reference), ""
    for one in announced:
        yield event_of_announcement(workflow, one.type), f"{one.path}.type"
