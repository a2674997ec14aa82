"""JSON schemas, by jsonschema: the draft that `$schema` names, 2020-12 without it.

References are looked up in the schema itself and in the drafts' own; nothing is ever fetched. `format` is a note,
as the newer drafts have it. Patterns are Python's regular expressions, without anchors added.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import OrderedDict
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

from orchestrator.integrations.sandbox.protocol import Answer, Verdict, shortened
from orchestrator.integrations.sandbox.texts import well_formed

_KEPT_MAX = 64
_KEPT_CHARACTERS_MAX = 64 * 1024
VIOLATIONS_MAX = 5
_VIOLATION_CHARACTERS_MAX = 300
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_DRAFTS = (3, 4, 6, 7)
# Keywords of values, which are no schemas; and of schemas by names, which are no keywords.
_VALUES = frozenset(("const", "default", "enum", "example", "examples"))
_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_UNKNOWN: Any = object()


class SchemaInvalid(Exception):
    """It is no schema, or refers to one that is not there."""


class Schemas:
    def __init__(self) -> None:
        self._kept: OrderedDict[str, Any] = OrderedDict()
        # What is loaded late is loaded now.
        drafts = [f"http://json-schema.org/draft-0{draft}/schema#" for draft in _DRAFTS]
        newer = [f"https://json-schema.org/draft/{draft}/schema" for draft in ("2019-09", "2020-12")]
        for dialect in [*drafts, *newer]:
            schema = {"$schema": dialect, "type": "object", "patternProperties": {"^a": {"pattern": "a"}}}
            self.validate(json.dumps(schema), b'{"a": 1}')

    def validate(self, source: str, input: bytes, *, quiet: bool = False) -> Answer:
        try:
            validator = self._validator(source)
            found = [
                _violation(error, quiet=quiet)
                for error in itertools.islice(validator.iter_errors(json.loads(well_formed(input))), VIOLATIONS_MAX)
            ]
        except SchemaInvalid as error:
            return Answer(Verdict.ERROR, message=shortened(str(error)))
        except RecursionError:
            return Answer(Verdict.ERROR, message="the schema refers to itself without end, or is nested too deep")
        except ValueError as error:
            return Answer(Verdict.ERROR, message=shortened(f"what is to be checked can't be read: {error}"))
        return Answer(Verdict.VALUE, json.dumps(found).encode())

    def check(self, source: str) -> Answer:
        try:
            self._validator(source)
        except SchemaInvalid as error:
            return Answer(Verdict.ERROR, message=shortened(str(error)))
        except RecursionError:
            return Answer(Verdict.ERROR, message="the schema is nested too deep")
        return Answer(Verdict.VALUE)

    def _validator(self, source: str) -> Any:
        validator = self._kept.get(source)
        if validator is None:
            validator = _compiled(source)
            if len(source) <= _KEPT_CHARACTERS_MAX:
                self._kept[source] = validator
                if len(self._kept) > _KEPT_MAX:
                    self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(source)
        return validator


def _compiled(source: str) -> Any:
    """Raises SchemaInvalid."""
    try:
        schema = json.loads(source)
    except ValueError as error:
        raise SchemaInvalid(f"the schema is not valid JSON: {error}") from None
    kind = _kind(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise SchemaInvalid(f"the schema is wrong: {_violation(error)}") from None
    _check_patterns(schema, "$")
    _check_references(schema)
    return kind(schema, registry=REGISTRY)


def _kind(schema: Any) -> Any:
    """The validator of the schema's draft."""
    dialect = schema.get("$schema") if isinstance(schema, dict) else None
    if dialect is None:
        return Draft202012Validator
    if not isinstance(dialect, str) or (kind := validator_for(schema, default=_UNKNOWN)) is _UNKNOWN:
        raise SchemaInvalid(f"$schema names no draft that is known here: {dialect!r}")
    return kind


def _check_patterns(value: Any, path: str) -> None:
    """Those of keywords, and of whatever looks like them: a schema may stand anywhere that a reference leads to."""
    if isinstance(value, list):
        for position, element in enumerate(value):
            _check_patterns(element, f"{path}[{position}]")
    if not isinstance(value, dict):
        return
    pattern, properties = value.get("pattern"), value.get("patternProperties")
    if isinstance(pattern, str):
        _check_pattern(pattern, f"{path}.pattern")
    for name in properties if isinstance(properties, dict) else ():
        _check_pattern(name, f"{path}.patternProperties")
    for key, element in value.items():
        if key in _BY_NAME and isinstance(element, dict):
            for name, schema in element.items():
                _check_patterns(schema, f"{path}.{key}.{name}")
        elif key not in _VALUES:
            _check_patterns(element, f"{path}.{key}")


def _check_pattern(pattern: str, path: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise SchemaInvalid(f"the schema is wrong: {path}: {shortened(repr(pattern))} is no pattern: {error}") from None


def _check_references(schema: Any) -> None:
    if not isinstance(schema, dict):
        return
    draft = specification_with(schema["$schema"]) if "$schema" in schema else DRAFT202012
    root = draft.create_resource(schema)
    waiting = [(root, REGISTRY.resolver_with_root(root))]
    while waiting:
        resource, resolver = waiting.pop()
        if isinstance(resource.contents, dict):
            for keyword in _REFERENCES:
                reference = resource.contents.get(keyword)
                if isinstance(reference, str):
                    _look_up(resolver, keyword, reference)
        waiting += [(part, resolver.in_subresource(part)) for part in resource.subresources()]


def _look_up(resolver: Any, keyword: str, reference: str) -> None:
    try:
        resolver.lookup(reference)
    except (Unresolvable, ValueError):  # a reference that is no URI at all
        message = f"the schema is wrong: {keyword} {reference!r} is not in the schema itself, and nothing is fetched"
        raise SchemaInvalid(message) from None


def _violation(error: ValidationError | SchemaError, *, quiet: bool = False) -> str:
    """`$.order.total: 'x' is not of type 'number' (properties/order/properties/total/type)`."""
    message = f"what stands there breaks the rule {error.validator!r}" if quiet else error.message
    if len(message) > _VIOLATION_CHARACTERS_MAX:
        message = message[: _VIOLATION_CHARACTERS_MAX - 1] + "…"
    rule = "/".join(str(part) for part in error.absolute_schema_path)
    return f"{error.json_path}: {message}" + (f" ({rule})" if rule else "")
