"""The registry of schemas: a record keeps its rules, has versions, and is the same on every replica."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.engine import limits, queries
from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented
from orchestrator.engine.definitions.schemas import validate_schema
from orchestrator.engine.model import Table
from orchestrator.engine.results import Code, Done, Rejected
from orchestrator.engine.schema_commands import DeleteSchema, RegisterSchemas
from tests.engine.driver import Driver

ORDER = {"name": "order", "version": 2, "type": "JSON", "data": {"type": "object", "required": ["id"]}}


def text(**fields: Any) -> bytes:
    return json.dumps(ORDER | fields).encode()


def register(*documents: bytes, overwrite: bool = False, namespace: str = "default") -> RegisterSchemas:
    return RegisterSchemas(namespace, documents, overwrite)


def versions(driver: Driver, namespace: str = "default") -> list[tuple[str, int]]:
    return [(row.name, row.version) for row in queries.schemas(driver.state, namespace)]


def test_a_record_has_a_name_a_version_and_the_schema() -> None:
    record = validate_schema(text(description="of a shop", createdBy="ann"))
    assert (record.name, record.version, record.data) == ("order", 2, b'{"type":"object","required":["id"]}')
    assert validate_schema(b'{"name":"a","data":{}}').version == 1


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (b"{", ""),
        (text(name=""), "name"),
        (text(name="a\nb"), "name"),
        (text(version=0), "version"),
        (text(type="XML"), "type"),
        (text(data=None), "data"),
        (text(data=[]), "data"),
        (text(colour="red"), "colour"),
        (text(data={"description": "x" * limits.SCHEMA_BYTES}), ""),
    ],
)
def test_what_is_wrong_with_a_record_is_told_by_its_path(document: bytes, path: str) -> None:
    with pytest.raises(DefinitionInvalid) as refused:
        validate_schema(document)
    assert refused.value.path == path


@pytest.mark.parametrize(
    ("fields", "path"),
    [({"type": "AVRO"}, "type"), ({"type": "PROTOBUF"}, "type"), ({"externalRef": "http://a/b"}, "externalRef")],
)
def test_what_is_not_built_is_refused_and_never_ignored(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(DefinitionUnimplemented) as refused:
        validate_schema(text(**fields))
    assert refused.value.path == path
    result = Driver().do(register(text(**fields)))
    assert isinstance(result, Rejected)
    assert (result.code, result.reason) == (Code.UNIMPLEMENTED, "NOT_SUPPORTED")


def test_versions_stand_beside_each_other_and_the_highest_is_the_one_without_a_number() -> None:
    driver = Driver()
    assert driver.do(register(text(version=10), text(version=9), text(name="a", version=1))) == Done()
    assert driver.do(register(text(version=99), namespace="other")) == Done()
    assert versions(driver) == [("a", 1), ("order", 9), ("order", 10)]
    found = queries.schema(driver.state, "default", "order", 0)
    assert found is not None and found.version == 10
    assert queries.schema(driver.state, "default", "order", 8) is None
    assert queries.schema(driver.state, "default", "nothing", 0) is None


def test_a_version_is_replaced_only_on_purpose() -> None:
    driver = Driver()
    driver.do(register(text()))
    assert driver.do(register(text())) == Done(), "the same again"
    refused = driver.do(register(text(data={})))
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.reason) == (Code.ALREADY_EXISTS, "SCHEMA_ALREADY_EXISTS")
    assert driver.do(register(text(data={}), overwrite=True)) == Done()
    found = queries.schema(driver.state, "default", "order", 2)
    assert found is not None and json.loads(found.document)["data"] == {}


def test_all_records_are_registered_or_none() -> None:
    driver = Driver()
    result = driver.do(register(text(name="a"), text(name="")))
    assert isinstance(result, Rejected)
    assert (result.reason, dict(result.metadata)["path"]) == ("SCHEMA_INVALID", "name")
    assert versions(driver) == []
    empty = driver.do(register())
    assert isinstance(empty, Rejected) and empty.reason == "DOCUMENTS_MISSING"


def test_one_version_is_deleted_or_all() -> None:
    driver = Driver()
    driver.do(register(text(version=1), text(version=2), text(version=3), text(name="other")))
    assert driver.do(DeleteSchema("default", "order", 2)) == Done()
    assert versions(driver) == [("order", 1), ("order", 3), ("other", 2)]
    assert driver.do(DeleteSchema("default", "order", 0)) == Done()
    assert versions(driver) == [("other", 2)]
    for version in (0, 1):
        refused = driver.do(DeleteSchema("default", "order", version))
        assert isinstance(refused, Rejected)
        assert (refused.code, refused.reason) == (Code.NOT_FOUND, "SCHEMA_NOT_FOUND")


def test_the_registry_has_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(limits, "SCHEMAS", 2)
    driver.do(register(text(version=1), text(version=2)))
    full = driver.do(register(text(version=3)))
    assert isinstance(full, Rejected) and full.reason == "SCHEMAS_FULL"
    assert driver.do(register(text(version=2, data={}), overwrite=True)) == Done(), "replacing needs no room"
    monkeypatch.setattr(limits, "SCHEMAS", 10)
    monkeypatch.setattr(limits, "SCHEMAS_BYTES", 300)
    large = driver.do(register(text(version=3, data={"description": "x" * 300})))
    assert isinstance(large, Rejected) and large.reason == "SCHEMAS_FULL"
    assert len(driver.state.resident[Table.SCHEMA]) == 2
