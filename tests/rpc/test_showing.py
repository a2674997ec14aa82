"""The view that is asked for, and answers that do not fit into a message."""

from __future__ import annotations

from typing import Any

import grpc
import msgspec
import pytest

from orchestrator.rpc import showing
from orchestrator.storage.search import Page
from orchestrator.storage.task_search import FoundTask, TaskFilter, TaskPage
from orchestrator_api.v1 import workflows_pb2 as pb
from tests.engine.driver import workflow
from tests.rpc.bench import Bench, Stubs, soon
from tests.rpc.statuses import info_of


def found(bench: Bench, *workflow_ids: str) -> None:
    """Every search finds these, and their tasks `pay`."""
    headers = [bench.driver.header(name) for name in workflow_ids]

    def search(wanted: Any, size: int, token: str) -> Page | TaskPage:
        if isinstance(wanted, TaskFilter):
            tasks = [FoundTask(header, bench.driver.latest("pay", header.workflow_id)) for header in headers]
            return TaskPage(tasks, "", None)
        return Page(headers, "", None)

    bench.pages = search


async def get(stubs: Stubs, workflow_id: str = "w", **fields: Any) -> pb.Workflow:
    request = pb.GetWorkflowRequest(workflow_id=workflow_id, view=pb.VIEW_CONDUCTOR, **fields)
    return (await soon("the workflow", stubs.workflows.GetWorkflow(request))).workflow


async def test_an_execution_in_conductors_view_is_its_document_and_little_else(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    bench.start("w", b'{"n":1}')
    shown = await get(stubs, include_tasks=True)
    document = msgspec.json.decode(shown.conductor_json)
    shown.ClearField("conductor_json")
    assert shown == pb.Workflow(workflow_id="w", namespace="default", status=pb.WORKFLOW_STATUS_RUNNING)
    assert (document["workflowName"], document["status"], document["input"]) == ("order", "RUNNING", {"n": 1})
    assert [task["referenceTaskName"] for task in document["tasks"]] == ["pay"]
    assert document["workflowDefinition"]["tasks"][0]["name"] == "pay"
    assert msgspec.json.decode((await get(stubs)).conductor_json)["tasks"] == []


@pytest.mark.parametrize("is_cold", [False, True], ids=["hot", "cold"])
async def test_a_sub_workflow_says_which_task_has_started_it(bench: Bench, stubs: Stubs, is_cold: bool) -> None:
    """Also where the parent has left the memory."""
    sub = {"name": "s", "taskReferenceName": "s", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "order"}}
    bench.order("pay")
    bench.driver.register(workflow("flow", sub))
    bench.driver.start("flow")
    started_by = bench.driver.latest("s")
    if is_cold:
        bench.go_cold("w")
    document = msgspec.json.decode((await get(stubs, started_by.child)).conductor_json)
    assert (document["parentWorkflowId"], document["parentWorkflowTaskId"]) == ("w", started_by.task_id)


async def test_what_searches_find_in_conductors_view(bench: Bench, stubs: Stubs) -> None:
    """Summaries, or the whole where that is asked for."""
    bench.order("pay")
    bench.start("w0", b'{"n":1}')
    found(bench, "w0")
    for full, names in ((False, ("workflowType", "taskDefName")), (True, ("workflowName", "inputData"))):
        asked = {"full": full, "view": pb.VIEW_CONDUCTOR}
        request = pb.SearchWorkflowsRequest(**asked)
        [execution] = (await soon("workflows", stubs.workflows.SearchWorkflows(request))).workflows
        [one] = (await soon("tasks", stubs.workflows.SearchTasks(pb.SearchTasksRequest(**asked)))).tasks
        assert (execution.workflow_id, execution.HasField("input")) == ("w0", False)
        assert (one.workflow_id, one.task.reference, one.task.HasField("input")) == ("w0", "pay", False)
        assert names[0] in msgspec.json.decode(execution.conductor_json)
        assert names[1] in msgspec.json.decode(one.task.conductor_json)


@pytest.mark.parametrize("view", [pb.VIEW_NATIVE, pb.VIEW_CONDUCTOR])
async def test_what_does_not_fit_into_a_message_is_refused_and_says_what_to_do(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch, view: Any
) -> None:
    """Without its tasks it is answered; its tasks come page by page."""
    bench.order(*(f"pay{number}" for number in range(30)))
    bench.driver.worker("s", *(f"pay{number}" for number in range(30)))
    bench.start("w")
    for number in range(30):
        bench.driver.give(f"pay{number}", msgspec.json.encode({"n": "x" * 1_000}))
    monkeypatch.setattr(showing, "ANSWER_BYTES_MAX", 20_000)
    request = pb.GetWorkflowRequest(workflow_id="w", include_tasks=True, view=view)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await soon("the answer", stubs.workflows.GetWorkflow(request))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "search for tasks by its workflowId" in str(refused.value.details())
    info = info_of(refused.value)
    assert (info.reason, info.metadata["workflow"], info.metadata["limit"]) == ("ANSWER_TOO_LARGE", "w", "20000")
    request.include_tasks = False
    assert (await soon("the answer", stubs.workflows.GetWorkflow(request))).workflow.workflow_id == "w"


async def test_there_are_no_other_views(bench: Bench, stubs: Stubs) -> None:
    for call, request in (
        (stubs.workflows.GetWorkflow, pb.GetWorkflowRequest(workflow_id="w", view=7)),  # type: ignore[arg-type]
        (stubs.workflows.SearchWorkflows, pb.SearchWorkflowsRequest(view=7)),  # type: ignore[arg-type]
        (stubs.workflows.SearchTasks, pb.SearchTasksRequest(view=7)),  # type: ignore[arg-type]
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await soon("the answer", call(request))
        assert info_of(refused.value).metadata["field"] == "view"
