"""Tasks that are only known while a workflow runs: checked by the rules of definitions, and compiled like them.

An expansion's document has the tasks in their JSON shape, and the task definitions that they name as they were
registered when it was made. ``write_*`` makes the documents and raises DefinitionError; what was made compiles.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from orchestrator.engine.behaviour import HIGHEST
from orchestrator.engine.definitions.additions import check_references
from orchestrator.engine.definitions.compile import Compiler
from orchestrator.engine.definitions.elements import Element, ElementReader, check_events, subtree, used_schemas
from orchestrator.engine.definitions.errors import DefinitionError, DefinitionInvalid, quoted
from orchestrator.engine.definitions.exclusive import check_exclusive_joins
from orchestrator.engine.definitions.model import TaskNode, TaskType
from orchestrator.engine.definitions.parse import announcements_of, read_inputs, secrets_at, validate_task
from orchestrator.engine.definitions.schemas import SchemaTexts, gather, used_by_task
from orchestrator.engine.expressions import (
    assemble_array,
    assemble_object,
    compact,
    dump_string,
    elements_of,
    fields_of,
    text_of,
)
from orchestrator.engine.expressions.secret_names import UNREGISTERED

_HERE = "task"
_TASKS = "tasks"
# Tasks that need nothing but an input, so that a DYNAMIC can become one.
BODY_TYPES = frozenset(("HTTP", "GRPC", "JSON_JQ_TRANSFORM", "HUMAN", "NOOP"))


def _read(tasks: list[bytes], path: str, level: int = HIGHEST) -> list[Element]:
    reader = ElementReader(level)
    return [reader.sequence([compact(task)], f"{path}[{position}]")[0] for position, task in enumerate(tasks)]


def _named(elements: list[Element], registered: Mapping[str, bytes], schemas: SchemaTexts) -> list[tuple[str, bytes]]:
    """The registered task definitions that the elements name, and the schemas that are named there."""
    names: dict[str, None] = {}
    for element in subtree(tuple(elements)):
        for one in (element, element.compensation):
            if one is not None and one.definition is None:
                names[one.name] = None
    found = [(name, validate_task(registered[name])) for name in names if name in registered]
    uses = used_schemas(tuple(elements))
    for name, task in found:
        uses += used_by_task(name, task.definition.schemas)
    fields = [("definitions", assemble_object([(name, task.document) for name, task in found]))]
    return [*fields, ("schemas", gather(uses, schemas))] if uses else fields


def _compile(elements: list[Element], fields: Mapping[str, bytes], loops: int) -> dict[str, TaskNode]:
    """`fields`: with what `_named` found."""
    check_exclusive_joins(tuple(elements))
    everything = subtree(tuple(elements))
    tasks = {name: validate_task(raw).definition for name, raw in fields_of(fields["definitions"]).items()}
    told = announcements_of(everything, None)
    inputs = read_inputs(everything, None, UNREGISTERED)
    # Data says what is done here, and data must not choose who gets a secret.
    named_at = secrets_at(everything, inputs)
    if named_at:
        raise DefinitionInvalid(named_at, UNREGISTERED)
    # Sub-workflows in it are those that are newest when they begin.
    compiler = Compiler(inputs, None, tasks, fields.get("schemas", b"{}"), told, {})
    for branch, element in enumerate(elements):
        compiler.sequence((element,), None, branch, loops)
    return compiler.nodes


# --- a dynamic fork of given tasks


def write_forked(
    tasks: list[bytes],
    path: str,
    workflow: str,
    registered: Mapping[str, bytes],
    schemas: SchemaTexts,
    loops: int,
    level: int = HIGHEST,
) -> tuple[bytes, dict[str, TaskNode]]:
    """(document, what it compiles to).

    `path`: what the tasks are called where they were given; `workflow`: the name of the definition whose tasks they
    are; `loops`: how many are around the fork; `level`: by whose rules they are read.
    """

    def written(called: str) -> tuple[bytes, dict[str, TaskNode]]:
        elements = _read(tasks, called, level)
        check_events(workflow, subtree(tuple(elements)))
        check_references(tuple(elements), level)
        document = assemble_object(
            [(_TASKS, assemble_array([compact(task) for task in tasks])), *_named(elements, registered, schemas)]
        )
        return document, _compile(elements, fields_of(document), loops)

    try:
        return written(_TASKS)
    except DefinitionError:
        return written(path)


def compile_forked(document: bytes, loops: int) -> dict[str, TaskNode]:
    fields = fields_of(document)
    elements = _read(elements_of(fields[_TASKS]), _TASKS)
    return _compile(elements, fields, loops)


# --- a dynamic fork of one task for each of its inputs


def write_spread(
    task: bytes, prefix: str, registered: Mapping[str, bytes], schemas: SchemaTexts, level: int = HIGHEST
) -> bytes:
    """`task`: without a reference. Each of them will be called by the prefix and its number."""
    named = assemble_object([*fields_of(task).items(), ("taskReferenceName", dump_string(prefix + "0"))])
    elements = _read([named], _HERE, level)
    return assemble_object(
        [("task", compact(named)), ("prefix", dump_string(prefix)), *_named(elements, registered, schemas)]
    )


def compile_spread(document: bytes, loops: int) -> tuple[TaskNode, str]:
    """(the task, the beginning of the references)"""
    fields = fields_of(document)
    elements = _read([fields["task"]], _HERE)
    nodes = _compile(elements, fields, loops)
    return nodes[elements[0].reference], text_of(fields["prefix"])


# --- what a DYNAMIC becomes


def write_body(name: str, registered: Mapping[str, bytes], schemas: SchemaTexts) -> bytes:
    if not name or name == "null":
        raise DefinitionInvalid("", "the input does not say which task a DYNAMIC is")
    if name not in BODY_TYPES and name not in registered:
        raise DefinitionInvalid("", f"no task definition is called {quoted(name)}: a DYNAMIC can't become it")
    fields = [("name", dump_string(name))]
    if name in registered:
        task = validate_task(registered[name])
        fields.append(("definition", task.document))
        uses = used_by_task(name, task.definition.schemas)
        if uses:
            fields.append(("schemas", gather(uses, schemas)))
    return assemble_object(fields)


def compile_body(document: bytes, node: TaskNode) -> TaskNode:
    """`node`: the DYNAMIC in whose place it is done."""
    fields = fields_of(document)
    name = text_of(fields["name"])
    task = assemble_object(
        [
            ("name", dump_string(name)),
            ("taskReferenceName", dump_string(node.reference)),
            ("type", dump_string(name if name in BODY_TYPES else TaskType.SIMPLE.value)),
            # Only to be read: the input is the DYNAMIC's own.
            ("inputParameters", b'{"uri":"","service":"","queryExpression":""}'),
        ]
    )
    definitions = assemble_object([(name, fields["definition"])] if "definition" in fields else [])
    found = fields_of(assemble_object([("definitions", definitions), ("schemas", fields.get("schemas", b"{}"))]))
    body = _compile(_read([task], _HERE), found, node.loops)[node.reference]
    retry = body.retry
    if not node.retry.forgives_losses:
        # It says how often it is tried itself.
        retry = replace(retry, count=node.retry.count, forgives_losses=False)
    return replace(
        body,
        path=node.path,
        input=node.input,
        retry=retry,
        start_delay_ms=node.start_delay_ms,
        optional=node.optional,
        permissive=node.permissive,
        pivot=node.pivot,
        next=node.next,
        parent=node.parent,
        branch=node.branch,
        announcements=node.announcements,
    )
