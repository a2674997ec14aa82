"""Searches over the wire: what is asked reaches the database, and what is found comes back as it was asked for."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import TerminateWorkflow
from orchestrator.rpc import searching
from orchestrator.storage.paging import Window
from orchestrator.storage.search import ExecutionFilter, Page
from orchestrator.storage.task_search import FoundTask, TaskFilter, TaskPage
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of


@pytest.fixture
def asked(bench: Bench) -> list[tuple[Any, int, str]]:
    """Each search that reached the database: three executions of one task are found, in the order of their ids."""
    bench.order("pay")
    for number in range(3):
        bench.start(f"w{number}")
    bench.driver.ok(TerminateWorkflow("default", "w2", "stop", TerminateCompensation.SKIP))
    calls: list[tuple[Any, int, str]] = []

    def found(wanted: Any, size: int, token: str) -> Page | TaskPage:
        calls.append((wanted, size, token))
        first = int(token or 0)
        headers = [bench.driver.header(f"w{number}") for number in range(3)][first : first + size]
        following = str(first + size) if first + size < 3 else ""
        total = 10_000 if wanted.window.count_total else None
        if isinstance(wanted, ExecutionFilter):
            return Page(headers, following, total)
        tasks = [FoundTask(header, bench.driver.latest("pay", header.workflow_id)) for header in headers]
        return TaskPage(tasks, following, total)

    bench.pages = found
    return calls


async def test_everything_that_was_asked_reaches_the_database(asked: list[Any], stubs: Stubs) -> None:
    query = "status = RUNNING OR workflowId = 'w*'"
    request = pb.SearchWorkflowsRequest(
        name="order", query=query, free_text="x", sort="endTime:ASC", count_total=True, skip=5, page=PageRequest(size=7)
    )
    reply = await stubs.workflows.SearchWorkflows(request)
    wanted = ExecutionFilter(
        "default", name="order", query=query, free_text="x", sort="endTime:ASC", window=Window(5, count_total=True)
    )
    assert asked == [(wanted, 7, "")]
    assert (reply.total_hits, reply.total_is_lower_bound) == (10_000, True)


async def test_everything_that_was_asked_of_tasks_reaches_the_database(asked: list[Any], stubs: Stubs) -> None:
    request = pb.SearchTasksRequest(query="taskType = pay", free_text="x", sort="workerId:DESC", skip=5)
    reply = await stubs.workflows.SearchTasks(request)
    assert asked == [(TaskFilter("default", "taskType = pay", "x", "workerId:DESC", Window(5)), 100, "")]
    assert (reply.total_hits, reply.total_is_lower_bound) == (0, False)


async def test_summaries_have_no_payloads(asked: list[Any], stubs: Stubs) -> None:
    workflows = (await stubs.workflows.SearchWorkflows(pb.SearchWorkflowsRequest())).workflows
    assert [each.workflow_id for each in workflows] == ["w0", "w1", "w2"]
    assert not any(each.HasField("input") for each in workflows)
    tasks = (await stubs.workflows.SearchTasks(pb.SearchTasksRequest())).tasks
    assert [(each.workflow_id, each.workflow_name, each.task.reference) for each in tasks] == [
        (f"w{number}", "order", "pay") for number in range(3)
    ]
    assert tasks[2].workflow_status == pb.WORKFLOW_STATUS_TERMINATED
    assert not any(each.task.HasField("input") for each in tasks)


async def test_full_ones_have_payloads(asked: list[Any], stubs: Stubs) -> None:
    workflows = (await stubs.workflows.SearchWorkflows(pb.SearchWorkflowsRequest(full=True))).workflows
    assert [each.input.inline for each in workflows] == [b"{}"] * 3
    assert not workflows[0].tasks
    tasks = (await stubs.workflows.SearchTasks(pb.SearchTasksRequest(full=True))).tasks
    assert [each.task.input.inline for each in tasks] == [b"{}"] * 3


async def test_a_page_of_full_ones_ends_where_it_gets_too_large(
    asked: list[Any], stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token is that of the last one that is in it."""
    monkeypatch.setattr(searching, "FULL_PAGE_BYTES", 100)
    for call, request in (
        (stubs.workflows.SearchWorkflows, pb.SearchWorkflowsRequest(full=True)),
        (stubs.workflows.SearchTasks, pb.SearchTasksRequest(full=True)),
    ):
        found = []
        while True:
            reply = await call(request)
            page = list(reply.workflows if hasattr(reply, "workflows") else reply.tasks)
            assert len(page) < 3
            found += [each.workflow_id for each in page]
            if not reply.next_token:
                break
            request.page.token = reply.next_token
        assert found == ["w0", "w1", "w2"]


@pytest.mark.parametrize(("fields", "field", "message"), [
    ({"query": "color = red"}, "query", "at 1: there is no field 'color'; there are"),
    ({"query": "x" * 4_001}, "query", "the limit is 4000"),
    ({"sort": "color:ASC"}, "sort", "there is no field 'color'"),
    ({"free_text": "x" * 201}, "free_text", "the limit is 200"),
    ({"skip": 10_001}, "skip", "it must be from 0 to 10000"),
    ({"full": True, "page": PageRequest(size=101)}, "page.size", "it must be from 1 to 100"),
])
async def test_what_cannot_be_searched_is_refused_with_its_field(
    asked: list[Any], stubs: Stubs, fields: dict[str, Any], field: str, message: str
) -> None:
    for call, request in (
        (stubs.workflows.SearchWorkflows, pb.SearchWorkflowsRequest(**fields)),
        (stubs.workflows.SearchTasks, pb.SearchTasksRequest(**fields)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert info_of(refused.value).metadata["field"] == field
        assert message in str(refused.value.details())
    assert not asked


@pytest.mark.parametrize(("field", "value"), [("seconds", 2**63 - 1), ("seconds", -(2**63)), ("nanos", -1)])
async def test_times_that_are_none_are_refused(stubs: Stubs, field: str, value: int) -> None:
    request = pb.SearchWorkflowsRequest(started_from=Timestamp(**{field: value}))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stubs.workflows.SearchWorkflows(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(refused.value).metadata["field"] == f"started_from.{field}"
