"""Bundles: a definition and the task definitions it names as one text, so that an execution keeps what it began with.

``make_bundle`` is called at a start, ``compile_bundle`` whenever the engine needs to walk a bundle it does not hold
compiled. A bundle that was made compiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from orchestrator.engine.definitions.compile import compile_definition
from orchestrator.engine.definitions.model import CompiledDefinition
from orchestrator.engine.definitions.parse import validate_task, validate_workflow
from orchestrator.engine.expressions import assemble_object, fields_of

DIGEST_BYTES = 16


def make_bundle(definition_document: bytes, task_documents: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """(digest, document). `task_documents`: those registered; the ones that the definition does not name are left out.

    Task definitions that are named and not registered are those by default, which need no text.
    """
    workflow = validate_workflow(definition_document)
    tasks = [
        (name, validate_task(task_documents[name]).document) for name in workflow.task_names if name in task_documents
    ]
    document = assemble_object([("definition", workflow.document), ("tasks", assemble_object(tasks))])
    return hashlib.blake2b(document, digest_size=DIGEST_BYTES).digest(), document


def compile_bundle(document: bytes) -> CompiledDefinition:
    """Of what make_bundle made."""
    fields = fields_of(document)
    workflow = validate_workflow(bytes(fields["definition"]))
    tasks = {name: validate_task(bytes(raw)).definition for name, raw in fields_of(fields["tasks"]).items()}
    return compile_definition(workflow, tasks)
