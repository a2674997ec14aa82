"""Expanding: what a DYNAMIC becomes and what a dynamic fork forks is read from their inputs, checked, and kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from orchestrator.engine import blob_uses, limits, places
from orchestrator.engine.definitions.errors import DefinitionInvalid, quoted
from orchestrator.engine.definitions.expansion import write_body, write_forked, write_spread
from orchestrator.engine.definitions.model import DynamicFork, TaskNode, TaskType
from orchestrator.engine.execution_state import instance_of
from orchestrator.engine.expressions import (
    assemble_array,
    assemble_object,
    dump_string,
    elements_of,
    fields_of,
    is_json_object,
    is_null,
    text_of,
)
from orchestrator.engine.model import Expansion, ExpansionKind, Payload, Table, TaskAttempt
from orchestrator.engine.payloads import store
from orchestrator.engine.plan import TaskDocuments
from orchestrator.engine.schema_texts import SchemaDocuments
from orchestrator.engine.step import Step

_Fields = dict[str, bytes]


def name_body(step: Step, attempt: TaskAttempt, name: str) -> TaskAttempt:
    """The DYNAMIC is this task from now on. Raises DefinitionError, LimitExceeded."""
    document = write_body(name, *_registered(step))
    return _keep(step, attempt, ExpansionKind.BODY, document, 1)


def expand_fork(step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> TaskAttempt:
    """Reads what the fork is of, in any of its three forms. Raises DefinitionError, LimitExceeded."""
    fields = fields_of(given)
    spread = fields.get("forkTaskInputs")
    assert node.dynamic_fork is not None
    for name in ("forkTaskInputs", node.dynamic_fork.both, node.dynamic_fork.tasks, node.dynamic_fork.inputs):
        blob_uses.require_known(step, f"the field {name} of a dynamic fork", fields.get(name))
    if spread is not None and spread[:1] == b"[":
        return _spread(step, node, attempt, fields, elements_of(spread))
    if node.dynamic_fork.both:
        tasks, inputs = _both(fields, node.dynamic_fork.both)
    else:
        tasks, inputs = _pair(fields, node.dynamic_fork)
    _check_count(len(tasks))
    path = node.dynamic_fork.tasks or node.dynamic_fork.both
    document, nodes = write_forked(
        tasks, path, step.x.name, *_registered(step), len(attempt.iterations), step.level
    )
    _check_names(step, attempt, nodes)
    attempt = _keep(step, attempt, ExpansionKind.FORKED, document, len(tasks), inputs)
    places.compiled(step.hot, attempt.expanded, nodes)
    return attempt


def _registered(step: Step) -> tuple[TaskDocuments, SchemaDocuments]:
    return TaskDocuments(step.state, step.x.namespace), SchemaDocuments(step.state, step.x.namespace)


def _pair(fields: _Fields, names: DynamicFork) -> tuple[list[bytes], bytes]:
    """Tasks in their JSON shape, and their inputs by reference."""
    if not names.tasks:
        raise DefinitionInvalid("forkTaskInputs", "it must be a list")
    tasks, inputs = fields.get(names.tasks), fields.get(names.inputs, b"null")
    if tasks is None or tasks[:1] != b"[":
        raise DefinitionInvalid(names.tasks, "it must be a list of tasks")
    if is_null(inputs):
        inputs = b"{}"
    if not is_json_object(inputs):
        raise DefinitionInvalid(names.inputs, "it must be an object of inputs by taskReferenceName")
    return elements_of(tasks), inputs


def _both(fields: _Fields, name: str) -> tuple[list[bytes], bytes]:
    """The old form: each task in a shape of its own, with its input."""
    value = fields.get(name)
    listed = fields_of(value).get("dynamicTasks") if value is not None else None
    if listed is None or listed[:1] != b"[":
        raise DefinitionInvalid(name, "it must be an object with a list of dynamicTasks")
    tasks, inputs = [], []
    for entry in elements_of(listed):
        its = fields_of(entry)
        kept = [(key, its[old]) for old, key in _OLD_NAMES if old in its and not is_null(its[old])]
        tasks.append(assemble_object(kept))
        inputs.append((text_of(its.get("referenceName", b'""')), its.get("input", b"{}")))
    return tasks, assemble_object(inputs)


_OLD_NAMES = (("taskName", "name"), ("referenceName", "taskReferenceName"), ("type", "type"))


def _spread(
    step: Step, node: TaskNode, attempt: TaskAttempt, fields: _Fields, inputs: Sequence[bytes]
) -> TaskAttempt:
    """The same task for each of the inputs."""
    _check_count(len(inputs))
    workflow, kind = _text(fields, "forkTaskWorkflow"), _text(fields, "forkTaskType")
    name = _text(fields, "forkTaskName") or (kind if kind in TaskType.__members__ else "") or node.reference
    task = [("name", dump_string(workflow or name))]
    if workflow:
        version = fields.get("forkTaskWorkflowVersion")
        chosen = [("name", dump_string(workflow))]
        if version is not None and not is_null(version):
            chosen.append(("version", _number(text_of(version))))
        task += [("type", b'"SUB_WORKFLOW"'), ("subWorkflowParam", assemble_object(chosen))]
    else:
        task.append(("type", dump_string(kind or TaskType.SIMPLE.value)))
    if kind in _NEED_INPUT:
        task.append(("inputParameters", _NEED_INPUT[kind]))
    if node.optional:
        task.append(("optional", b"true"))
    prefix = f"_{node.reference}_{name}_" if _has_another(step, node, attempt) else f"_{name}_"
    document = write_spread(assemble_object(task), prefix, *_registered(step), step.level)
    _check_names(step, attempt, [f"{prefix}{position}" for position in range(len(inputs))])
    return _keep(step, attempt, ExpansionKind.SPREAD, document, len(inputs), assemble_array(inputs))


def _has_another(step: Step, node: TaskNode, attempt: TaskAttempt) -> bool:
    """Whether another dynamic fork has been made before; in each iteration of a loop the answer is the same."""
    if attempt.expansion:
        return True
    forks = [one.reference for one in step.plan.nodes.values() if one.type == TaskType.FORK_JOIN_DYNAMIC]
    firsts = {one: next(iter(step.hot.named[one])) for one in forks if step.hot.named.get(one)}
    return min(firsts.values()) < firsts[node.reference]


# What the inputs give; here it is only there to be found.
_NEED_INPUT = {"HTTP": b'{"uri":""}', "GRPC": b'{"method":""}', "JSON_JQ_TRANSFORM": b'{"queryExpression":"."}'}


def _text(fields: _Fields, key: str) -> str:
    value = fields.get(key)
    return "" if value is None or is_null(value) else text_of(value)


def _number(text: str) -> bytes:
    return text.encode() if text.isascii() and text.isdigit() and len(text) < 10 else b"0"


def _check_count(count: int) -> None:
    if count > limits.FORKED:
        raise DefinitionInvalid("", f"a dynamic fork may have {limits.FORKED} tasks, not {count}")


def _check_names(step: Step, attempt: TaskAttempt, references: Iterable[str]) -> None:
    for reference in references:
        made = step.hot.latest(instance_of(reference, attempt.iterations))
        if reference in step.plan.nodes or made is not None:
            raise DefinitionInvalid("", f"{quoted(reference)} is the reference of another task already")


def _keep(
    step: Step, attempt: TaskAttempt, kind: ExpansionKind, document: bytes, count: int, inputs: bytes = b""
) -> TaskAttempt:
    kept: tuple[Payload, Payload] = (store(step, document), store(step, inputs))
    number = step.x.next_number
    row = Expansion(number, kind, attempt.sequence, count, len(attempt.iterations), *kept)
    step.write(Table.EXPANSION, (step.x.namespace, step.x.workflow_id, number), row)
    # It may bring tasks that announce something where the definition has none.
    step.change(next_number=number + 1, tells=step.x.tells or b'"onStateChange"' in document)
    return step.put_task(replace(attempt, expanded=number))
