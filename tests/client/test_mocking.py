"""Tests of workflows with mocked outcomes with the SDK and by the command line, against a real node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.app import cli
from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.cli.session import Session
from orchestrator_client import (
    Client,
    CompensationState,
    InvalidRequest,
    Mocks,
    NotFound,
    Retry,
    TaskMock,
    Workflow,
    WorkflowStatus,
    task,
)

DOUBLED = {
    "name": "doubled", "version": 1, "schemaVersion": 2, "outputParameters": {"twice": "${double.output.result}"},
    "tasks": [
        {"name": "charge", "taskReferenceName": "charge", "type": "SIMPLE"},
        {"name": "double", "taskReferenceName": "double", "type": "INLINE",
         "inputParameters": {"evaluatorType": "javascript", "expression": "$.n * 2", "n": "${charge.output.n}"}},
    ],
}


@task(retry=Retry.fixed(delay_ms=1_000, attempts=2))
async def charge(amount: int) -> str:
    raise AssertionError("no task is executed")


@charge.compensation
async def refund(amount: int, done: str | None) -> None:
    raise AssertionError("no task is executed")


@task
async def ship(receipt: str) -> str:
    raise AssertionError("no task is executed")


def order() -> Workflow:
    workflow = Workflow("order")
    paid = workflow.step(charge, amount=5)
    workflow.returns(tracking=workflow.step(ship, paid))
    return workflow


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path / "cluster", nodes=1) as made:
        yield made
        print(made.nodes["a"].log_tail())


@pytest.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with Client(cluster.endpoints) as made:
        yield made


async def test_a_workflow_is_tried_before_anything_of_it_exists(client: Client) -> None:
    fails, paid = TaskMock(status="FAILED", reason="no money"), TaskMock({"result": "r1"}, execution_ms=500)
    tested = await client.test_workflow(order(), mocks={"charge": [fails, paid], "ship": TaskMock({"result": "t1"})})
    assert tested.execution.status is WorkflowStatus.COMPLETED
    assert tested.execution.output == {"tracking": "t1"}
    assert [(one.reference, one.attempt, one.reason) for one in tested.execution.tasks] == [
        ("charge", 1, "no money"), ("charge", 2, ""), ("ship", 1, "")
    ]
    end, start = tested.execution.end_time, tested.execution.start_time
    assert end is not None and start is not None
    assert (end - start).total_seconds() == 1.5
    with pytest.raises(NotFound):
        await client.get(tested.execution.workflow_id)
    with pytest.raises(NotFound):
        await client.workflow_definition("order")


async def test_a_saga_turns_round(client: Client) -> None:
    lost = TaskMock(status="FAILED_WITH_TERMINAL_ERROR", reason="no trucks", error_code="NO_TRUCKS")
    mocks = Mocks({"charge": TaskMock({"result": "r1"}), "ship": lost, "charge__compensation": TaskMock()})
    tested = await client.test_workflow(order(), mocks=mocks)
    assert (tested.execution.status, tested.execution.error_code) == (WorkflowStatus.FAILED, "NO_TRUCKS")
    assert tested.execution.compensation.state is CompensationState.COMPLETE


async def test_scripts_are_evaluated_by_the_node(client: Client) -> None:
    tested = await client.test_workflow(DOUBLED, mocks={"charge": TaskMock({"n": 21})})
    assert tested.execution.output == {"twice": 42}


async def test_sub_workflows_and_definitions_of_the_test_alone(client: Client) -> None:
    parent = {"name": "s", "taskReferenceName": "s", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "doubled"}}
    flow = {"name": "flow", "version": 1, "schemaVersion": 2, "tasks": [parent]}
    inner = Mocks(sub_workflows={"s": Mocks({"charge": TaskMock({"n": 2})})})
    tested = await client.test_workflow(flow, mocks=inner, definitions=[DOUBLED])
    assert [one.output["twice"] for one in tested.sub_workflows] == [4]
    document = {
        "workflowDef": flow,
        "subWorkflowTestRequest": {"s": {"name": "doubled", "workflowDef": DOUBLED, "taskRefToMockOutput": {"x": []}}},
    }
    waiting = await client.test_document(document)
    assert waiting.without_mock == ["s/charge"]


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"nothing": 1}, "nothing"),
        ({"version": "one"}, "version"),
        ({"taskRefToMockOutput": {"a": {}}}, "taskRefToMockOutput.a"),
        ({"taskRefToMockOutput": {"a": [{"result": 1}]}}, "taskRefToMockOutput.a.result"),
        ({"taskRefToMockOutput": {"a": [{"status": "DONE"}]}}, "DONE"),
        ({"subWorkflowTestRequest": {"s": {"taskRefToMockOutput": [1]}}}, "subWorkflowTestRequest.s.taskRefToMock"),
        ({"subWorkflowTestRequest": {"s": 1}}, "subWorkflowTestRequest.s"),
        ({"subWorkflowTestRequest": {"s": {"x": 1}}}, "subWorkflowTestRequest.s.x"),
    ],
)
async def test_a_document_that_says_what_nobody_understands_is_refused(document: dict[str, Any], where: str) -> None:
    async with Client(["127.0.0.1:1"]) as nowhere:
        with pytest.raises(InvalidRequest, match=where):
            await nowhere.test_document(document)


async def test_the_command_line_shows_it(cluster: LocalCluster, tmp_path: Path) -> None:
    test = {"name": "doubled", "taskRefToMockOutput": {"charge": [{"output": {"n": 3}, "executionTime": 10}]}}
    (tmp_path / "test.json").write_text(json.dumps(test))
    (tmp_path / "doubled.json").write_text(json.dumps(DOUBLED))
    arguments = ["workflow", "test", str(tmp_path / "test.json"), "-d", str(tmp_path / "doubled.json")]

    def run(*more: str) -> Any:
        return CliRunner().invoke(cli, [*arguments, *more], obj=Session(endpoints=",".join(cluster.endpoints)))

    result = await asyncio.to_thread(run)
    assert result.exit_code == 0, result.output
    assert "COMPLETED" in result.stdout and '{"twice": 6}' in result.stdout
    shown = json.loads((await asyncio.to_thread(run, "--json")).stdout)
    assert shown["execution"]["output"] == {"twice": 6}
    shown = json.loads((await asyncio.to_thread(run, "--conductor")).stdout)
    assert (shown["workflowName"], shown["status"], shown["output"]) == ("doubled", "COMPLETED", {"twice": 6})
    (tmp_path / "test.json").write_text('{"name": "doubled", "taskRefToMockOutput": {"other": [{}]}}')
    result = await asyncio.to_thread(run)
    assert result.exit_code == 1
    assert "without a mock" in result.stdout and "unused mocks" in result.stdout
