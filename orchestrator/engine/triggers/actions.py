"""From an action of an event handler to the message that does it: its `${...}` filled from the event's payload."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.engine import behaviour, limits
from orchestrator.engine.awaiting import subject_of
from orchestrator.engine.blobs import KEY, has_reserved_key
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import (
    NULL,
    PAYLOAD_BYTES_MAX,
    assemble_object,
    check_payload,
    dump_string,
    fields_of,
    is_null,
    merge_objects,
    text_of,
)
from orchestrator.engine.expressions.payload_templates import expand_inline, fill
from orchestrator.engine.messages import (
    FinishTask,
    GiveEvent,
    Message,
    Origin,
    SignalExecution,
    StartExecution,
    TerminateExecution,
    UpdateVariables,
)
from orchestrator.engine.model import TaskStatus
from orchestrator.engine.step import Step
from orchestrator.engine.triggers.event_documents import ActionKind, EventAction
from orchestrator.engine.triggers.rows import EventRow, KeptEvent
from orchestrator.engine.triggers.trail import EVENT_NAME, MESSAGE_ID, Record

_Fields = Mapping[str, bytes]


def message_of(step: Step, row: EventRow, action: EventAction, origin: Origin) -> Message:
    """Of any action but one that is for whoever waits for it.

    Raises PayloadInvalid or LimitExceeded for parameters that can't be sent.
    """
    payload, fields = _filled(row, action)
    _refuse_reserved(step, payload, action)
    if action.kind is ActionKind.START_WORKFLOW:
        return _start(step, row, action, fields, payload, origin)
    workflow_id = _text(fields, "workflowId")
    if not workflow_id:
        raise LimitExceeded("workflowId is empty")
    if action.kind is ActionKind.TERMINATE_WORKFLOW:
        reason = _text(fields, "terminationReason") or f"terminated by event {row.event}"
        return TerminateExecution(row.namespace, workflow_id, reason[: limits.REASON_CHARS], origin)
    if action.kind is ActionKind.UPDATE_WORKFLOW_VARIABLES:
        variables = _object(fields, "variables")
        return UpdateVariables(row.namespace, workflow_id, variables, action.append, origin)
    if action.kind is ActionKind.SIGNAL:
        given = _with_event(row, _object(fields, "payload"))
        return SignalExecution(row.namespace, workflow_id, _text(fields, "signal"), given, origin)
    failed = action.kind is ActionKind.FAIL_TASK
    return FinishTask(
        row.namespace,
        workflow_id,
        _text(fields, "taskId"),
        _text(fields, "taskRefName"),
        TaskStatus.FAILED if failed else TaskStatus.COMPLETED,
        _task_output(row, fields),
        (_text(fields, "reasonForIncompletion") or f"failed by event {row.event}") if failed else "",
        origin,
    )


def awaited_event(step: Step, row: EventRow, action: EventAction) -> KeptEvent:
    """What an action `correlate` gives to whoever waits for it. Raises as `message_of` does."""
    payload, fields = _filled(row, action)
    _refuse_reserved(step, payload, action)
    # The event itself unless it says otherwise, even if what it says comes to nothing.
    is_named = not is_null(fields_of(action.parameters).get("event", NULL))
    event = fields["event"] if is_named else dump_string(row.event)
    subject = subject_of(row.namespace, event, fields.get("correlationKey", NULL))
    given = payload if is_null(fields.get("output", NULL)) else _object(fields, "output")
    return KeptEvent(step.ready_number(), *subject, _with_event(row, given), step.now)


def _filled(row: EventRow, action: EventAction) -> tuple[bytes, _Fields]:
    """(the payload as the action reads it, its parameters)"""
    payload = expand_inline(row.payload) if action.expand else row.payload
    return payload, fields_of(fill(action.parameters, payload))


def _refuse_reserved(step: Step, payload: bytes, action: EventAction) -> None:
    """Texts in an event may have become values, and parameters may be older than the reserved key."""
    if step.level >= behaviour.STREAMS and (has_reserved_key(payload) or has_reserved_key(action.parameters)):
        raise LimitExceeded(f"the key {KEY!r} is reserved")


def record_of(row: EventRow, action: EventAction) -> Record:
    """Raises LimitExceeded for parameters that can't be kept."""
    _, fields = _filled(row, action)
    said = Record(*(_text(fields, key) for key in ("correlationId", "service", "event")))
    for key, text in zip(("correlationId", "service", "event"), said, strict=True):
        if len(text) > limits.NAME_CHARS:
            raise LimitExceeded(f"{key} has more than {limits.NAME_CHARS} characters")
    return said


def kind_of(message: Message) -> str:
    """The kind of action that the message does; "" for a handler that begins."""
    match message:
        case StartExecution():
            return ActionKind.START_WORKFLOW.value
        case FinishTask(status=TaskStatus.COMPLETED):
            return ActionKind.COMPLETE_TASK.value
        case FinishTask():
            return ActionKind.FAIL_TASK.value
        case TerminateExecution():
            return ActionKind.TERMINATE_WORKFLOW.value
        case UpdateVariables():
            return ActionKind.UPDATE_WORKFLOW_VARIABLES.value
        case SignalExecution():
            return ActionKind.SIGNAL.value
        case GiveEvent():
            return ActionKind.CORRELATE.value
        case _:
            return ""


def _start(
    step: Step, row: EventRow, action: EventAction, fields: _Fields, payload: bytes, origin: Origin
) -> StartExecution:
    given = _with_event(row, _object(fields, "input"))
    # Those of the event where the action names none: an EVENT task publishes those of its workflow.
    key = "taskToDomain"
    named = _object(fields, key) if key in fields else fields_of(payload).get(key, NULL)
    domains = fields_of(named)
    return StartExecution(
        namespace=row.namespace,
        workflow_id=step.ids.make(),
        name=_text(fields, "name"),
        version=action.version,
        input=given,
        correlation_id=_text(fields, "correlationId") if "correlationId" in fields else row.correlation_id,
        priority=action.priority,
        task_to_domain=tuple(sorted((name, text_of(one)) for name, one in domains.items() if one[:1] == b'"')),
        created_by=origin.name,
        origin=origin,
        trace=row.trace,
    )


def _task_output(row: EventRow, fields: _Fields) -> bytes:
    """The output that is given, with what the task was found by and the event, as in Conductor."""
    keys = ("workflowId", "taskId", "taskRefName", "reasonForIncompletion")
    target = [(key, fields.get(key, NULL)) for key in keys]
    return _with_event(row, merge_objects(assemble_object(target), _object(fields, "output")))


def _with_event(row: EventRow, given: bytes) -> bytes:
    """What is given, and which event it is of. Raises PayloadInvalid."""
    event = [
        (MESSAGE_ID, dump_string(row.message_id)),
        (EVENT_NAME, dump_string(row.event)),
    ]
    made = merge_objects(given, assemble_object(event))
    check_payload(made)
    return made


def _text(fields: _Fields, key: str) -> str:
    """A field as text; "" for none. Longer than any name may be, it names nothing."""
    raw = fields.get(key, NULL)
    text = "" if is_null(raw) else text_of(raw)
    if len(text) > limits.REASON_CHARS:
        raise LimitExceeded(f"{key} has more than {limits.REASON_CHARS} characters")
    return text


def _object(fields: _Fields, key: str) -> bytes:
    raw = fields.get(key, NULL)
    if is_null(raw):
        return b"{}"
    if raw[:1] != b"{" or len(raw) > PAYLOAD_BYTES_MAX:
        raise LimitExceeded(f"{key} is no object of at most {PAYLOAD_BYTES_MAX} bytes")
    return raw
