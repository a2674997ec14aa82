"""Whole documents: read, checked against every rule, and kept as they were given.

What passes here can be compiled and started; what is not built is refused at its path, and nothing is ignored.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from orchestrator.engine.behaviour import HIGHEST, STREAMS
from orchestrator.engine.definitions.elements import Element, ElementReader, check_events, subtree
from orchestrator.engine.definitions.errors import DefinitionError, DefinitionInvalid, DefinitionUnimplemented
from orchestrator.engine.definitions.exclusive import check_exclusive_joins
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.definitions.masks import read_masks
from orchestrator.engine.definitions.model import WORKED, Announcements, CompensationOrder, RateLimit, TimeoutPolicy
from orchestrator.engine.definitions.rate_limit import read_rate_limit
from orchestrator.engine.definitions.schemas import NO_SCHEMAS, Schemas, read_schemas
from orchestrator.engine.definitions.scripts import spare
from orchestrator.engine.definitions.sinks import (
    compile_announcements,
    is_expression,
    read_status_sink,
    read_task_status_sink,
)
from orchestrator.engine.definitions.tasks import TaskDefinition, read_task
from orchestrator.engine.expressions import (
    JsonInvalid,
    Template,
    assemble_object,
    check_json,
    compact,
    dump_string,
    merge_objects,
    parse_template,
)
from orchestrator.engine.expressions.secret_names import NOT_HERE, UNREGISTERED

__all__ = [
    "DOCUMENT_BYTES_MAX",
    "DefinitionError",
    "DefinitionInvalid",
    "DefinitionUnimplemented",
    "ParsedTask",
    "ParsedWorkflow",
    "validate_task",
    "validate_unregistered",
    "validate_workflow",
]

DOCUMENT_BYTES_MAX = 1024 * 1024
_REMEMBERED_DOCUMENTS = 256
_REMEMBERED_BYTES_MAX = 16 * 1024

_KNOWN_AT_FIRST = (
    "name version tasks outputParameters schemaVersion timeoutPolicy timeoutSeconds variables inputTemplate"
    " inputSchema outputSchema enforceSchema compensationOrder compensationGraceSeconds rateLimitConfig"
    " retentionSeconds retentionCount maskedFields restartable failureWorkflow failureWorkflowVersion"
    # For readers only.
    " description inputParameters ownerApp ownerEmail metadata createTime updateTime createdBy updatedBy"
    # Who is told of its statuses.
    " workflowStatusListenerEnabled workflowStatusListenerSink"
).split()
_KNOWN = [*_KNOWN_AT_FIRST, "taskStatusListenerSink"]
_UNBUILT = ["cacheConfig"]


class ParsedTask(msgspec.Struct, frozen=True):
    """A task definition that keeps the rules."""

    name: str
    definition: TaskDefinition
    document: bytes  # without white space, otherwise as it was given


class ParsedWorkflow(msgspec.Struct, frozen=True):
    """A workflow definition that keeps the rules."""

    name: str
    version: int
    document: bytes  # without white space, otherwise as it was given
    elements: tuple[Element, ...]
    task_names: tuple[str, ...]  # sorted: the task definitions that it takes from the registry, if they are there
    references: frozenset[str]  # of the tasks, compensations not included
    inputs: dict[str, Template]  # by the reference names of tasks and compensations
    output: Template | None
    input_template: dict[str, bytes]
    variables: bytes
    timeout_ms: int
    timeout_policy: TimeoutPolicy
    compensation_order: CompensationOrder
    compensation_grace_ms: int
    retention_ms: int
    retention_count: int
    restartable: bool
    failure_workflow: Template | None
    failure_version: int
    rate_limit: RateLimit | None = None
    masked_fields: tuple[str, ...] = ()
    schemas: Schemas = NO_SCHEMAS
    announcements: dict[str, Announcements] = {}  # by the reference names of tasks and compensations
    status_event: str = ""
    task_event: str = ""
    secrets_at: str = ""  # the first place that names secrets, or values of runtimeMetadata; "": none does


def validate_task(document: bytes) -> ParsedTask:
    """Raises DefinitionInvalid or DefinitionUnimplemented."""
    text = _json(document)
    definition = read_task(text, "")
    return ParsedTask(definition.name, definition, text)


def validate_workflow(document: bytes, level: int = HIGHEST) -> ParsedWorkflow:
    """By the rules of a behaviour level; what was accepted once is by those of each later one.

    Raises DefinitionInvalid or DefinitionUnimplemented.
    """
    # The same text comes again: at the door, when it is registered, started, and compiled.
    return (_remembered if len(document) <= _REMEMBERED_BYTES_MAX else _validated)(document, level)


def validate_unregistered(document: bytes, level: int = HIGHEST) -> ParsedWorkflow:
    """As `validate_workflow`, of what is run as it is given: whoever may do that need not be one who may register
    definitions, and so use secrets."""
    workflow = validate_workflow(document, level)
    if workflow.secrets_at:
        raise DefinitionInvalid(workflow.secrets_at, UNREGISTERED)
    return workflow


def _validated(document: bytes, level: int) -> ParsedWorkflow:
    text = _json(document)
    fields = Fields(text, "", _KNOWN if level >= STREAMS else _KNOWN_AT_FIRST, _UNBUILT)
    name = fields.name("name")
    if ":" in name:
        raise fields.invalid("name", "a workflow's name can't have a ':'")
    if fields.integer("schemaVersion", 2) != 2:
        raise fields.invalid("schemaVersion", "it must be 2")
    _check_for_readers(fields)
    if fields.text("timeoutPolicy") == TimeoutPolicy.RETRY:
        raise fields.invalid("timeoutPolicy", "a workflow's is ALERT_ONLY or TIME_OUT_WF")
    items = fields.items("tasks")
    if not items:
        raise fields.invalid("tasks", "a workflow needs a task")
    elements = ElementReader(level).sequence(items, "tasks")
    check_exclusive_joins(elements)
    everything = subtree(elements)
    check_events(name, everything)
    references = frozenset(element.reference for element in everything)
    # What a dynamic fork will make can be referred to, and nobody knows its names.
    names = None if any(element.dynamic_fork is not None for element in everything) else references
    output = parse_template(fields.object("outputParameters"), "outputParameters", names)
    inputs = read_inputs(everything, names)
    return ParsedWorkflow(
        name=name,
        version=fields.integer("version", 1, least=1),
        document=text,
        elements=elements,
        task_names=_task_names(everything),
        references=references,
        inputs=inputs,
        output=output if fields.is_set("outputParameters") else None,
        input_template=dict(fields.mapping("inputTemplate")),
        variables=fields.object("variables"),
        timeout_ms=fields.seconds("timeoutSeconds", 0),
        timeout_policy=fields.choice("timeoutPolicy", TimeoutPolicy, TimeoutPolicy.ALERT_ONLY),
        compensation_order=fields.choice("compensationOrder", CompensationOrder, CompensationOrder.REVERSE),
        compensation_grace_ms=fields.seconds("compensationGraceSeconds", 30_000),
        retention_ms=fields.seconds("retentionSeconds", 0),
        retention_count=fields.integer("retentionCount", 0),
        restartable=fields.flag("restartable", True),
        failure_workflow=_read_failure_workflow(fields, names),
        failure_version=fields.integer("failureWorkflowVersion", 0),
        rate_limit=read_rate_limit(fields),
        masked_fields=read_masks(fields),
        schemas=read_schemas(fields, enforced=True),
        announcements=announcements_of(everything, names),
        status_event=read_status_sink(fields, name, level),
        task_event=read_task_status_sink(fields, name, level),
        secrets_at=secrets_at(everything, inputs),
    )


_remembered = lru_cache(_REMEMBERED_DOCUMENTS)(_validated)


def _json(document: bytes) -> bytes:
    if len(document) > DOCUMENT_BYTES_MAX:
        raise DefinitionInvalid("", f"a definition may have {DOCUMENT_BYTES_MAX} bytes")
    try:
        check_json(document)
    except JsonInvalid as error:
        raise DefinitionInvalid("", str(error)) from None
    return compact(document)


def _read_failure_workflow(fields: Fields, names: frozenset[str] | None) -> Template | None:
    """A name, or an expression that gives one; also without braces, as in `$workflow.input.x`."""
    name = fields.text("failureWorkflow")
    if not name:
        return None
    if name.startswith("$") and not name.startswith("${"):
        name = "${" + name[1:] + "}"
    return parse_template(dump_string(name), "failureWorkflow", names)


def _check_for_readers(fields: Fields) -> None:
    for key in ("description", "ownerApp", "ownerEmail", "createdBy", "updatedBy"):
        fields.text(key)
    fields.items("inputParameters")


def _task_names(elements: list[Element]) -> tuple[str, ...]:
    names = set()
    for element in elements:
        for named in (element, element.compensation):
            if named is not None and named.definition is None:
                names.add(named.name)
    return tuple(sorted(names))


def read_inputs(
    elements: list[Element], names: frozenset[str] | None, no_secrets: str = ""
) -> dict[str, Template]:
    """The templates of the elements and of their compensations, by reference.

    `names`: the references that exist; `no_secrets`: why none of them may name secrets.
    """
    inputs = {}
    known = frozenset(element.reference for element in elements)
    for element in elements:
        given = element.input
        if element.script is not None and element.script.in_input:
            script = spare(element.script.expression, known, may_be_others=names is None)
            given = merge_objects(given, assemble_object([(element.script.key, dump_string(script))]))
        inputs[element.reference] = parse_template(
            given, element.input_path, names, no_secrets=_no_secrets(element, no_secrets)
        )
        if is_expression(element.sink):
            # Whether it can be resolved; the compiler makes what it is resolved by.
            parse_template(dump_string(element.sink), f"{element.path}.sink", names)
        undo = element.compensation
        if undo is not None:
            inputs[undo.reference] = parse_template(
                undo.input, undo.input_path, names, step=True, no_secrets=_no_secrets(undo, no_secrets)
            )
    return inputs


def _no_secrets(element: Element, why: str) -> str:
    """Of any other type the value would be kept: in variables, in what is started, in an answer."""
    return why if why or element.type in WORKED else NOT_HERE


def secrets_at(elements: list[Element], inputs: dict[str, Template]) -> str:
    """The path of the first place that names secrets, or values of runtimeMetadata; "" if there is none."""
    for element in elements:
        for one in (element, element.compensation):
            if one is not None and inputs[one.reference].names_secrets:
                return one.input_path
            if one is not None and one.definition is not None and one.definition.runtime_metadata:
                return f"{one.path}.taskDefinition.runtimeMetadata"
    return ""


def announcements_of(elements: list[Element], names: frozenset[str] | None) -> dict[str, Announcements]:
    """By reference; those of tasks that announce nothing are left out. `names`: the references that exist."""
    found = {}
    for element in elements:
        if element.announced:
            found[element.reference] = compile_announcements(element.announced, names)
        undo = element.compensation
        if undo is not None and undo.announced:
            found[undo.reference] = compile_announcements(undo.announced, names, step=True)
    return found
