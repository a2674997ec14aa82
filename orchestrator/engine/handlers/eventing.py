"""Event handlers and events: made, published, and decided on by the leader."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import limits
from orchestrator.engine.commands import DecideEvent, DeleteEventHandler, PublishEvent, PutEventHandler
from orchestrator.engine.definitions.errors import DefinitionError
from orchestrator.engine.errors import refuse, refuse_definition
from orchestrator.engine.messages import HandleEvent
from orchestrator.engine.model import Table
from orchestrator.engine.outbox_commands import AcknowledgeEvents
from orchestrator.engine.results import AnyResult, Code, Done
from orchestrator.engine.step import Step
from orchestrator.engine.triggers import events, outbox, streams
from orchestrator.engine.triggers.event_documents import ParsedHandler, validate_handler
from orchestrator.engine.triggers.rows import EventHandlerRow, TrailKind
from orchestrator.engine.triggers.trail import Author


def put_event_handler(step: Step, command: PutEventHandler) -> AnyResult:
    """Events that were published before are handled as the handler is when their turn comes."""
    try:
        parsed = validate_handler(command.document, step.level)
        streams.check_name(step, parsed.event)
    except DefinitionError as error:
        refuse_definition(error)
    old = events.handler(step.state, command.namespace, parsed.name)
    if old is None:
        row = EventHandlerRow(command.namespace, parsed.name, parsed.document, step.now, step.now)
    else:
        row = replace(old, document=parsed.document, updated_ms=step.now, revision=old.revision + 1)
    _check_room(step, command.namespace, parsed, is_new=old is None)
    step.write(Table.EVENT_HANDLER, (command.namespace, parsed.name), row)
    streams.follow(step, command.namespace, parsed.event)
    if old is not None:
        streams.follow(step, command.namespace, validate_handler(old.document).event)
    return Done()


def _check_room(step: Step, namespace: str, parsed: ParsedHandler, *, is_new: bool) -> None:
    if is_new and len(step.state.resident[Table.EVENT_HANDLER]) >= limits.EVENT_HANDLERS:
        message = f"there are {limits.EVENT_HANDLERS} event handlers, which is the limit"
        refuse(Code.RESOURCE_EXHAUSTED, "EVENT_HANDLERS_FULL", message, limit="event_handlers")
    names = step.state.triggers.handlers_of(namespace, parsed.event)
    if parsed.active and parsed.name not in names and len(names) >= limits.EVENT_HANDLERS_OF_ONE:
        message = f"the event has {limits.EVENT_HANDLERS_OF_ONE} active handlers, which is the limit"
        refuse(Code.RESOURCE_EXHAUSTED, "EVENT_HANDLERS_FULL", message, limit="event_handlers_of_one")


def delete_event_handler(step: Step, command: DeleteEventHandler) -> AnyResult:
    old = events.handler(step.state, command.namespace, command.name)
    if old is None:
        refuse(Code.NOT_FOUND, "EVENT_HANDLER_NOT_FOUND", f"there is no event handler {command.name!r}")
    step.write(Table.EVENT_HANDLER, (command.namespace, command.name), None)
    streams.follow(step, command.namespace, validate_handler(old.document).event)
    return Done()


def publish_event(step: Step, command: PublishEvent) -> AnyResult:
    for field, text in (("correlation_id", command.correlation_id), ("source", command.source)):
        if len(text) > limits.NAME_CHARS:
            message = f"{field} may have {limits.NAME_CHARS} characters"
            refuse(Code.INVALID_ARGUMENT, "NAME_TOO_LONG", message, field=field)
    return events.publish(
        step,
        command.event,
        command.message_id,
        command.payload or b"{}",
        namespace=command.namespace,
        trace=command.trace,
        author=Author(TrailKind.IN, command.correlation_id, command.source),
    )


def decide_event(step: Step, command: DecideEvent) -> AnyResult:
    row = events.event(step.state, command.number)
    if row is None or command.handler not in row.undecided:
        return Done()
    parsed = events.active_handler(step.state, row, command.handler)
    kept = events.handler(step.state, row.namespace, command.handler)
    if parsed is not None and kept is not None and kept.revision != command.revision:
        # The verdict is on a condition that is not the handler's any more: the leader is asked again.
        return Done()
    events.decide(step, row, command.handler, parsed, holds=command.holds, error=command.error)
    return Done()


def acknowledge_events(step: Step, command: AcknowledgeEvents) -> AnyResult:
    for number in command.numbers:
        outbox.acknowledge(step, number)
    return Done()


def handle_event(step: Step, message: HandleEvent) -> AnyResult:
    events.begin_handler(step, message)
    return Done()
