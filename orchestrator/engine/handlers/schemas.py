"""The registry of JSON schemas. Who has begun with one keeps it, whatever becomes of its record."""

from __future__ import annotations

from typing import cast

from orchestrator.engine import limits
from orchestrator.engine.definitions.errors import DefinitionError, DefinitionUnimplemented
from orchestrator.engine.definitions.schemas import SchemaRecord, validate_schema
from orchestrator.engine.errors import refuse
from orchestrator.engine.model import RowKey, Table
from orchestrator.engine.resident import SchemaRow
from orchestrator.engine.results import AnyResult, Code, Done
from orchestrator.engine.schema_commands import DeleteSchema, RegisterSchemas
from orchestrator.engine.step import Step


def register_schemas(step: Step, command: RegisterSchemas) -> AnyResult:
    """All of them, or none."""
    if not command.documents:
        refuse(Code.INVALID_ARGUMENT, "DOCUMENTS_MISSING", "there is nothing to register", field="documents")
    for document in command.documents:
        try:
            record = validate_schema(document)
        except DefinitionUnimplemented as unbuilt:
            refuse(Code.UNIMPLEMENTED, "NOT_SUPPORTED", str(unbuilt), path=unbuilt.path)
        except DefinitionError as error:
            refuse(Code.INVALID_ARGUMENT, "SCHEMA_INVALID", str(error), path=error.path)
        _register(step, command, record)
    return Done()


def _register(step: Step, command: RegisterSchemas, record: SchemaRecord) -> None:
    key = (command.namespace, record.name, record.version)
    rows = cast(dict[RowKey, SchemaRow], step.state.resident[Table.SCHEMA])
    old = rows.get(key)
    if old is not None and old.document == record.document:
        return
    if old is not None and not command.overwrite:
        message = f"the schema {record.name} version {record.version} exists with another content"
        refuse(Code.ALREADY_EXISTS, "SCHEMA_ALREADY_EXISTS", message)
    # Rare, and there are few: counting them costs less than a counter that has to be kept.
    if old is None and len(rows) >= limits.SCHEMAS:
        refuse(Code.RESOURCE_EXHAUSTED, "SCHEMAS_FULL", f"there are {limits.SCHEMAS} schemas, which is the limit")
    held = sum(len(row.document) for row in rows.values()) - (0 if old is None else len(old.document))
    if held + len(record.document) > limits.SCHEMAS_BYTES:
        message = f"all schemas together exceed the limit of {limits.SCHEMAS_BYTES} bytes"
        refuse(Code.RESOURCE_EXHAUSTED, "SCHEMAS_FULL", message)
    step.write(Table.SCHEMA, key, SchemaRow(*key, record.document, step.now))


def delete_schema(step: Step, command: DeleteSchema) -> AnyResult:
    rows = step.state.resident[Table.SCHEMA]
    found = sorted(key for key in rows if key[:2] == (command.namespace, command.name))
    if command.version:
        found = [key for key in found if key[2] == command.version]
    if not found:
        which = f" version {command.version}" if command.version else ""
        refuse(Code.NOT_FOUND, "SCHEMA_NOT_FOUND", f"no schema '{command.name}'{which}", schema=command.name)
    for key in found:
        step.write(Table.SCHEMA, key, None)
    return Done()
