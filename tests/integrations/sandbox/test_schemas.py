"""JSON schemas: violations with path and rule, the drafts, and references that lead nowhere but into the schema."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.integrations.sandbox.protocol import Verdict
from orchestrator.integrations.sandbox.schemas import VIOLATIONS_MAX, Schemas


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    return Schemas()


def violations(schemas: Schemas, schema: Any, document: Any) -> list[str]:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    answer = schemas.validate(json.dumps(schema), text)
    assert answer.verdict is Verdict.VALUE, answer
    found = json.loads(answer.value)
    assert isinstance(found, list)
    return found


def refusal(schemas: Schemas, schema: Any) -> str:
    """What is said of a schema that is wrong, whether it is checked or used."""
    checked, used = schemas.check(json.dumps(schema)), schemas.validate(json.dumps(schema), b"{}")
    assert checked == used
    assert checked.verdict is Verdict.ERROR
    return checked.message


ORDER = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string"},
        "lines": {"type": "array", "items": {"properties": {"price": {"type": "number", "minimum": 0}}}},
    },
}


def test_a_valid_document_violates_nothing(schemas: Schemas) -> None:
    assert violations(schemas, ORDER, {"id": "a", "lines": [{"price": 1.5}]}) == []
    assert schemas.check(json.dumps(ORDER)).verdict is Verdict.VALUE


def test_a_violation_names_the_path_of_the_document_and_the_rule(schemas: Schemas) -> None:
    assert violations(schemas, ORDER, {"lines": [{"price": 1}, {"price": -1}]}) == [
        "$: 'id' is a required property (required)",
        "$.lines[1].price: -1 is less than the minimum of 0 (properties/lines/items/properties/price/minimum)",
    ]


def test_only_the_first_violations_are_told_and_none_at_length(schemas: Schemas) -> None:
    found = violations(schemas, {"items": {"type": "string"}}, [["x" * 10_000]] * 100)
    assert len(found) == VIOLATIONS_MAX
    assert all(len(violation) < 400 for violation in found)


@pytest.mark.parametrize(
    ("schema", "document", "valid"),
    [
        # Each draft reads `items` or `exclusiveMinimum` or `if` in its own way.
        ({"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": True}, 1, False),
        ({"$schema": "http://json-schema.org/draft-06/schema#", "exclusiveMinimum": 1}, 1, False),
        ({"$schema": "http://json-schema.org/draft-06/schema#", "if": True, "then": False}, 1, True),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "if": True, "then": False}, 1, False),
        ({"$schema": "http://json-schema.org/draft-07/schema", "items": [{"type": "string"}]}, [1], False),
        ({"$schema": "https://json-schema.org/draft/2019-09/schema", "items": [{"type": "string"}]}, [1], False),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "prefixItems": [{"type": "string"}]}, [1], False),
        ({"prefixItems": [{"type": "string"}]}, [1], False),
        (True, 1, True),
        (False, 1, False),
    ],
)
def test_the_draft_is_the_one_named_else_2020_12(schemas: Schemas, schema: Any, document: Any, valid: bool) -> None:
    assert (violations(schemas, schema, document) == []) is valid


@pytest.mark.parametrize("dialect", ["http://example.com/mine", "draft-07", "", 5, {"a": 1}])
def test_an_unknown_draft_is_refused(schemas: Schemas, dialect: Any) -> None:
    assert "names no draft" in refusal(schemas, {"$schema": dialect})


def test_references_lead_into_the_schema_itself(schemas: Schemas) -> None:
    tree = {
        "$id": "https://example.com/tree",
        "$defs": {
            "node": {"$anchor": "node", "properties": {"child": {"$ref": "#node"}}, "additionalProperties": False},
        },
        "properties": {"root": {"$ref": "tree#/$defs/node"}},
    }
    assert violations(schemas, tree, {"root": {"child": {"child": {}}}}) == []
    [found] = violations(schemas, tree, {"root": {"child": {"other": 1}}})
    assert found.startswith("$.root.child: Additional properties are not allowed ('other' was unexpected)")


@pytest.mark.parametrize(
    "reference",
    ["http://127.0.0.1:1/schema.json", "https://example.com/schema.json", "file:///etc/passwd", "#/$defs/none", "#none",
     "other.json", "http://[broken"],
)
def test_a_reference_that_leads_elsewhere_is_refused_and_not_fetched(schemas: Schemas, reference: str) -> None:
    for schema in ({"$ref": reference}, {"properties": {"a": {"items": {"$ref": reference}}}}):
        assert "is not in the schema itself" in refusal(schemas, schema)


def test_a_property_may_be_called_ref(schemas: Schemas) -> None:
    data = {"$ref": "http://example.com"}
    schema = {"properties": {"$ref": {"type": "string"}}, "const": data, "enum": [data], "default": data}
    assert schemas.check(json.dumps(schema)).verdict is Verdict.VALUE


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": 5}, "the schema is wrong: $.type: 5 is not valid"),
        ({"properties": {"a": {"pattern": "("}}}, "the schema is wrong: $.properties.a.pattern: '(' is not a 'regex'"),
        ({"patternProperties": {"[": {}}}, "the schema is wrong: $"),
        (5, "the schema is wrong: $: 5 is not of type"),
        ([], "the schema is wrong: $: [] is not of type"),
        ({"minimum": "1"}, "the schema is wrong: $.minimum: '1' is not of type 'number'"),
    ],
)
def test_a_schema_that_is_wrong_is_refused(schemas: Schemas, schema: Any, message: str) -> None:
    assert refusal(schemas, schema).startswith(message)


def test_a_schema_that_is_no_json_is_refused(schemas: Schemas) -> None:
    assert schemas.check("{").message.startswith("the schema is not valid JSON: ")


def test_a_schema_that_refers_to_itself_without_end_is_an_error(schemas: Schemas) -> None:
    answer = schemas.validate('{"$ref": "#"}', b"{}")
    assert answer.verdict is Verdict.ERROR
    assert "without end" in answer.message


def test_what_is_too_deep_for_a_parser_is_an_error(schemas: Schemas) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert schemas.validate("{}", deep).verdict is Verdict.ERROR
    assert schemas.validate(deep.decode(), b"{}").verdict is Verdict.ERROR
    assert schemas.check(deep.decode()).verdict is Verdict.ERROR


def test_a_format_is_a_note(schemas: Schemas) -> None:
    schema = {"properties": {"mail": {"format": "email"}, "day": {"format": "date"}}}
    assert violations(schemas, schema, {"mail": "none", "day": "never"}) == []


def test_half_a_surrogate_pair_is_a_replacement_character(schemas: Schemas) -> None:
    assert violations(schemas, {"const": {"a": "\ufffd"}}, rb'{"a":"\ud800"}') == []


def test_integers_are_exact_and_whole_numbers_are_integers(schemas: Schemas) -> None:
    assert violations(schemas, {"const": 12345678901234567891}, b"12345678901234567890") != []
    assert violations(schemas, {"type": "integer"}, b"1.0") == []


def test_more_schemas_than_are_kept(schemas: Schemas) -> None:
    for _ in range(2):
        for number in range(150):
            assert violations(schemas, {"const": number}, number) == []
            assert violations(schemas, {"const": number}, number + 1) != []
