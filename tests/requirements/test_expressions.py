"""What `${...}` sees of an execution, and what it gives where there is nothing to see."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine.commands import SignalWorkflow
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from tests.engine.driver import START_MS, Driver, simple, workflow
from tests.requirements.elements import ONE, begin, busy_driver, element, shown_input


@pytest.fixture
def driver() -> Driver:
    return busy_driver()


def seen(driver: Driver, **parameters: str) -> Any:
    """What the task `c` has as its input."""
    begin(driver, simple("a"), simple("c", inputParameters=parameters), variables={"v": 1}, given=b'{"i":2}')
    driver.now_ms += 5
    driver.give("a", b'{"o":3}')
    return shown_input(driver, "c")


def test_fields_of_the_workflow(driver: Driver) -> None:
    """workflow.{input, output, status, workflowId, parentWorkflowId, parentWorkflowTaskId, workflowType, version,
    correlationId, reasonForIncompletion, schemaVersion, variables}"""
    fields = (
        "input output status workflowId parentWorkflowId parentWorkflowTaskId workflowType version correlationId"
        " reasonForIncompletion schemaVersion variables".split()
    )
    assert seen(driver, **{field: f"${{workflow.{field}}}" for field in fields}) == {
        "input": {"i": 2},
        "output": {},
        "status": "RUNNING",
        "workflowId": "w",
        "parentWorkflowId": None,
        "parentWorkflowTaskId": None,
        "workflowType": "flow",
        "version": 1,
        "correlationId": None,
        "reasonForIncompletion": None,
        "schemaVersion": 2,
        "variables": {"v": 1},
    }


def test_a_sub_workflow_sees_its_parent(driver: Driver) -> None:
    """workflow.{parentWorkflowId, parentWorkflowTaskId, correlationId}"""
    fields = ("parentWorkflowId", "parentWorkflowTaskId", "correlationId")
    parameters = {field: f"${{workflow.{field}}}" for field in fields}
    driver.register(
        workflow("child", simple("a", inputParameters=parameters)),
        workflow("flow", element("SUB_WORKFLOW", "s", subWorkflowParam={"name": "child"})),
    )
    driver.start("flow", correlation_id="order-7")
    parent = driver.latest("s")
    assert shown_input(driver, "a", parent.child) == {
        "parentWorkflowId": "w",
        "parentWorkflowTaskId": parent.task_id,
        "correlationId": "order-7",
    }
    driver.give("a", workflow_id=parent.child)
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize("field", ["createTime", "startTime", "updateTime", "priority", "ownerApp", "tasks.x[0]"])
def test_what_a_workflow_has_and_expressions_do_not_see_is_null(driver: Driver, field: str) -> None:
    """The scope document does not have them: a missing path is null."""
    assert seen(driver, got=f"${{workflow.{field}}}", text=f"at ${{workflow.{field}}}") == {
        "got": None,
        "text": "at null",
    }


def test_fields_of_a_task(driver: Driver) -> None:
    """Per task ref {input, output, status, taskType, referenceTaskName, retryCount, correlationId, pollCount,
    taskDefName, scheduledTime, startTime, endTime, workflowInstanceId, taskId, reasonForIncompletion,
    callbackAfterSeconds, workerId, iteration}"""
    fields = (
        "input output status taskType referenceTaskName retryCount correlationId pollCount taskDefName scheduledTime"
        " startTime endTime workflowInstanceId taskId reasonForIncompletion callbackAfterSeconds workerId"
        " iteration".split()
    )
    got = seen(driver, **{field: f"${{a.{field}}}" for field in fields})
    assert got == {
        "input": {},
        "output": {"o": 3},
        "status": "COMPLETED",
        "taskType": "a",
        "referenceTaskName": "a",
        "retryCount": 0,
        "correlationId": None,
        "pollCount": 1,
        "taskDefName": "a",
        "scheduledTime": START_MS,
        "startTime": START_MS,
        "endTime": START_MS + 5,
        "workflowInstanceId": "w",
        "taskId": driver.latest("a").task_id,
        "reasonForIncompletion": None,
        "callbackAfterSeconds": 0,
        "workerId": "worker-s",
        "iteration": 0,
    }


def test_a_task_that_failed_says_why(driver: Driver) -> None:
    """reasonForIncompletion, status and retryCount of the latest attempt."""
    parameters = {"why": "${a.reasonForIncompletion}", "how": "${a.status}", "tries": "${a.retryCount}"}
    again = {"name": "a", "retryCount": 1, "retryDelaySeconds": 0}
    begin(driver, simple("a", permissive=True, taskDefinition=again), simple("c", inputParameters=parameters))
    driver.fail("a", "first")
    driver.fail("a", "second")
    assert shown_input(driver, "c") == {"why": "second", "how": "FAILED", "tries": 1}


def test_an_operator_is_seen_by_its_type(driver: Driver) -> None:
    """taskType of what is no worker's task is its type."""
    begin(driver, element("WAIT", "a"), simple("c", inputParameters={"type": "${a.taskType}", "n": "${a.workerId}"}))
    driver.ok(SignalWorkflow(*ONE, "a", b"{}"))
    assert shown_input(driver, "c") == {"type": "WAIT", "n": None}


def test_what_has_not_run_is_null(driver: Driver) -> None:
    """A missing path is null."""
    later = {"out": "${d.output.x}", "status": "${d.status}", "text": "<${d.output}>"}
    begin(driver, simple("c", inputParameters=later), simple("d"))
    assert shown_input(driver, "c") == {"out": None, "status": None, "text": "<null>"}


def test_the_id_of_the_task_itself(driver: Driver) -> None:
    """`${CPEWF_TASK_ID}` = id of the task being created; resolved again for a retry."""
    again = {"name": "a", "retryCount": 1, "retryDelaySeconds": 0}
    begin(driver, simple("a", inputParameters={"id": "${CPEWF_TASK_ID}"}, taskDefinition=again))
    first = shown_input(driver, "a")
    driver.fail("a")
    assert first != shown_input(driver, "a") == {"id": driver.latest("a").task_id}


def test_keys_of_a_template_take_the_place_of_null(driver: Driver) -> None:
    """inputTemplate: put-if-absent AND replaces keys whose value resolved to null."""
    driver.register_task(name="c", inputTemplate={"x": "default", "y": 7, "z": "default"})
    begin(driver, simple("c", inputParameters={"x": "${workflow.input.nothing}", "z": "given"}))
    assert shown_input(driver, "c") == {"x": "default", "y": 7, "z": "given"}


def test_a_result_of_expressions_that_is_too_large_fails_its_task(driver: Driver) -> None:
    """Crossing a limit fails the task with a reason that names it; nothing is stuck."""
    text = "x" * 150_000
    parameters = {"all": "${workflow.input.t}${workflow.input.t}"}
    begin(driver, simple("c", inputParameters=parameters), given=msgspec.json.encode({"t": text}))
    assert driver.latest("c").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert "262144 bytes" in driver.latest("c").reason
    assert driver.header().status is WorkflowStatus.FAILED
