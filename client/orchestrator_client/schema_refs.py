"""How options name the JSON schemas that payloads have to keep, and how definitions do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SchemaRef = str | tuple[str, int] | Mapping[str, Any]
"""Of an option: the name of a registered schema, or (name, version), or a JSON schema itself."""


def reference(schema: SchemaRef) -> dict[str, Any]:
    """As a definition has it under inputSchema or outputSchema."""
    if isinstance(schema, str):
        return {"name": schema, "type": "JSON"}
    if isinstance(schema, tuple):
        name, version = schema
        return {"name": name, "version": version, "type": "JSON"}
    return {"type": "JSON", "data": dict(schema)}


def enforced(input_schema: SchemaRef | None, output_schema: SchemaRef | None) -> dict[str, Any]:
    """The fields of a definition whose payloads have to keep these."""
    given = {"inputSchema": input_schema, "outputSchema": output_schema}
    fields: dict[str, Any] = {key: reference(schema) for key, schema in given.items() if schema is not None}
    return {**fields, "enforceSchema": True} if fields else {}
