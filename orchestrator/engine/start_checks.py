"""What the input of an execution that is about to be started has to keep, so that it can be looked at beforehand.

Whoever proposes the start says for which bundle it has looked, and what it has found. If the execution comes to have
another one, because a definition or a schema was changed meanwhile, it begins with looking itself.
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.engine.definitions.errors import DefinitionError
from orchestrator.engine.definitions.model import INPUT_CHECK
from orchestrator.engine.definitions.schemas import PayloadSchema
from orchestrator.engine.expressions import put_if_absent
from orchestrator.engine.model import Table
from orchestrator.engine.plan import bundle_for, compiled
from orchestrator.engine.resident import WorkflowDefinitionRow
from orchestrator.engine.state import State


class StartCheck(NamedTuple):
    """What is to be looked at."""

    bundle: bytes  # its digest
    schema: PayloadSchema
    input: bytes
    is_quiet: bool  # what is found is told without values


class Looked(NamedTuple):
    """Somebody has looked at the input. `violation`: what it has found; "": nothing."""

    bundle: bytes = b""
    violation: str = ""


NOT_LOOKED = Looked()


def check_for(
    state: State, namespace: str, name: str, version: int, document: bytes, given: bytes
) -> StartCheck | None:
    """None if there is nothing to look at, or the start will be refused anyway. `given`: a valid payload."""
    if not document:
        which = version or state.highest_version.get((namespace, name), [0])[-1]
        row = state.resident[Table.WORKFLOW_DEFINITION].get((namespace, name, which))
        if not isinstance(row, WorkflowDefinitionRow):
            return None
        document = row.document
    try:
        bundled = bundle_for(state, namespace, document)
    except DefinitionError:
        return None
    definition = compiled(state, bundled).definition
    schema = definition.nodes[INPUT_CHECK].input_schema
    if schema is None:
        return None
    text = put_if_absent(definition.input_template, given)
    return StartCheck(bundled[0], schema, text, bool(definition.masked_fields))
