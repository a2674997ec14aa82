"""The registry of schemas over the wire: what is no schema is refused, and says where."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from orchestrator.integrations.sandbox.executor import SandboxExecutor
from orchestrator.integrations.sandbox.sandbox import Sandbox
from orchestrator_api.v1 import schemas_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of
from tests.rpc.test_definitions import failure


def record(name: str = "order", data: Any = None, **fields: Any) -> bytes:
    return json.dumps({"name": name, "data": data or {"type": "object"}, **fields}, separators=(",", ":")).encode()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Schemas are looked at where they are evaluated."""
    bench = Bench()
    executor = SandboxExecutor(Sandbox(size=1))
    bench.check_source = executor.check
    yield bench
    await executor.close()


async def register(stubs: Stubs, *documents: bytes, **fields: Any) -> None:
    await stubs.schemas.RegisterSchemas(pb.RegisterSchemasRequest(schema_json=documents, **fields))


async def test_a_schema_is_read_back_as_it_was_with_its_time(bench: Bench, stubs: Stubs) -> None:
    await register(stubs, record(version=3), record(version=4))
    reply = await stubs.schemas.GetSchema(pb.GetSchemaRequest(name="order", version=3))
    assert (reply.schema_json, reply.version) == (record(version=3), 3)
    assert reply.register_time.ToMilliseconds() == bench.driver.now_ms
    assert (await stubs.schemas.GetSchema(pb.GetSchemaRequest(name="order"))).version == 4


async def test_schemas_are_listed_in_pages_without_what_makes_them_large(stubs: Stubs) -> None:
    await register(stubs, record("b"), record("a", version=10), record("a", version=9))
    await register(stubs, record("elsewhere"), namespace="other")
    listed, token = [], ""
    while True:
        reply = await stubs.schemas.ListSchemas(pb.ListSchemasRequest(page=PageRequest(size=2, token=token)))
        listed.append([json.loads(document) for document in reply.schema_json])
        token = reply.next_token
        if not token:
            break
    assert listed == [[{"name": "a", "version": 9}, {"name": "a", "version": 10}], [{"name": "b"}]]


async def test_a_removed_schema_is_not_found(stubs: Stubs) -> None:
    await register(stubs, record())
    await stubs.schemas.DeleteSchema(pb.DeleteSchemaRequest(name="order"))
    for call in (
        stubs.schemas.GetSchema(pb.GetSchemaRequest(name="order")),
        stubs.schemas.DeleteSchema(pb.DeleteSchemaRequest(name="order")),
    ):
        error = await failure(call)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "SCHEMA_NOT_FOUND")


@pytest.mark.parametrize(
    ("document", "path", "said"),
    [
        (record(data={"properties": {"a": {"type": "strin"}}}), "data", "$.properties.a.type"),
        (record(data={"$ref": "http://elsewhere/schema"}), "data", "nothing is fetched"),
        (record(data={"properties": {"a": {"pattern": "("}}}), "data", "$.properties.a.pattern"),
        (record(data={"patternProperties": {"[": {}}}), "data", "$.patternProperties"),
        (record(version=0), "version", "between 1"),
    ],
)
async def test_what_is_no_schema_is_refused_with_its_place_and_costs_no_log_entry(
    bench: Bench, stubs: Stubs, document: bytes, path: str, said: str
) -> None:
    error = await failure(register(stubs, record("good"), document))
    info = info_of(error)
    assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SCHEMA_INVALID")
    assert (info.metadata["field"], info.metadata["path"]) == ("schema_json[1]", path)
    assert said in (error.details() or "")
    assert bench.submitted == []


@pytest.mark.parametrize("kind", ["AVRO", "PROTOBUF"])
async def test_schemas_of_other_languages_are_not_built(bench: Bench, stubs: Stubs, kind: str) -> None:
    error = await failure(register(stubs, record(type=kind)))
    assert (error.code(), info_of(error).metadata["path"]) == (grpc.StatusCode.UNIMPLEMENTED, "type")
    assert bench.submitted == []


async def test_another_content_is_refused_unless_it_is_to_be_overwritten(stubs: Stubs) -> None:
    await register(stubs, record())
    error = await failure(register(stubs, record(data={"type": "array"})))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.ALREADY_EXISTS, "SCHEMA_ALREADY_EXISTS")
    await register(stubs, record(data={"type": "array"}), overwrite=True)
