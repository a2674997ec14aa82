"""Executions and attempts as Conductor shows them.

`REWRITE=1 pytest tests/rpc/test_conductor_view.py` writes testdata/conductor_workflow.json anew: read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import PauseWorkflow, RetryWorkflow, SignalWorkflow, TerminateWorkflow
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.rpc import conductor_view
from orchestrator.rpc.slices import at_once
from tests.engine.driver import START_MS, Driver, simple, workflow
from tests.requirements.flows import fork

GOLDEN = Path(__file__).parent / "testdata" / "conductor_workflow.json"
PLENTY = 1 << 20


def whole(driver: Driver, workflow_id: str = "w", bytes_max: int = PLENTY, **fields: Any) -> Any:
    given: dict[str, Any] = {"include_tasks": True} | fields
    held = driver.hot(workflow_id)
    return msgspec.json.decode(at_once(conductor_view.workflow(driver.state, held, bytes_max=bytes_max, **given)))


def task(driver: Driver, reference: str, workflow_id: str = "w") -> Any:
    return next(one for one in reversed(whole(driver, workflow_id)["tasks"]) if one["referenceTaskName"] == reference)


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", "undo_a", slots=20)
    return driver


# --- statuses


@pytest.mark.parametrize("status", TaskStatus)
def test_statuses_of_tasks_have_the_same_names(driver: Driver, status: TaskStatus) -> None:
    driver.register(workflow("flow", simple("a")))
    driver.start("flow")
    attempt = replace(driver.latest("a"), status=status)
    shown = msgspec.json.decode(conductor_view.task(driver.state, driver.hot(), attempt))
    assert shown["status"] == status.name
    short = msgspec.json.decode(conductor_view.task_summary(driver.header(), attempt))
    assert short["status"] == status.name


@pytest.mark.parametrize("status", WorkflowStatus)
def test_statuses_of_workflows_are_those_that_conductor_has(driver: Driver, status: WorkflowStatus) -> None:
    """It has none for compensating: that is shown as running."""
    driver.register(workflow("flow", simple("a")))
    driver.start("flow")
    execution = replace(driver.header(), status=status)
    expected = "RUNNING" if status is WorkflowStatus.COMPENSATING else status.name
    assert conductor_view.status_of(execution) == expected
    assert msgspec.json.decode(conductor_view.summary(execution))["status"] == expected


def test_an_execution_that_compensates_runs_and_has_no_reason_yet(driver: Driver) -> None:
    """Its compensations are tasks; when all is undone it has failed, with the reason of the task that failed."""
    driver.register(workflow("flow", simple("a", "undo_a"), simple("b", retryCount=0)))
    driver.start("flow")
    driver.give("a")
    driver.fail("b", "no money")
    shown = whole(driver)
    assert (shown["status"], shown["endTime"]) == ("RUNNING", 0)
    assert "reasonForIncompletion" not in shown
    undoing = shown["tasks"][-1]
    assert (undoing["taskDefName"], undoing["taskType"], undoing["status"]) == ("undo_a", "undo_a", "IN_PROGRESS")
    assert undoing["workflowTask"] == {"name": "undo_a", "type": "SIMPLE"}
    driver.ok(PauseWorkflow("default", "w"))
    assert whole(driver)["status"] == "PAUSED"


def test_what_has_failed_stays_named_when_the_workflow_completes_later(driver: Driver) -> None:
    driver.register(workflow("flow", simple("a", retryCount=0)))
    driver.start("flow")
    driver.fail("a", "no money")
    shown = whole(driver)
    assert shown["status"] == "FAILED"
    assert "no money" in shown["reasonForIncompletion"]
    assert (shown["failedReferenceTaskNames"], shown["failedTaskNames"]) == (["a"], ["a"])
    driver.wait(5_000)
    driver.ok(RetryWorkflow("default", "w"))
    driver.give("a")
    shown = whole(driver)
    assert (shown["status"], shown["failedReferenceTaskNames"]) == ("COMPLETED", ["a"])
    assert "reasonForIncompletion" not in shown
    assert shown["lastRetriedTime"] == START_MS + 5_000
    first, second = shown["tasks"]
    assert (first["retried"], second["retriedTaskId"]) == (True, first["taskId"])


# --- fields


def test_a_sub_workflow_names_the_task_that_has_started_it(driver: Driver) -> None:
    sub = {"name": "s", "taskReferenceName": "s", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "child"}}
    driver.register(workflow("child", simple("a")), workflow("flow", sub))
    driver.start("flow")
    started_by = task(driver, "s")
    child = whole(driver, started_by["subWorkflowId"], parent_task=started_by["taskId"])
    assert (child["parentWorkflowId"], child["parentWorkflowTaskId"]) == ("w", started_by["taskId"])
    assert "parentWorkflowId" not in whole(driver)


def test_masked_fields_are_stars_in_the_whole_and_in_summaries(driver: Driver) -> None:
    given = simple("a", inputParameters={"card": "${workflow.input.card}"})
    driver.register(workflow("flow", given, maskedFields=["card", "token"], variables={"token": 1}))
    driver.start("flow", given=b'{"card":"4111","n":1}')
    driver.give("a", b'{"token":"secret"}')
    documents = [
        at_once(conductor_view.workflow(driver.state, driver.hot(), include_tasks=True, bytes_max=PLENTY)),
        conductor_view.summary(driver.header()),
        conductor_view.task_summary(driver.header(), driver.latest("a")),
        at_once(conductor_view.workflow_run(driver.state, driver.hot(), (), include_tasks=True, bytes_max=PLENTY)),
        conductor_view.task_run(driver.state, driver.hot(), driver.latest("a"), ()),
    ]
    for document in documents:
        assert b"4111" not in document and b"secret" not in document and b"***" in document
    assert whole(driver)["input"] == {"card": "***", "n": 1}


def test_a_summary_of_a_workflow(driver: Driver) -> None:
    driver.register(workflow("flow", simple("a")))
    driver.start("flow", given=b'{"n":1}', correlation_id="c", priority=7, task_to_domain=(("x", "y"),))
    driver.wait(1_500)
    driver.give("a", b'{"m":2}')
    assert msgspec.json.decode(conductor_view.summary(driver.header())) == {
        "workflowType": "flow", "version": 1, "workflowId": "w", "correlationId": "c", "status": "COMPLETED",
        "startTime": "2023-11-14T22:13:20.000Z", "updateTime": "2023-11-14T22:13:21.500Z",
        "endTime": "2023-11-14T22:13:21.500Z", "executionTime": 1500, "priority": 7, "failedReferenceTaskNames": "",
        "input": '{"n":1}', "inputSize": 7, "output": '{"m":2}', "outputSize": 7, "taskToDomain": {"x": "y"},
        "parentWorkflowId": "",
    }


def test_a_summary_of_a_task(driver: Driver) -> None:
    driver.register(workflow("flow", simple("a", inputParameters={"n": 1}, retryCount=0)))
    driver.start("flow", correlation_id="c")
    driver.wait(1_500)
    driver.fail("a", "no money")
    shown = msgspec.json.decode(conductor_view.task_summary(driver.header(), driver.latest("a")))
    assert shown == {
        "workflowId": "w", "workflowType": "flow", "correlationId": "c", "status": "FAILED",
        "scheduledTime": "2023-11-14T22:13:20.000Z", "startTime": "2023-11-14T22:13:20.000Z",
        "updateTime": "2023-11-14T22:13:21.500Z", "endTime": "2023-11-14T22:13:21.500Z", "executionTime": 1500,
        "queueWaitTime": 0, "reasonForIncompletion": "no money", "taskDefName": "a", "taskType": "a",
        "input": '{"n":1}', "inputSize": 7, "taskId": driver.latest("a").task_id, "workflowPriority": 0,
    }


def test_large_payloads_are_in_the_whole_and_not_in_summaries(driver: Driver) -> None:
    driver.register(workflow("flow", simple("a", inputParameters={"n": "${workflow.input.n}"})))
    driver.start("flow", given=msgspec.json.encode({"n": "x" * 9_000}))
    assert len(task(driver, "a")["inputData"]["n"]) == 9_000
    assert b"xxx" not in conductor_view.summary(driver.header())
    assert b"xxx" not in conductor_view.task_summary(driver.header(), driver.latest("a"))


def test_a_task_that_waits_for_its_retry_says_for_how_long_and_where(driver: Driver) -> None:
    driver.register_task(name="far", retryCount=1, retryDelaySeconds=30, responseTimeoutSeconds=60, timeoutSeconds=0)
    driver.worker("far", "far", domain="moon")
    driver.register(workflow("flow", simple("far", startDelay=0)))
    driver.start("flow", task_to_domain=(("far", "moon"),))
    shown = task(driver, "far")
    assert (shown["domain"], shown["workerId"], shown["pollCount"]) == ("moon", "worker-far", 1)
    assert (shown["responseTimeoutSeconds"], shown["callbackAfterSeconds"]) == (60, 0)
    driver.fail("far")
    assert task(driver, "far")["callbackAfterSeconds"] == 30


def test_tasks_of_a_dynamic_fork_have_their_own_elements(driver: Driver) -> None:
    forked = [simple("x", inputParameters={"n": 1}) | {"name": "a"}, simple("y") | {"name": "b"}]
    tasks = [
        {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN_DYNAMIC", "dynamicForkTasksParam": "tasks",
         "dynamicForkTasksInputParamName": "inputs",
         "inputParameters": {"tasks": "${workflow.input.tasks}", "inputs": {"x": {}, "y": {}}}},
        {"name": "j", "taskReferenceName": "j", "type": "JOIN"},
    ]
    driver.register(workflow("flow", *tasks))
    driver.start("flow", given=msgspec.json.encode({"tasks": forked}))
    assert task(driver, "x")["workflowTask"] == forked[0]
    assert task(driver, "y")["workflowTask"] == forked[1]
    assert (task(driver, "f")["taskType"], task(driver, "f")["taskDefName"]) == ("FORK", "FORK")
    assert task(driver, "f")["inputData"]["forkedTasks"] == ["x", "y"]


def test_more_than_is_asked_for_is_not_put_together(driver: Driver) -> None:
    driver.register(workflow("flow", simple("a"), simple("b")))
    driver.start("flow")
    size = len(at_once(conductor_view.workflow(driver.state, driver.hot(), include_tasks=True, bytes_max=PLENTY)))
    with pytest.raises(conductor_view.TooLarge):
        whole(driver, bytes_max=size - 1_000)
    assert "tasks" in whole(driver, bytes_max=size - 200, include_tasks=False)


# --- one workflow of many types of tasks


def many_types() -> list[dict[str, Any]]:
    def one(reference: str, kind: str, **fields: Any) -> dict[str, Any]:
        return {"name": reference, "taskReferenceName": reference, "type": kind, **fields}

    waits = one("go", "WAIT", inputParameters={"signal": "go"})
    return [
        one("set", "SET_VARIABLE", inputParameters={"n": "${workflow.input.n}"}),
        simple("a", "undo_a", inputParameters={"n": "${workflow.variables.n}"}),
        *fork([simple("b", optional=True, retryCount=0)], [waits]),
        one("choose", "SWITCH", evaluatorType="value-param", expression="x", inputParameters={"x": "one"},
            decisionCases={"one": [one("nothing", "NOOP")]}),
        one("each", "DO_WHILE", items="${workflow.input.items}",
            loopOver=[simple("body") | {"name": "a"}], inputParameters={}),
        one("named", "DYNAMIC", dynamicTaskNameParam="which", inputParameters={"which": "a"}),
        one("child", "SUB_WORKFLOW", subWorkflowParam={"name": "child", "version": 1}),
        *[step | {"name": f"{step['name']}2", "taskReferenceName": f"{step['taskReferenceName']}2"} for step in fork(
            [one("ask", "HUMAN", inputParameters={"form": "f"})],
            [one("call", "HTTP", inputParameters={"uri": "http://x.invalid", "method": "GET"})],
            [one("script", "INLINE", inputParameters={"evaluatorType": "javascript", "expression": "1"})],
            [one("later", "WAIT", inputParameters={"duration": "1 hours"})],
            [simple("c", startDelay=60)],
        )],
    ]


def run_many_types(driver: Driver) -> None:
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=5, timeoutSeconds=0)
    driver.register(
        workflow("child", simple("a"), outputParameters={"m": 1}),
        workflow("flow", *many_types(), maskedFields=["secret"], timeoutSeconds=86_400, timeoutPolicy="TIME_OUT_WF"),
    )
    driver.start("flow", given=b'{"n":1,"items":["x","y"],"secret":"s"}', correlation_id="c", created_by="me")
    driver.wait(1_000)
    driver.fail("a", "once")
    driver.wait(5_000)
    driver.give("a", b'{"secret":"s","done":true}')
    driver.fail("b", "not needed")
    driver.ok(SignalWorkflow("default", "w", "go", b'{"by":"me"}'))
    driver.give("body__1")
    driver.give("body__2", b'{"k":2}')
    driver.give("named")
    child = driver.latest("child").child
    driver.give("a", workflow_id=child)


def test_one_workflow_of_many_types_of_tasks(driver: Driver) -> None:
    run_many_types(driver)
    shown = msgspec.json.format(msgspec.json.encode(whole(driver)), indent=1).decode() + "\n"
    if os.environ.get("REWRITE"):
        GOLDEN.write_text(shown)
    assert shown == GOLDEN.read_text(), "if this is what is wanted: REWRITE=1"


def test_a_terminated_one_shows_what_was_cancelled(driver: Driver) -> None:
    run_many_types(driver)
    driver.ok(TerminateWorkflow("default", "w", "enough", TerminateCompensation.SKIP))
    shown = whole(driver)
    assert (shown["status"], shown["reasonForIncompletion"]) == ("TERMINATED", "enough")
    assert shown["endTime"] == driver.now_ms
    assert {task(driver, name)["status"] for name in ("ask", "call", "script", "later", "c")} == {"CANCELED"}
