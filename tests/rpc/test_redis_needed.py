"""Streams of Redis are for clusters with a Redis: the others refuse what needs one at the door, and change nothing."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.commands import RaiseBehaviour
from orchestrator.engine.model import Table
from orchestrator_api.v1 import definitions_pb2, events_pb2, schedules_pb2, workflows_pb2
from tests.engine.driver import simple
from tests.engine.triggers.making import action, handler
from tests.rpc.asking import Way
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of
from tests.rpc.test_definitions import failure

EVENT = {"name": "tell", "taskReferenceName": "tell", "type": "EVENT", "sink": "redis:orders"}


def document(name: str, *tasks: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"name": name, "tasks": list(tasks), **fields}).encode()


@pytest.fixture(autouse=True)
def raised(bench: Bench) -> None:
    if bench.driver.state.meta.behaviour_level < STREAMS:
        bench.apply(RaiseBehaviour(STREAMS))


DEFINED = json.loads(document("inner", EVENT))
NEEDS = {
    "tasks[0].sink": document("w", EVENT),
    "workflowStatusListenerSink": document("w", simple("a"), workflowStatusListenerEnabled=True,
                                           workflowStatusListenerSink="redis:orders"),
    "taskStatusListenerSink": document("w", simple("a"), taskStatusListenerSink="redis:orders"),
    "tasks[0].onStateChange.onStart[0].sink": document(
        "w", {**simple("a"), "onStateChange": {"onStart": [{"type": "x", "sink": "redis:orders"}]}}),
    "tasks[0]: tasks[0].sink": document(
        "w", {"name": "s", "taskReferenceName": "s", "type": "SUB_WORKFLOW",
              "subWorkflowParam": {"name": "inner", "workflowDefinition": DEFINED}}),
    "tasks[0]: tasks[0]: tasks[0].sink": document(
        "w", {"name": "s", "taskReferenceName": "s", "type": "START_WORKFLOW", "inputParameters": {"startWorkflow": {
            "workflowDef": json.loads(document("middle", {
                "name": "s", "taskReferenceName": "s", "type": "SUB_WORKFLOW",
                "subWorkflowParam": {"name": "inner", "workflowDefinition": DEFINED}}))}}}),
}


def check_refused(error: grpc.aio.AioRpcError, field: str, path: str) -> None:
    info = info_of(error)
    assert (error.code(), info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REDIS_NOT_CONFIGURED")
    assert (info.metadata["field"], info.metadata["path"]) == (field, path)
    assert info.metadata["stream"] == "redis:orders" and "redis_endpoints" in error.details()


@pytest.mark.parametrize("path", NEEDS)
async def test_a_definition_that_publishes_to_a_stream_is_not_registered(
    bench: Bench, stubs: Stubs, path: str
) -> None:
    documents = [document("fine", simple("a")), NEEDS[path]]
    for call, request in (
        (stubs.definitions.RegisterWorkflows, definitions_pb2.RegisterWorkflowsRequest),
        (stubs.definitions.ValidateWorkflows, definitions_pb2.ValidateWorkflowsRequest),
    ):
        check_refused(await failure(call(request(definition_json=documents))), "definition_json[1]", path)
    assert not bench.driver.state.resident[Table.WORKFLOW_DEFINITION]


async def test_a_handler_of_a_stream_is_not_put(bench: Bench, stubs: Stubs) -> None:
    text = json.dumps(handler(action("start_workflow", name="report"), event="redis:orders")).encode()
    error = await failure(stubs.events.PutEventHandler(events_pb2.PutEventHandlerRequest(handler_json=text)))
    check_refused(error, "handler_json", "event")
    assert not bench.driver.state.resident[Table.EVENT_HANDLER]


async def test_a_handler_of_a_stream_may_be_deactivated(bench: Bench, stubs: Stubs) -> None:
    text = json.dumps(handler(action("start_workflow", name="report"), event="redis:orders", active=False)).encode()
    await stubs.events.PutEventHandler(events_pb2.PutEventHandlerRequest(handler_json=text))
    assert len(bench.driver.state.resident[Table.EVENT_HANDLER]) == 1


async def test_what_is_started_as_it_is_given_is_refused_likewise(bench: Bench, way: Way) -> None:
    request = workflows_pb2.StartWorkflowRequest(definition_json=document("w", EVENT))
    check_refused(await failure(way.start(request)), "definition_json", "tasks[0].sink")
    assert bench.submitted == []


async def test_so_is_what_a_schedule_starts(bench: Bench, stubs: Stubs) -> None:
    text = json.dumps({"name": "s", "cronExpression": "0 0 2 * * *",
                       "startWorkflowRequest": {"workflowDef": json.loads(document("w", EVENT))}}).encode()
    error = await failure(stubs.schedules.PutSchedule(schedules_pb2.PutScheduleRequest(schedule_json=text)))
    check_refused(error, "schedule_json", "tasks[0].sink")
    assert not bench.driver.state.resident[Table.SCHEDULE]


async def test_what_needs_no_redis_passes(bench: Bench, stubs: Stubs) -> None:
    task = {**simple("a"), "inputParameters": {"sink": "redis:orders", "url": "redis://somewhere"}}
    fine = [document("w", task, {**EVENT, "sink": "conductor:x"}), document("v", simple("a"))]
    await stubs.definitions.RegisterWorkflows(definitions_pb2.RegisterWorkflowsRequest(definition_json=fine))
    assert len(bench.driver.state.resident[Table.WORKFLOW_DEFINITION]) == 2


class TestWithRedis:
    @pytest.fixture(autouse=True)
    def connected(self, bench: Bench) -> None:
        bench.streams = object()

    async def test_all_of_it_is_taken(self, bench: Bench, stubs: Stubs) -> None:
        for number, text in enumerate(NEEDS.values()):
            given = json.dumps({**json.loads(text), "version": number + 1}).encode()
            await stubs.definitions.RegisterWorkflows(
                definitions_pb2.RegisterWorkflowsRequest(definition_json=[given]))
        assert len(bench.driver.state.resident[Table.WORKFLOW_DEFINITION]) == len(NEEDS)
