"""The document of an event handler: read, checked against every rule, and kept as it was given.

The shape is Conductor's, and so is the default: a handler that does not say that it is active is not.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

import msgspec

from orchestrator.engine import limits
from orchestrator.engine.behaviour import HIGHEST, LOWEST, STREAMS
from orchestrator.engine.definitions.errors import quoted
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.expressions.payload_templates import check_payload_template
from orchestrator.engine.triggers.schedule_documents import json_document, read_domains

EXPRESSION_CHARS = 10_000
_KNOWN = "name event condition evaluatorType actions active".split()
_FOR_READERS = "description createTime updateTime createdBy updatedBy ownerApp".split()
_EVALUATORS = frozenset(("", "javascript", "graaljs"))
_EVALUATORS_UNBUILT = frozenset(("python", "value-param"))
_REMEMBERED = 256


class ActionKind(StrEnum):
    START_WORKFLOW = "start_workflow"
    COMPLETE_TASK = "complete_task"
    FAIL_TASK = "fail_task"
    TERMINATE_WORKFLOW = "terminate_workflow"
    UPDATE_WORKFLOW_VARIABLES = "update_workflow_variables"
    SIGNAL = "signal"
    CORRELATE = "correlate"
    RECORD = "record"


_TASK = "workflowId taskRefName taskId output".split()
_RECORD = "correlationId service event".split()
_PARAMETERS = {
    ActionKind.START_WORKFLOW: "name version correlationId input taskToDomain priority".split(),
    ActionKind.COMPLETE_TASK: _TASK,
    ActionKind.FAIL_TASK: [*_TASK, "reasonForIncompletion"],
    ActionKind.TERMINATE_WORKFLOW: "workflowId terminationReason".split(),
    ActionKind.UPDATE_WORKFLOW_VARIABLES: "workflowId variables appendArray".split(),
    ActionKind.SIGNAL: "workflowId signal payload".split(),
    ActionKind.CORRELATE: "event correlationKey output".split(),
    ActionKind.RECORD: _RECORD,
}
_SINCE = {ActionKind.SIGNAL: STREAMS, ActionKind.CORRELATE: STREAMS, ActionKind.RECORD: STREAMS}
_UNBUILT = {
    ActionKind.START_WORKFLOW: ["inputMessage"],
    ActionKind.COMPLETE_TASK: ["outputMessage"],
    ActionKind.FAIL_TASK: ["outputMessage"],
}


class EventAction(msgspec.Struct, frozen=True):
    """What a handler does with an event. Strings of the parameters may hold `${...}` over the payload."""

    kind: ActionKind
    parameters: bytes
    expand: bool  # strings of the payload that are JSON count as what they say
    version: int = 0
    priority: int = 0
    append: bool = False


class ParsedHandler(msgspec.Struct, frozen=True):
    """A handler that keeps the rules."""

    name: str
    document: bytes  # without white space, otherwise as it was given
    event: str
    active: bool
    condition: str  # JavaScript over the payload, `$`; "": it always holds
    actions: tuple[EventAction, ...]


def validate_handler(document: bytes, level: int = HIGHEST) -> ParsedHandler:
    """By the rules of a behaviour level; what was accepted once is by those of each later one.

    Raises DefinitionInvalid or DefinitionUnimplemented.
    """
    return _remembered(document, level)


def _validated(document: bytes, level: int) -> ParsedHandler:
    text = json_document(document, limits.EVENT_HANDLER_DOCUMENT_BYTES)
    fields = Fields(text, "", (*_KNOWN, *_FOR_READERS))
    items = fields.items("actions")
    if not 1 <= len(items) <= limits.EVENT_ACTIONS:
        raise fields.invalid("actions", f"there must be 1 to {limits.EVENT_ACTIONS} of them")
    evaluator = fields.text("evaluatorType")
    if evaluator in _EVALUATORS_UNBUILT:
        raise fields.unimplemented("evaluatorType")
    if evaluator not in _EVALUATORS:
        raise fields.invalid("evaluatorType", "it must be javascript")
    condition = fields.text("condition").strip(" \t\r\n")
    if len(condition) > EXPRESSION_CHARS:
        raise fields.invalid("condition", f"it may have {EXPRESSION_CHARS} characters")
    return ParsedHandler(
        name=fields.name("name"),
        document=text,
        event=fields.name("event"),
        active=fields.flag("active"),
        condition=condition,
        actions=tuple(_action(item, f"actions[{position}]", level) for position, item in enumerate(items)),
    )


_remembered = lru_cache(_REMEMBERED)(_validated)


def _action(raw: bytes, path: str, level: int) -> EventAction:
    kinds = [kind for kind in ActionKind if level >= _SINCE.get(kind, LOWEST)]
    fields = Fields(raw, path, ("action", "expandInlineJSON", *kinds))
    kind = _kind(fields, kinds)
    for other in kinds:
        if other is not kind and fields.is_set(other):
            raise fields.invalid(other, f"the action is {kind.value}")
    own = Fields(fields.object(kind), fields.at(kind), _PARAMETERS[kind], _UNBUILT.get(kind, ()))
    if kind is ActionKind.START_WORKFLOW:
        own.name("name")
        own.object("input")
        own.text("correlationId")
        read_domains(own, "taskToDomain")
    elif kind is ActionKind.RECORD:
        for key in _RECORD:
            own.text(key)
    else:
        _check_target(own, kind)
    parameters = fields.object(kind)
    check_payload_template(parameters, own.path)
    return EventAction(
        kind,
        parameters,
        expand=fields.flag("expandInlineJSON"),
        version=own.integer("version", 0),
        priority=own.integer("priority", 0, most=limits.PRIORITY),
        append=own.flag("appendArray"),
    )


def _kind(fields: Fields, kinds: list[ActionKind]) -> ActionKind:
    names = ", ".join(kind.value for kind in kinds)
    if not fields.has("action"):
        raise fields.invalid("action", f"it is missing: one of {names}")
    text = fields.text("action")
    for kind in kinds:
        if kind.value == text:
            return kind
    raise fields.invalid("action", f"{quoted(text)} is none of {names}")


def _check_target(own: Fields, kind: ActionKind) -> None:
    if kind is ActionKind.CORRELATE:
        _check_correlate(own)
        return
    own.name("workflowId")
    if kind in (ActionKind.COMPLETE_TASK, ActionKind.FAIL_TASK):
        if not own.text("taskRefName") and not own.text("taskId"):
            raise own.invalid("taskRefName", "it is missing, and so is taskId")
        own.object("output")
        own.text("reasonForIncompletion")
    elif kind is ActionKind.TERMINATE_WORKFLOW:
        own.text("terminationReason")
    elif kind is ActionKind.SIGNAL:
        own.name("signal")
        own.object("payload")
    else:
        own.object("variables")


def _check_correlate(own: Fields) -> None:
    own.name("correlationKey")
    if own.has("event"):
        own.name("event")
    own.object("output")
