"""The registry of schemas over the wire: what is no schema is refused, and says where."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from orchestrator.integrations.sandbox.executor import SandboxExecutor
from orchestrator.integrations.sandbox.sandbox import Sandbox
from orchestrator.rpc.scripts import unevaluated
from orchestrator_api.v1 import definitions_pb2, workflows_pb2
from orchestrator_api.v1 import schemas_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, Payload
from tests.engine.driver import simple
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
    bench.check_source, bench.evaluate = executor.check, executor.execute
    bench.driver.worker("s", "pay", slots=10)
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


# --- definitions that name them, and executions that have to keep them

ORDER = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
BROKEN = {"properties": {"id": {"type": "number of a house"}}}


def whole(*tasks: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"name": "w", "tasks": tasks or (simple("pay"),), **fields}).encode()


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("inputSchema.data", whole(inputSchema={"data": BROKEN})),
        ("outputSchema.data", whole(outputSchema={"name": "x", "data": BROKEN})),
        (
            "tasks[0].taskDefinition.outputSchema.data",
            whole(simple("pay", taskDefinition={"outputSchema": {"data": BROKEN}, "enforceSchema": True})),
        ),
    ],
)
async def test_a_definition_with_what_is_no_schema_is_refused(
    bench: Bench, stubs: Stubs, path: str, document: bytes
) -> None:
    error = await failure(
        stubs.definitions.RegisterWorkflows(definitions_pb2.RegisterWorkflowsRequest(definition_json=[document]))
    )
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DEFINITION_INVALID")
    assert info_of(error).metadata["path"] == path
    assert "$.properties.id.type" in (error.details() or "")
    assert bench.submitted == []


async def test_a_task_definition_with_what_is_no_schema_is_refused(bench: Bench, stubs: Stubs) -> None:
    document = json.dumps({"name": "pay", "inputSchema": {"data": BROKEN}, "enforceSchema": True}).encode()
    error = await failure(
        stubs.definitions.RegisterTasks(definitions_pb2.RegisterTasksRequest(definition_json=[document]))
    )
    assert (error.code(), info_of(error).metadata["path"]) == (grpc.StatusCode.INVALID_ARGUMENT, "inputSchema.data")


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("inputSchema.type", {"name": "x", "type": "AVRO"}),
        ("inputSchema.externalRef", {"name": "x", "externalRef": "https://schemas.example/order.json"}),
    ],
)
async def test_what_can_not_be_enforced_is_refused_at_its_path(
    bench: Bench, stubs: Stubs, path: str, schema: dict[str, Any]
) -> None:
    document = whole(inputSchema=schema)
    error = await failure(
        stubs.definitions.RegisterWorkflows(definitions_pb2.RegisterWorkflowsRequest(definition_json=[document]))
    )
    assert (error.code(), info_of(error).metadata["path"]) == (grpc.StatusCode.UNIMPLEMENTED, path)


async def begin(stubs: Stubs, given: bytes, **fields: Any) -> Any:
    return await stubs.workflows.StartWorkflow(
        workflows_pb2.StartWorkflowRequest(name="w", input=Payload(inline=given), **fields)
    )


async def test_a_start_is_refused_at_once_and_says_where_and_which_rule(bench: Bench, stubs: Stubs) -> None:
    bench.driver.register(json.loads(whole(inputSchema={"name": "order", "data": ORDER})))
    error = await failure(begin(stubs, b'{"id":"x"}'))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SCHEMA_VIOLATION")
    assert info_of(error).metadata["field"] == "input"
    assert error.details() == (
        "the workflow's input violates the schema 'order': $.id: 'x' is not of type 'integer' (properties/id/type)"
    )
    await begin(stubs, b'{"id":1}', workflow_id="good")
    assert [attempt.reference for attempt in bench.driver.hot("good").tasks.values()] == ["pay"]


async def test_values_that_readers_are_not_shown_are_not_in_the_refusal(bench: Bench, stubs: Stubs) -> None:
    bench.driver.register(json.loads(whole(inputSchema={"name": "order", "data": ORDER}, maskedFields=["id"])))
    error = await failure(begin(stubs, b'{"id":"4711"}'))
    assert "4711" not in (error.details() or "")
    assert "$.id: what stands there breaks the rule 'type' (properties/id/type)" in (error.details() or "")


async def test_where_nothing_can_be_looked_at_the_execution_begins_with_it(bench: Bench, stubs: Stubs) -> None:
    bench.evaluate = unevaluated
    bench.driver.register(json.loads(whole(inputSchema={"name": "order", "data": ORDER})))
    await begin(stubs, b'{"id":"x"}', workflow_id="w")
    assert [attempt.reference for attempt in bench.driver.hot("w").tasks.values()] == ["$input"]


async def test_a_test_of_a_workflow_keeps_its_schemas(bench: Bench, stubs: Stubs) -> None:
    schema = {"name": "order", "data": ORDER}
    bench.driver.register(json.loads(whole(inputSchema=schema, outputSchema=schema)))
    replies = []
    for given, answer in ((b'{"id":"x"}', b"{}"), (b'{"id":1}', b'{"id":"y"}'), (b'{"id":1}', b'{"id":2}')):
        mocks = workflows_pb2.Mocks(
            tasks={"pay": workflows_pb2.TaskMocks(
                outcomes=[workflows_pb2.TaskMock(output=Payload(inline=answer))]
            )}
        )
        start = workflows_pb2.StartWorkflowRequest(name="w", input=Payload(inline=given))
        replies.append(
            await stubs.workflows.TestWorkflow(workflows_pb2.TestWorkflowRequest(start=start, mocks=mocks))
        )
    assert [workflows_pb2.WorkflowStatus.Name(reply.workflow.status) for reply in replies] == [
        "WORKFLOW_STATUS_FAILED", "WORKFLOW_STATUS_FAILED", "WORKFLOW_STATUS_COMPLETED"
    ]
    assert "the workflow's input violates the schema 'order'" in replies[0].workflow.reason
    assert "$.id: 'y' is not of type 'integer'" in replies[1].workflow.reason
