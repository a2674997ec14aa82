"""JSON schemas: the records of their registry, and which of them a definition's payloads have to keep.

Here a schema is a text. Whether it is a valid one, and whether a payload keeps it, is said by evaluators outside of
the engine: a schema has regular expressions, which somebody has written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from orchestrator.engine import limits
from orchestrator.engine.definitions.errors import DefinitionInvalid, quoted
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.expressions import JsonInvalid, assemble_object, check_json, compact, fields_of

_KNOWN = (
    "name version type data externalRef"
    # For readers only.
    " description ownerApp createTime updateTime createdBy updatedBy"
).split()
_ELSEWHERE = ("AVRO", "PROTOBUF")
_CONTROL = re.compile(r"[\x00-\x1f]")

SchemaTexts = Mapping[tuple[str, int], bytes]
"""Schemas by name and version, version 0 being the highest."""


class SchemaRecord(msgspec.Struct, frozen=True):
    """A record of the registry that keeps the rules."""

    name: str
    version: int
    data: bytes  # the schema itself, a JSON object
    document: bytes  # without white space, otherwise as it was given


class SchemaUse(msgspec.Struct, frozen=True):
    """What a definition says of a schema that is enforced: which one, or the schema itself."""

    path: str  # where it stands in the document
    name: str = ""
    version: int = 0  # 0: the highest
    data: bytes = b""  # if it has it itself

    @property
    def label(self) -> str:
        """For people."""
        which = f" version {self.version}" if self.version else ""
        return f"the schema {quoted(self.name)}{which}" if self.name else "its schema"


class PayloadSchema(msgspec.Struct, frozen=True):
    """A schema that a payload has to keep."""

    label: str
    text: bytes


class Schemas(msgspec.Struct, frozen=True):
    """What the definition of a workflow or of a task says of its payloads; None if nothing is enforced."""

    input: SchemaUse | None = None
    output: SchemaUse | None = None

    def uses(self) -> tuple[SchemaUse, ...]:
        return tuple(use for use in (self.input, self.output) if use is not None)


NO_SCHEMAS = Schemas()


def validate_schema(document: bytes) -> SchemaRecord:
    """Of a record; whether its `data` is a schema is not looked at. Raises DefinitionError."""
    if len(document) > limits.SCHEMA_BYTES:
        raise DefinitionInvalid("", f"a schema may have {limits.SCHEMA_BYTES} bytes")
    try:
        check_json(document)
    except JsonInvalid as error:
        raise DefinitionInvalid("", str(error)) from None
    fields = Fields(text := compact(document), "", _KNOWN)
    name = fields.name("name")
    if _CONTROL.search(name):
        raise fields.invalid("name", "it has control characters")
    for key in ("description", "ownerApp", "createdBy", "updatedBy"):
        fields.text(key)
    _check_kind(fields)
    if not fields.has("data"):
        raise fields.invalid("data", "it must be the schema, an object")
    return SchemaRecord(name, fields.integer("version", 1, least=1), fields.object("data"), text)


def read_schemas(fields: Fields, *, enforced: bool) -> Schemas:
    """`enforced`: whether schemas are, if the document does not say. What is not enforced is for readers."""
    if not fields.flag("enforceSchema", enforced):
        return NO_SCHEMAS
    return Schemas(_use(fields, "inputSchema"), _use(fields, "outputSchema"))


def _use(fields: Fields, key: str) -> SchemaUse | None:
    if not fields.is_set(key):
        return None
    path = fields.at(key)
    its = Fields(fields.object(key), path, _KNOWN)
    _check_kind(its)
    data = its.object("data") if its.has("data") else b""
    if len(data) > limits.SCHEMA_BYTES:
        raise its.invalid("data", f"a schema may have {limits.SCHEMA_BYTES} bytes")
    name = its.text("name") if data else its.name("name")
    return SchemaUse(path, name, its.integer("version", 0), data)


def _check_kind(fields: Fields) -> None:
    kind = fields.text("type", "JSON")
    if kind in _ELSEWHERE:
        raise fields.unimplemented("type", f"schemas of type {kind} are not supported yet")
    if kind != "JSON":
        raise fields.invalid("type", f"{quoted(kind)} is none of JSON, {', '.join(_ELSEWHERE)}")
    if fields.is_set("externalRef"):
        raise fields.unimplemented("externalRef", "nothing is fetched from elsewhere")


# --- beside the definitions that use them


def used_by_task(name: str, schemas: Schemas) -> list[SchemaUse]:
    """Of a registered task definition, which is another document."""
    return [msgspec.structs.replace(use, path=f"taskDefinitions.{name}.{use.path}") for use in schemas.uses()]


def gather(uses: list[SchemaUse], registered: SchemaTexts) -> bytes:
    """The registered ones among them as one JSON text, for `resolve`. Raises DefinitionInvalid if one is not there."""
    found: dict[str, bytes] = {}
    for use in uses:
        if use.data:
            continue
        text = registered.get((use.name, use.version))
        if text is None:
            raise DefinitionInvalid(use.path, f"{use.label} is not registered")
        found[_key(use)] = text
    return assemble_object(sorted(found.items()))


def resolve(use: SchemaUse | None, gathered: bytes) -> PayloadSchema | None:
    if use is None:
        return None
    return PayloadSchema(use.label, use.data or fields_of(gathered)[_key(use)])


def _key(use: SchemaUse) -> str:
    return f"{use.version}:{use.name}"
