"""One operation on many executions, over the wire: each by a command of its own, with an answer of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from orchestrator.engine import commands
from orchestrator.engine.model import WorkflowStatus
from orchestrator.replication.errors import NotLeader, OutcomeUnknown, Overloaded
from orchestrator.rpc import bulk
from orchestrator_api.v1 import workflows_pb2 as pb
from tests.engine.driver import simple, workflow
from tests.rpc.bench import Bench, Stubs, until
from tests.rpc.test_workflows import failure, field_refused

ULID = "01HF7YAT00" + "0" * 16  # of the driver's time
PAUSE, RESUME, RETRY = pb.WORKFLOW_OPERATION_PAUSE, pb.WORKFLOW_OPERATION_RESUME, pb.WORKFLOW_OPERATION_RETRY
TERMINATE, DELETE = pb.WORKFLOW_OPERATION_TERMINATE, pb.WORKFLOW_OPERATION_DELETE
BOTH = pb.WORKFLOW_OPERATION_TERMINATE_AND_DELETE


@pytest.fixture(autouse=True)
def started(bench: Bench) -> None:
    bench.driver.register(workflow("order", simple("pay", "refund"), simple("ship", retryCount=0)))
    for number in range(3):
        bench.start(f"w{number}")
    bench.driver.now_ms += 1


async def operate(stubs: Stubs, operation: Any, *ids: str, **fields: Any) -> tuple[list[str], dict[str, str]]:
    """(ids of those to which it was done, reason of each of the others)"""
    request = pb.OperateWorkflowsRequest(operation=operation, workflow_ids=ids, **fields)
    reply = await stubs.workflows.OperateWorkflows(request)
    return list(reply.succeeded), {failed.workflow_id: failed.reason for failed in reply.failed}


def statuses(bench: Bench) -> list[str]:
    ids = [f"w{number}" for number in range(3)]
    return ["-" if bench.driver.is_gone(one) else bench.driver.header(one).status.name for one in ids]


def test_every_operation_is_in_the_table() -> None:
    assert set(bulk.OPERATIONS) == set(pb.WorkflowOperation.values()) - {pb.WORKFLOW_OPERATION_UNSPECIFIED}


async def test_each_execution_answers_for_itself(bench: Bench, stubs: Stubs) -> None:
    assert await operate(stubs, PAUSE, "w0", "none", "w1", "w0") == (
        ["w0", "w1"],
        {"none": "WORKFLOW_NOT_FOUND"},
    )
    assert statuses(bench) == ["PAUSED", "PAUSED", "RUNNING"]
    done, failed = await operate(stubs, RESUME, "w0", "w1", "w2")
    assert (done, failed) == (["w0", "w1"], {"w2": "WORKFLOW_NOT_PAUSED"})
    [refused] = (
        await stubs.workflows.OperateWorkflows(pb.OperateWorkflowsRequest(operation=RETRY, workflow_ids=["w2"]))
    ).failed
    code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert (refused.code, refused.message) == (code, "the workflow is still running")


async def test_retrying_says_whether_sub_workflows_go_on(bench: Bench, stubs: Stubs) -> None:
    sub = {"name": "s", "taskReferenceName": "s", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "inner"}}
    bench.driver.worker("s", "work")
    bench.driver.register(workflow("inner", simple("work", retryCount=0)), workflow("outer", sub))
    for resume in (True, False):
        name = f"outer-{resume}"
        bench.driver.start("outer", name)
        child = bench.driver.latest("s", name).child
        bench.driver.fail("work", workflow_id=child)
        bench.driver.now_ms += 1
        assert await operate(stubs, RETRY, name, resume_sub_workflows=resume) == ([name], {})
        assert (bench.driver.latest("s", name).child == child) is resume
        bench.driver.give("work", workflow_id=bench.driver.latest("s", name).child)
        assert bench.driver.header(name).status.name == "COMPLETED"


async def test_terminating_and_deleting(bench: Bench, stubs: Stubs) -> None:
    assert await operate(stubs, TERMINATE, "w0", reason="enough") == (["w0"], {})
    assert bench.driver.header("w0").reason == "enough"
    bench.driver.now_ms += 1
    assert await operate(stubs, DELETE, "w0", "w1") == (["w0"], {"w1": "WORKFLOW_RUNNING"})
    assert await operate(stubs, BOTH, "w1", "w2", "w0") == (["w1", "w2"], {"w0": "WORKFLOW_NOT_FOUND"})
    assert statuses(bench) == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("fields", "failed", "left"),
    [
        ({}, {"w0": "COMPENSATION_UNDECIDED"}, "RUNNING"),
        ({"compensation": pb.TERMINATE_COMPENSATION_SKIP}, {}, "-"),
        ({"compensation": pb.TERMINATE_COMPENSATION_RUN}, {}, "COMPENSATING"),
    ],
)
async def test_what_terminating_says_of_completed_steps_holds_for_deleting(
    bench: Bench, stubs: Stubs, fields: Any, failed: Any, left: str
) -> None:
    bench.apply(commands.PollTasks("p", "default", "", "w", ("pay",), 1))
    bench.driver.give("pay", workflow_id="w0")
    assert (await operate(stubs, BOTH, "w0", **fields))[1] == failed
    assert statuses(bench)[0] == left
    if left == "COMPENSATING":
        assert await operate(stubs, BOTH, "w0", effects=pb.DELETE_EFFECTS_COMPENSATE_FIRST) == (["w0"], {})
        bench.apply(commands.PollTasks("p", "default", "", "w", ("refund",), 1))
        bench.driver.give(bench.driver.undoing("pay", "w0"), workflow_id="w0")
        assert statuses(bench)[0] == "-"


async def test_repeated_under_its_id_it_answers_as_before(bench: Bench, stubs: Stubs) -> None:
    await operate(stubs, PAUSE, "w0", "w1")
    first = await operate(stubs, RESUME, "w0", "w1", "w2", request_id=ULID)
    assert first == (["w0", "w1"], {"w2": "WORKFLOW_NOT_PAUSED"})
    assert await operate(stubs, RESUME, "w0", "w1", "w2", request_id=ULID) == first
    assert await operate(stubs, RESUME, "w0", request_id=ULID[:-1] + "1") == ([], {"w0": "WORKFLOW_NOT_PAUSED"})
    ids = [identity.request_id for identity in bench.identities if identity is not None]
    assert len(set(ids)) == 4
    assert {one[:10] for one in ids} == {ULID[:10]}


async def test_a_thousand_are_done_and_not_all_at_once(bench: Bench, stubs: Stubs) -> None:
    bench.gate.clear()
    ids = [f"none{number}" for number in range(1000)]
    call = asyncio.ensure_future(operate(stubs, PAUSE, *ids))
    await until("the first are under way", lambda: len(bench.submitted) >= bulk.AT_ONCE_MAX)
    assert len(bench.submitted) == bulk.AT_ONCE_MAX
    bench.gate.set()
    done, failed = await call
    assert (done, list(failed)) == ([], ids)


async def test_who_leads_no_longer_says_so_and_not_half_an_answer(bench: Bench, stubs: Stubs) -> None:
    bench.refuse = lambda command: OutcomeUnknown() if command.workflow_id == "w1" else None  # type: ignore[union-attr]  # of one execution
    error = await failure(operate(stubs, PAUSE, "w0", "w1"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    bench.refuse = lambda command: NotLeader("n2")
    bench.lose_leadership()
    error = await failure(operate(stubs, PAUSE, "w0"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_full_queue_is_told_of_each_execution(bench: Bench, stubs: Stubs) -> None:
    bench.refuse = lambda command: Overloaded("full") if command.workflow_id == "w1" else None  # type: ignore[union-attr]  # of one execution
    assert await operate(stubs, PAUSE, "w0", "w1") == (["w0"], {"w1": "OVERLOADED"})
    assert bench.driver.header("w0").status is WorkflowStatus.PAUSED


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("operation", {"workflow_ids": ["w"]}),
        ("workflow_ids", {"operation": PAUSE}),
        ("workflow_ids", {"operation": PAUSE, "workflow_ids": ["w"] * 1001}),
        ("workflow_ids[1]", {"operation": PAUSE, "workflow_ids": ["w", ""]}),
        ("request.request_id", {"operation": PAUSE, "workflow_ids": ["w"], "request_id": "x"}),
        ("reason", {"operation": TERMINATE, "workflow_ids": ["w"], "reason": "x" * 2001}),
    ],
)
async def test_what_is_wrong_with_the_request_is_named(stubs: Stubs, field: str, fields: Any) -> None:
    assert await field_refused(stubs.workflows.OperateWorkflows(pb.OperateWorkflowsRequest(**fields))) == field
