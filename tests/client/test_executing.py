"""Synchronous execution, and executions as Conductor shows them, with the SDK and by the command line."""

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
    Awaited,
    Client,
    InvalidRequest,
    NotFound,
    ReturnStrategy,
    SyncClient,
    WorkflowStatus,
)


def one(reference: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": reference, "taskReferenceName": reference, "type": kind, **fields}


ASKING = {
    "name": "asking", "version": 1, "schemaVersion": 2, "outputParameters": {"answer": "${ask.output.answer}"},
    "tasks": [one("set", "SET_VARIABLE", inputParameters={"n": 1}),
              one("ask", "HUMAN", inputParameters={"question": "${workflow.input.question}"})],
    "maskedFields": ["pin"],
}
OUTER = {
    "name": "outer", "version": 1, "schemaVersion": 2,
    "tasks": [one("sub", "SUB_WORKFLOW", subWorkflowParam={"name": "asking"},
                  inputParameters={"question": "${workflow.input.question}"})],
}
# Nobody serves its task.
UNSERVED = {"name": "unserved", "version": 1, "schemaVersion": 2, "tasks": [one("work", "SIMPLE")]}
QUESTION = {"question": "yes?", "pin": 4711}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path / "cluster", nodes=1) as made:
        yield made
        print(made.nodes["a"].log_tail())


@pytest.fixture
async def client(cluster: LocalCluster) -> AsyncIterator[Client]:
    async with Client(cluster.endpoints) as made:
        await made.register(ASKING, OUTER)
        yield made


async def test_somebody_is_asked_in_a_sub_workflow_and_answers(client: Client) -> None:
    blocked = await client.execute("outer", QUESTION, id="w", wait_s=30, return_strategy="BLOCKING_TASK_INPUT")
    assert blocked.return_strategy is ReturnStrategy.BLOCKING_TASK_INPUT
    assert (blocked.target_workflow_id, blocked.target_status) == ("w", WorkflowStatus.RUNNING)
    assert blocked.task is not None and blocked.task.input == {"question": "yes?"}
    assert blocked.workflow is None and not blocked.timed_out
    sub = (await client.wait_blocked("w", return_strategy=ReturnStrategy.BLOCKING_WORKFLOW)).workflow
    assert sub is not None and (sub.name, sub.workflow_id) == ("asking", blocked.workflow_id)
    ended = await client.signal_task("w", output={"answer": 42}, wait_s=30)
    assert isinstance(ended, Awaited) and ended.workflow is not None
    assert (ended.workflow.workflow_id, ended.target_status) == ("w", WorkflowStatus.COMPLETED)
    assert ended.workflow.output["answer"] == 42
    with pytest.raises(NotFound, match="waits neither"):
        await client.signal_task((await client.start(UNSERVED)).workflow_id)


async def test_the_end_of_a_task_or_of_the_time_is_enough(client: Client) -> None:
    travels = OUTER | {"name": "travels"}
    found = await client.execute(travels, wait_s=30, wait_until=["set"], return_strategy="BLOCKING_TASK")
    assert found.task is not None and found.task.reference == "set"
    later = UNSERVED | {"name": "later", "tasks": [one("wait", "WAIT", inputParameters={"duration": "1 hours"})]}
    late = await client.execute(later, wait_s=0.1)
    assert late.timed_out and late.workflow is not None and late.workflow.tasks[0].reference == "wait"
    with pytest.raises(InvalidRequest, match="return_strategy is one of"):
        await client.execute("asking", id="never", return_strategy="ALL")
    with pytest.raises(NotFound):
        await client.get("never")


async def test_documents_in_conductors_shape(client: Client) -> None:
    run = await client.conductor.execute("outer", QUESTION, id="it's *", wait_s=30, correlation_id="c")
    assert (run["responseType"], run["targetWorkflowId"], run["status"]) == ("TARGET_WORKFLOW", "it's *", "RUNNING")
    document = await client.conductor.get("it's *")
    assert (document["workflowName"], document["correlationId"]) == ("outer", "c")
    [sub] = document["tasks"]
    child = await client.conductor.get(sub["subWorkflowId"])
    assert (child["parentWorkflowId"], child["parentWorkflowTaskId"]) == ("it's *", sub["taskId"])
    assert [task["taskType"] for task in child["tasks"]] == ["SET_VARIABLE", "HUMAN"]
    assert (await client.conductor.get("it's *", tasks=False))["tasks"] == []
    assert [task["taskType"] async for task in client.conductor.tasks("it's *")] == ["SUB_WORKFLOW"]
    [summary] = [one async for one in client.conductor.search(query="workflowType = outer")]
    assert (summary["workflowType"], summary["workflowId"]) == ("outer", "it's *")
    [whole] = [one async for one in client.conductor.search(query="workflowType = asking", full=True)]
    assert whole["variables"] == {"n": 1}
    [task] = [one async for one in client.conductor.search_tasks(query="taskType = HUMAN")]
    assert (task["taskType"], task["workflowType"], task["status"]) == ("HUMAN", "asking", "IN_PROGRESS")
    ended = await client.conductor.signal("it's *", output={"answer": 1}, wait_s=30)
    assert (ended["targetWorkflowStatus"], ended["signalTimeout"]) == ("COMPLETED", False)


async def test_the_command_line_does_the_same(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    session = Session(endpoints=",".join(cluster.endpoints))

    async def run(*arguments: str) -> Any:
        result = await asyncio.to_thread(CliRunner().invoke, cli, list(arguments), obj=session)
        assert result.exit_code == 0, result.output
        return result.stdout

    executed = ("workflow", "execute", "outer", "-i", json.dumps(QUESTION), "--id", "w", "--wait-seconds", "30")
    shown = await run(*executed, "--return", "blocking_task")
    assert "ask of" in shown and "yes?" in shown
    more = (*executed, "--if-exists", "return")
    assert json.loads(await run(*more, "--return", "BLOCKING_WORKFLOW", "--json"))["workflow"]["name"] == "asking"
    assert json.loads(await run(*more, "--conductor"))["targetWorkflowId"] == "w"
    assert json.loads(await run("workflow", "get", "w", "--conductor"))["workflowName"] == "outer"
    found = json.loads(await run("workflow", "search", "--conductor", "-q", "workflowId = w"))
    assert found[0]["workflowType"] == "outer"
    found = json.loads(await run("task", "search", "--conductor", "--full", "-q", "taskType = HUMAN"))
    assert found[0]["inputData"] == {"question": "yes?"}
    blocked = json.loads(await run("workflow", "wait-blocked", "w", "--return", "BLOCKING_TASK", "--conductor"))
    assert blocked["referenceTaskName"] == "ask"
    shown = await run("task", "signal", "w", "-o", '{"answer": 3}', "--wait-seconds", "30")
    assert "COMPLETED" in shown
    (tmp_path / "asking.json").write_text(json.dumps(ASKING | {"name": "unregistered"}))
    unregistered = ("workflow", "execute", "--definition", str(tmp_path / "asking.json"), "--id", "u")
    assert "unregistered" in await run(*unregistered)
    signalled = json.loads(await run("task", "signal", "u", "FAILED", "--conductor", "--wait-seconds", "30"))
    assert signalled["status"] == "FAILED"


def test_without_asyncio(tmp_path: Path) -> None:
    async def serve() -> None:
        async with LocalCluster(tmp_path / "cluster", nodes=1) as cluster:
            await asyncio.to_thread(use, cluster.endpoints)

    def use(endpoints: list[str]) -> None:
        with SyncClient(endpoints) as client:
            client.register(ASKING)
            assert client.conductor.execute("asking", QUESTION, id="w")["status"] == "RUNNING"
            assert client.wait_blocked("w").target_workflow_id == "w"
            assert [task["taskType"] for task in client.conductor.tasks("w")] == ["SET_VARIABLE", "HUMAN"]
            assert client.signal_task("w") is None
            assert client.run("w").wait(30).status == "COMPLETED"

    asyncio.run(serve())
