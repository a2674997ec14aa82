"""Bundles: a definition, the task definitions and schemas that it names, and which versions of sub-workflows it means,
as one text, so that an execution keeps what it began with.

``make_bundle`` is called at a start, ``compile_bundle`` whenever the engine needs to walk a bundle it does not hold
compiled. A bundle that was made compiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from orchestrator.engine.definitions.compile import compile_definition
from orchestrator.engine.definitions.elements import subtree, used_schemas
from orchestrator.engine.definitions.model import CompiledDefinition
from orchestrator.engine.definitions.parse import ParsedWorkflow, validate_task, validate_workflow
from orchestrator.engine.definitions.schemas import SchemaTexts, gather, used_by_task
from orchestrator.engine.expressions import assemble_object, fields_of

DIGEST_BYTES = 16


def make_bundle(
    definition_document: bytes,
    task_documents: Mapping[str, bytes],
    schemas: SchemaTexts,
    newest: Callable[[str], int] = lambda name: 0,
) -> tuple[bytes, bytes]:
    """(digest, document). What is registered and not named is left out. Raises DefinitionError.

    Task definitions that are named and not registered are those by default, which need no text; schemas have to be
    there. `newest`: the highest version of a workflow, 0 if there is none yet.
    """
    workflow = validate_workflow(definition_document)
    tasks = [validate_task(task_documents[name]) for name in workflow.task_names if name in task_documents]
    uses = [*workflow.schemas.uses(), *used_schemas(workflow.elements)]
    for task in tasks:
        uses += used_by_task(task.name, task.definition.schemas)
    fields = [
        ("definition", workflow.document),
        ("tasks", assemble_object([(task.name, task.document) for task in tasks])),
    ]
    if uses:
        fields.append(("schemas", gather(uses, schemas)))
    versions = _versions(workflow, newest)
    if versions:
        fields.append(("subWorkflows", assemble_object(versions)))
    document = assemble_object(fields)
    return hashlib.blake2b(document, digest_size=DIGEST_BYTES).digest(), document


def compile_bundle(document: bytes) -> CompiledDefinition:
    """Of what make_bundle made."""
    fields = fields_of(document)
    workflow = validate_workflow(fields["definition"])
    tasks = {name: validate_task(raw).definition for name, raw in fields_of(fields["tasks"]).items()}
    versions = {name: int(raw) for name, raw in fields_of(fields.get("subWorkflows", b"{}")).items()}
    return compile_definition(workflow, tasks, fields.get("schemas", b"{}"), versions)


def _versions(workflow: ParsedWorkflow, newest: Callable[[str], int]) -> list[tuple[str, bytes]]:
    everything = subtree(workflow.elements)
    names = {one.sub_workflow for element in everything for one in (element, element.compensation) if one is not None}
    return [(name, b"%d" % version) for name in sorted(names) if name and (version := newest(name))]
