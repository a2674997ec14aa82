"""Events: each handler of a published event does each of its actions once.

A published event is a row until all is done. Each of its handlers begins in a step of its own, as soon as the leader
has evaluated its condition, if it has one; each action is a message to the execution that it is meant for, and what
came of it is recorded in the step that takes the message up.
"""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from orchestrator.engine import announcing, limits
from orchestrator.engine.definitions.sinks import is_stream
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import PayloadInvalid, check_payload
from orchestrator.engine.messages import WITH_ORIGIN, GiveEvent, HandleEvent, Message, Origin, OriginKind
from orchestrator.engine.model import Table
from orchestrator.engine.results import AnyResult, Code, EventPublished, Rejected
from orchestrator.engine.state import State
from orchestrator.engine.step import Step
from orchestrator.engine.triggers import correlation, outbox, streams, trail
from orchestrator.engine.triggers.actions import awaited_event, kind_of, message_of, record_of
from orchestrator.engine.triggers.event_documents import ActionKind, EventAction, ParsedHandler, validate_handler
from orchestrator.engine.triggers.rows import EventHandlerRow, EventRow, EventRun, EventRunState, EventSeen
from orchestrator.engine.triggers.trail import NOBODY, Author, Record

# The part of an origin that is a handler's beginning, not one of its actions.
BEGINNING = -1
GONE = "the handler was deleted, or is not active any more"
IS_FALSE = "the condition is false"
KEPT = "nobody waits for it yet: it is kept"
BELONGS_TO_NOTHING = "the event has no correlation id"


def handler(state: State, namespace: str, name: str) -> EventHandlerRow | None:
    return cast(EventHandlerRow | None, state.resident[Table.EVENT_HANDLER].get((namespace, name)))


def event(state: State, number: int) -> EventRow | None:
    """A published event that is not done with."""
    return cast(EventRow | None, state.resident[Table.EVENT].get((number,)))


def publish(
    step: Step,
    name: str,
    message_id: str,
    payload: bytes,
    *,
    namespace: str = "",
    trace: str = "",
    author: Author = NOBODY,
) -> EventPublished | Rejected:
    """Publishes an event, in the step of whoever does so; a refusal is a value, and has changed nothing.

    `message_id`: the same again, for the same event, does nothing for a day; "" is not compared with others. The
    namespace is that of the step's execution unless it is given.
    """
    namespace = namespace or step.x.namespace
    refused = _refusal(step.state, name, message_id, payload)
    if refused is not None:
        return refused
    seen_key = (namespace, name, message_id)
    seen = cast(EventSeen | None, step.state.resident[Table.EVENT_SEEN].get(seen_key)) if message_id else None
    if seen is not None:
        return EventPublished(seen.event_number, 0, repeated=True)
    names = step.state.triggers.handlers_of(namespace, name)
    author = trail.named_by(author, payload)
    entry = trail.event_published(step, namespace, name, message_id, author)
    belongs = (author.correlation_id, entry)
    number = _begin(step, namespace, name, message_id, payload, names, trace, belongs) if names else 0
    if message_id:
        _forget_seen(step)
        step.write(Table.EVENT_SEEN, seen_key, EventSeen(namespace, name, message_id, step.now, number))
    return EventPublished(number, len(names))


def tell_changes(step: Step) -> None:
    """Raises the events that tell what the step has changed. Nobody refuses them: it has happened."""
    told = step.told
    event = step.plan.definition.status_event
    if event and step.has_new_status:
        told = [*told, announcing.of_status(step.x, event)]
    for one in told:
        if is_stream(one.event):
            event_id = one.event_id or step.ids.make()
            outbox.owe_told(step, one, event_id)
            trail.event_told(step, one, event_id)
            continue
        names = step.state.triggers.handlers_of(step.x.namespace, one.event)
        if names:
            is_short = step.state.triggers.event_bytes + len(one.payload) > limits.EVENT_BYTES
            payload = one.about if is_short else one.payload
            # An id of its own, though nobody can say it twice: what handlers start may be told apart by it.
            event_id = step.ids.make()
            belongs = (step.x.correlation_id, trail.event_told(step, one, event_id))
            _begin(step, step.x.namespace, one.event, event_id, payload, names, step.x.trace, belongs)


def _refusal(state: State, name: str, message_id: str, payload: bytes) -> Rejected | None:
    if not 1 <= len(name) <= limits.NAME_CHARS:
        message = f"an event's name has 1 to {limits.NAME_CHARS} characters"
        return Rejected(Code.INVALID_ARGUMENT, "EVENT_NAME_INVALID", message, (("field", "event"),))
    if len(message_id) > limits.NAME_CHARS:
        message = f"a message id may have {limits.NAME_CHARS} characters"
        return Rejected(Code.INVALID_ARGUMENT, "MESSAGE_ID_TOO_LONG", message, (("field", "message_id"),))
    try:
        check_payload(payload)
    except PayloadInvalid as error:
        metadata = (("field", "payload"), ("limit", error.limit))
        return Rejected(Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", f"payload: {error}", metadata)
    waiting = len(state.resident[Table.EVENT])
    if waiting >= limits.EVENTS or state.triggers.event_bytes + len(payload) > limits.EVENT_BYTES:
        message = f"{waiting} events wait to be handled; the limits are {limits.EVENTS} and {limits.EVENT_BYTES} bytes"
        return Rejected(Code.RESOURCE_EXHAUSTED, "EVENTS_FULL", message, (("limit", "events"),))
    return None


def _begin(
    step: Step,
    namespace: str,
    name: str,
    message_id: str,
    payload: bytes,
    handlers: list[str],
    trace: str,
    belongs: tuple[str, int],
) -> int:
    """`belongs`: its correlation id, and the number of its TRAIL row."""
    meta = step.meta
    number = meta.next_event
    meta.next_event = number + 1
    undecided = []
    for each in handlers:
        row = handler(step.state, namespace, each)
        assert row is not None
        if validate_handler(row.document).condition:
            undecided.append(each)
        else:
            step.send(HandleEvent(namespace, "", Origin(OriginKind.EVENT, each, number, BEGINNING)))
    step.write(
        Table.EVENT,
        (number,),
        EventRow(
            number,
            namespace,
            name,
            message_id,
            payload,
            step.now,
            undecided=tuple(undecided),
            open=len(handlers) - len(undecided),
            trace=trace,
            correlation_id=trail.belonging(step, belongs[0]),
            trail=belongs[1],
        ),
    )
    return number


def _forget_seen(step: Step) -> None:
    """Makes room for one message id more: those go that are too old, or one that is in excess."""
    rows = step.state.resident[Table.EVENT_SEEN]
    for _ in range(2):
        oldest = step.state.triggers.oldest_seen()
        if oldest is None:
            return
        if len(rows) < limits.EVENTS_SEEN and oldest.seen_ms + limits.EVENT_SEEN_MS > step.now:
            return
        step.write(Table.EVENT_SEEN, (oldest.namespace, oldest.event, oldest.message_id), None)


# --- handlers


def decide(step: Step, row: EventRow, name: str, parsed: ParsedHandler | None, *, holds: bool, error: str) -> None:
    """The condition of a handler was evaluated, or the handler has gone."""
    row = replace(row, undecided=tuple(each for each in row.undecided if each != name))
    if parsed is None:
        _record(step, row, name, "", 0, EventRunState.SKIPPED, reason=GONE)
    elif error:
        _record(step, row, name, "", 0, EventRunState.FAILED, reason=error)
    elif not holds:
        _record(step, row, name, "", 0, EventRunState.SKIPPED, reason=IS_FALSE)
    else:
        row = _act(step, row, parsed)
    _put(step, row)


def begin_handler(step: Step, message: HandleEvent) -> None:
    """A handler without a condition begins."""
    row = event(step.state, message.origin.number)
    if row is None:
        return
    name = message.origin.name
    row = replace(row, open=row.open - 1)
    parsed = active_handler(step.state, row, name)
    if parsed is not None and parsed.condition:
        # It was given one in between.
        _put(step, replace(row, undecided=(*row.undecided, name)))
    else:
        decide(step, row, name, parsed, holds=True, error="")


def active_handler(state: State, row: EventRow, name: str) -> ParsedHandler | None:
    """The handler as it is now; None if it does not handle the event any more."""
    kept = handler(state, row.namespace, name)
    parsed = None if kept is None else validate_handler(kept.document)
    return parsed if parsed is not None and parsed.active and parsed.event == row.event else None


def _act(step: Step, row: EventRow, parsed: ParsedHandler) -> EventRow:
    for position, action in enumerate(parsed.actions):
        origin = Origin(OriginKind.EVENT, parsed.name, row.number, position)
        try:
            if action.kind is ActionKind.RECORD:
                row = _note(step, row, parsed.name, position, record_of(row, action))
                continue
            is_sent = _send(step, row, action, origin)
        except (PayloadInvalid, LimitExceeded) as error:
            _record(step, row, parsed.name, action.kind, position, EventRunState.FAILED, reason=str(error))
            continue
        if is_sent:
            row = replace(row, open=row.open + 1)
        else:
            _record(step, row, parsed.name, action.kind, position, EventRunState.COMPLETED, reason=KEPT)
    return row


def _send(step: Step, row: EventRow, action: EventAction, origin: Origin) -> bool:
    """Sends the message that does the action; False if there is none to be sent, and it is done."""
    if action.kind is ActionKind.CORRELATE:
        return correlation.give(step, awaited_event(step, row, action), origin)
    step.send(message_of(step, row, action, origin))
    return True


def _note(step: Step, row: EventRow, name: str, position: int, said: Record) -> EventRow:
    noted = trail.record(step, row, said)
    if noted is None:
        _record(step, row, name, ActionKind.RECORD, position, EventRunState.SKIPPED, reason=BELONGS_TO_NOTHING)
        return row
    _record(step, row, name, ActionKind.RECORD, position, EventRunState.COMPLETED)
    return noted


def done(step: Step, message: Message, result: AnyResult) -> None:
    """What came of an action, or of a handler that could not even begin."""
    assert isinstance(message, WITH_ORIGIN)
    origin = message.origin
    row = event(step.state, origin.number)
    if row is None:
        return
    row = replace(row, open=row.open - 1)
    refused = result if isinstance(result, Rejected) else None
    is_kept = isinstance(message, GiveEvent) and not message.workflow_id
    if origin.part != BEGINNING or refused is not None:
        _record(
            step,
            row,
            origin.name,
            kind_of(message),
            max(origin.part, 0),
            EventRunState.COMPLETED if refused is None else EventRunState.FAILED,
            message=message,
            reason=refused.message if refused is not None else KEPT if is_kept else "",
        )
    _put(step, row)


def _put(step: Step, row: EventRow) -> None:
    is_done = row.open == 0 and not row.undecided
    step.write(Table.EVENT, (row.number,), None if is_done else row)


def _record(
    step: Step,
    row: EventRow,
    name: str,
    action: str,
    position: int,
    state: EventRunState,
    *,
    message: Message | None = None,
    reason: str = "",
) -> None:
    meta = step.meta
    number = meta.next_event_run
    meta.next_event_run = number + 1
    entry = EventRun(
        number,
        row.namespace,
        row.event,
        row.number,
        row.message_id,
        name,
        action,
        position,
        state,
        row.published_ms,
        step.now,
        workflow_id="" if message is None else message.workflow_id,
        reason=reason[: limits.REASON_CHARS],
    )
    step.write(Table.EVENT_RUN, (number,), entry)
    if (number - limits.EVENT_RUNS_KEPT,) in step.state.resident[Table.EVENT_RUN]:
        step.write(Table.EVENT_RUN, (number - limits.EVENT_RUNS_KEPT,), None)
    if state is EventRunState.FAILED:
        streams.failed(step, row, name, position, entry.reason)
    if state is not EventRunState.SKIPPED and action != ActionKind.RECORD:
        failed = state is EventRunState.FAILED
        trail.action_done(step, row, name, action, message, failed=failed, reason=reason)
