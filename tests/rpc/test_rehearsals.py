"""Tests of workflows with mocked outcomes, over the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import msgspec
import pytest

from orchestrator.integrations.work import Ended, Outcome, Work
from orchestrator.rehearsal import stage
from orchestrator.rpc import rehearsals
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from tests.engine.driver import simple, workflow
from tests.rpc.bench import Bench, Stubs, soon, until
from tests.rpc.statuses import info_of

SCRIPT = {
    "name": "i", "taskReferenceName": "i", "type": "INLINE",
    "inputParameters": {"evaluatorType": "javascript", "expression": "1"},
}


def outcome(output: bytes = b"{}", **fields: Any) -> pb.TaskMocks:
    return pb.TaskMocks(outcomes=[pb.TaskMock(output=Payload(inline=output), **fields)])


def asked(**fields: Any) -> pb.TestWorkflowRequest:
    given: dict[str, Any] = {"start": pb.StartWorkflowRequest(name="order")}
    return pb.TestWorkflowRequest(**given | fields)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon("the failure", call)
    return caught.value


async def test_the_answer_is_the_whole_execution(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay", "ship")
    tasks = {"pay": outcome(b'{"receipt":1}'), "other": outcome()}
    start = pb.StartWorkflowRequest(name="order", input=Payload(inline=b'{"id":7}'), correlation_id="c", priority=3)
    reply = await soon("the test", stubs.workflows.TestWorkflow(asked(start=start, mocks=pb.Mocks(tasks=tasks))))
    execution = reply.workflow
    assert (execution.name, execution.correlation_id, execution.priority) == ("order", "c", 3)
    assert execution.status == pb.WORKFLOW_STATUS_RUNNING
    assert execution.input.inline == b'{"id":7}'
    assert [(task.reference, pb.TaskStatus.Name(task.status)) for task in execution.tasks] == [
        ("pay", "TASK_STATUS_COMPLETED"), ("ship", "TASK_STATUS_SCHEDULED")
    ]
    assert execution.tasks[0].output.inline == b'{"receipt":1}'
    assert msgspec.json.decode(execution.definition_json)["name"] == "order"
    assert list(reply.without_mock) == ["ship"]
    assert list(reply.unused_mocks) == ["other"]


async def test_conductors_view_is_its_document(bench: Bench, stubs: Stubs) -> None:
    """Of a sub-workflow, too, which names the task that has started it."""
    parent = {"name": "s", "taskReferenceName": "s", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "order"}}
    bench.order("pay")
    start = pb.StartWorkflowRequest(definition_json=msgspec.json.encode(workflow("flow", parent)))
    mocks = pb.Mocks(sub_workflows={"s": pb.Mocks(tasks={"pay": outcome(b'{"receipt":1}')})})
    reply = await soon(
        "the test", stubs.workflows.TestWorkflow(asked(start=start, mocks=mocks, view=pb.VIEW_CONDUCTOR))
    )
    assert not reply.workflow.tasks
    document = msgspec.json.decode(reply.workflow.conductor_json)
    [sub] = document["tasks"]
    assert (document["workflowName"], document["status"], sub["taskType"]) == ("flow", "COMPLETED", "SUB_WORKFLOW")
    child = msgspec.json.decode(reply.sub_workflows[0].conductor_json)
    assert (child["workflowName"], child["parentWorkflowTaskId"]) == ("order", sub["taskId"])
    assert child["tasks"][0]["outputData"] == {"receipt": 1}


@pytest.mark.parametrize("view", [pb.VIEW_NATIVE, pb.VIEW_CONDUCTOR])
async def test_an_answer_that_is_too_large_is_refused_in_each_view(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch, view: Any
) -> None:
    bench.order("pay")
    monkeypatch.setattr(rehearsals, "ANSWER_BYTES_MAX", 500)
    mocks = pb.Mocks(tasks={"pay": outcome(msgspec.json.encode({"x": "y" * 500}))})
    error = await failure(stubs.workflows.TestWorkflow(asked(mocks=mocks, view=view)))
    assert info_of(error).reason == "TEST_TOO_LARGE"


async def test_nothing_is_submitted_to_the_log(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    before = bench.driver.rows()
    await soon("the test", stubs.workflows.TestWorkflow(asked(mocks=pb.Mocks(tasks={"pay": outcome()}))))
    assert bench.submitted == []
    assert bench.driver.rows() == before


async def test_what_travels_along_need_not_be_registered(stubs: Stubs) -> None:
    parent = {"name": "s", "taskReferenceName": "s", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "child"}}
    request = asked(
        start=pb.StartWorkflowRequest(definition_json=msgspec.json.encode(workflow("flow", parent))),
        workflow_definition_json=[msgspec.json.encode(workflow("child", simple("a")))],
        task_definition_json=[b'{"name":"a","retryCount":1,"retryDelaySeconds":1}'],
        mocks=pb.Mocks(sub_workflows={"s": pb.Mocks(tasks={"a": pb.TaskMocks(outcomes=[
            pb.TaskMock(status=pb.TASK_STATUS_FAILED, reason="no"), pb.TaskMock(status=pb.TASK_STATUS_COMPLETED),
        ])})}),
    )
    reply = await soon("the test", stubs.workflows.TestWorkflow(request))
    assert reply.workflow.status == pb.WORKFLOW_STATUS_COMPLETED
    [child] = reply.sub_workflows
    assert [(task.retry_count, task.reason) for task in child.tasks] == [(0, "no"), (1, "")]


@pytest.mark.parametrize(
    "naming",
    [
        {"inputParameters": {"auth": "Bearer ${workflow.secrets.BANK}"}},
        {"taskDefinition": {"name": "pay", "runtimeMetadata": ["BANK"]}},
    ],
)
async def test_a_definition_that_names_secrets_is_tested_without_any(stubs: Stubs, naming: dict[str, Any]) -> None:
    document = msgspec.json.encode(workflow("flow", simple("pay", **naming)))
    start = pb.StartWorkflowRequest(definition_json=document)
    mocks = pb.Mocks(tasks={"pay": outcome(b'{"receipt":1}')})
    reply = await soon("the test", stubs.workflows.TestWorkflow(asked(start=start, mocks=mocks)))
    assert reply.workflow.status == pb.WORKFLOW_STATUS_COMPLETED
    shown = msgspec.json.decode(reply.workflow.tasks[0].input.inline)
    assert shown == naming.get("inputParameters", {})


async def test_scripts_go_to_the_nodes_evaluator(bench: Bench, stubs: Stubs) -> None:
    bench.driver.register(workflow("order", SCRIPT))

    async def evaluate(work: Work) -> Outcome:
        await asyncio.sleep(0)
        return Outcome(ended=Ended.COMPLETED, output=b'{"result":41}')

    bench.evaluate = evaluate
    reply = await soon("the test", stubs.workflows.TestWorkflow(asked()))
    assert reply.workflow.tasks[0].output.inline == b'{"result":41}'


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("name", asked(start=pb.StartWorkflowRequest())),
        ("mocks.tasks[a][0].status",
         asked(mocks=pb.Mocks(tasks={"a": outcome(status=pb.TASK_STATUS_TIMED_OUT)}))),
        ("mocks.sub_workflows[s].tasks[a][0].output",
         asked(mocks=pb.Mocks(sub_workflows={"s": pb.Mocks(tasks={"a": outcome(b"[]")})}))),
        ("mocks.tasks[a][0].execution_ms", asked(mocks=pb.Mocks(tasks={"a": outcome(execution_ms=1 << 50)}))),
        ("mocks", asked(mocks=pb.Mocks(tasks={"a": pb.TaskMocks(outcomes=[pb.TaskMock()] * 10_001)}))),
        ("workflow_definition_json", asked(workflow_definition_json=[b"{}"] * 101)),
    ],
)
async def test_what_breaks_a_rule_is_named(stubs: Stubs, field: str, request_: pb.TestWorkflowRequest) -> None:
    error = await failure(stubs.workflows.TestWorkflow(request_))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(error).metadata["field"] == field


async def test_a_refusal_is_that_of_a_start(stubs: Stubs) -> None:
    error = await failure(stubs.workflows.TestWorkflow(asked()))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "WORKFLOW_DEFINITION_NOT_FOUND")
    error = await failure(stubs.workflows.TestWorkflow(asked(workflow_definition_json=[b"{}"])))
    assert info_of(error).reason == "DEFINITION_INVALID"


@pytest.mark.parametrize(
    ("limit", "most", "named"),
    [((stage, "STEPS_MAX"), 5, "steps"), ((rehearsals, "ANSWER_BYTES_MAX"), 100, "bytes of the answer")],
)
async def test_a_test_that_is_too_large_is_refused_for_good(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch, limit: tuple[Any, str], most: int, named: str
) -> None:
    bench.order("pay", "ship")
    monkeypatch.setattr(*limit, most)
    error = await failure(
        stubs.workflows.TestWorkflow(asked(mocks=pb.Mocks(tasks={"pay": outcome(), "ship": outcome()})))
    )
    info = info_of(error)
    assert (error.code(), info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TEST_TOO_LARGE")
    assert dict(info.metadata) == {"field": named, "limit": str(most)}


async def test_tests_are_bounded_in_time_and_in_number(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.driver.register(workflow("order", SCRIPT))
    evaluating = 0

    async def evaluate(work: Work) -> Outcome:
        nonlocal evaluating
        evaluating += 1
        await asyncio.Event().wait()
        raise AssertionError("it never ends")

    bench.evaluate = evaluate
    waiting = [asyncio.ensure_future(stubs.workflows.TestWorkflow(asked())) for _ in range(rehearsals.AT_ONCE)]
    await until("all of them to evaluate", lambda: evaluating == rehearsals.AT_ONCE)
    error = await failure(stubs.workflows.TestWorkflow(asked()))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    for call in waiting:
        call.cancel()
    await until("them to be cancelled", lambda: all(call.done() for call in waiting))
    monkeypatch.setattr(rehearsals, "SECONDS_MAX", 0.05)
    late = await failure(_as_soon_as_there_is_room(stubs))
    assert (info_of(late).reason, info_of(late).metadata["field"]) == ("TEST_TOO_LARGE", "seconds")


async def _as_soon_as_there_is_room(stubs: Stubs) -> Any:
    """The server may learn of a cancellation later than the client."""
    while True:
        try:
            return await stubs.workflows.TestWorkflow(asked())
        except grpc.aio.AioRpcError as error:
            if info_of(error).reason != "OVERLOADED":
                raise
