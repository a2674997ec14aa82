"""SUB_WORKFLOW, START_WORKFLOW and EVENT: the rules of CONDUCTOR.md 1.5 and 2.8 and of SAGA.md, as docstrings."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits
from orchestrator.engine.choices import DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import (
    AbandonCompensation,
    DeleteWorkflow,
    RestartWorkflow,
    SkipCompensation,
    TerminateWorkflow,
)
from orchestrator.engine.model import CompensationState, TaskStatus, WorkflowStatus
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import begin, element, shown_input, text


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", *"abcde", "undo_a", "undo_b", slots=50)
    driver.register(workflow("child", simple("a", "undo_a", retryCount=0), simple("b", retryCount=0)))
    return driver


def sub(reference: str = "s1", given: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return element("SUB_WORKFLOW", reference, given, **{"subWorkflowParam": {"name": "child"}, **fields})


def child_of(driver: Driver, reference: str = "s1", workflow_id: str = "w") -> str:
    return driver.latest(reference, workflow_id).child


def terminate(driver: Driver, workflow_id: str = "w", compensation: Any = TerminateCompensation.UNSET) -> Any:
    return driver.do(TerminateWorkflow("default", workflow_id, "enough", compensation))


def test_a_sub_workflow_is_another_execution(driver: Driver) -> None:
    """Its output is the child's with subWorkflowId; correlation id and domains are inherited; the input is its own."""
    driver.register(workflow("flow", sub(given={"k": "${workflow.input.k}"}), simple("c")))
    driver.start("flow", given=b'{"k":7}', correlation_id="corr", priority=9)
    child = child_of(driver)
    header = driver.header(child)
    assert (header.correlation_id, header.priority, header.parent, header.root) == ("corr", 0, "w", "w")
    assert msgspec.json.decode(driver.hot(child).load(header.input)) == {"k": 7}
    driver.give("a", workflow_id=child)
    driver.give("b", b'{"r":1}', workflow_id=child)
    assert text(driver, "s1") == {"r": 1, "subWorkflowId": child}
    driver.give("c")
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize(("version", "begun"), [(None, 1), (0, 2), (2, 2), ("${workflow.input.v}", 2)])
def test_the_version_of_a_sub_workflow_is_chosen_with_its_parent(driver: Driver, version: Any, begun: int) -> None:
    """The definition is copied into the execution at start, and with it the highest version of a sub-workflow that is
    named without one; 0 is the highest when the sub-workflow begins."""
    named = {"name": "child", "version": version}
    begin(driver, simple("c"), sub(subWorkflowParam=named), given=b'{"v":0}')
    driver.register(workflow("child", simple("d")) | {"version": 2})
    driver.give("c")
    assert driver.header(child_of(driver)).version == begun
    if version is None:
        assert shown_input(driver, "s1")["subWorkflowVersion"] == 1


def test_a_restart_with_the_latest_definitions_takes_the_latest_sub_workflows(driver: Driver) -> None:
    """useLatestDefinitions swaps the definition, and what it was copied with; otherwise all stays as it was."""
    begin(driver, sub())
    driver.register(workflow("child", simple("d")) | {"version": 2})
    for use_latest, version in ((False, 1), (True, 2)):
        terminate(driver, compensation=TerminateCompensation.SKIP)
        driver.ok(RestartWorkflow("default", "w", use_latest))
        assert driver.header(child_of(driver)).version == version


def test_a_sub_workflow_that_is_not_there_yet_is_looked_for_when_it_begins(driver: Driver) -> None:
    begin(driver, simple("c"), sub(subWorkflowParam={"name": "later"}))
    driver.register(workflow("later", simple("d")))
    driver.give("c")
    assert driver.header(child_of(driver)).name == "later"


def test_a_sub_workflow_may_be_defined_in_place(driver: Driver) -> None:
    """subWorkflowParam.workflowDefinition: a definition, whose expressions are the child's own."""
    inner = workflow("inner", simple("a", inputParameters={"x": "${workflow.input.x}"}))
    begin(driver, sub(given={"x": 3}, subWorkflowParam={"workflowDefinition": inner}))
    child = child_of(driver)
    assert driver.header(child).name == "inner"
    assert msgspec.json.decode(driver.hot(child).load(driver.latest("a", child).input)) == {"x": 3}


def test_a_sub_workflow_that_is_not_there_fails(driver: Driver) -> None:
    """Not a transient error: the task is FAILED."""
    begin(driver, sub(subWorkflowParam={"name": "nothing"}))
    assert driver.latest("s1").status is TaskStatus.FAILED
    assert driver.header().status is WorkflowStatus.FAILED
    assert "nothing" in driver.header().reason


def test_a_failed_child_fails_its_task(driver: Driver) -> None:
    """FAILED -> FAILED, reason "Sub workflow <id> failure reason: ..."; a failed child undoes its own steps first."""
    begin(driver, sub())
    child = child_of(driver)
    driver.give("a", workflow_id=child)
    driver.fail("b", "broken", child)
    assert driver.latest("s1").status is TaskStatus.IN_PROGRESS
    driver.give(driver.undoing("a", child), workflow_id=child)
    assert driver.header(child).status is WorkflowStatus.FAILED
    assert driver.latest("s1").status is TaskStatus.FAILED
    assert driver.latest("s1").reason.startswith(f"Sub workflow {child} failure reason: Task ")
    assert driver.header().status is WorkflowStatus.FAILED


def test_a_retried_sub_workflow_starts_a_new_child(driver: Driver) -> None:
    """A retry of the task (by the definition of its name) starts a new child."""
    driver.register_task(name="s1", retryCount=1, retryDelaySeconds=1)
    begin(driver, sub())
    first = child_of(driver)
    driver.fail("a", workflow_id=first)
    driver.wait(1000)
    second = child_of(driver)
    assert second != first
    driver.give("a", workflow_id=second)
    driver.give("b", workflow_id=second)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_terminated_child_cancels_its_task(driver: Driver) -> None:
    """TERMINATED -> CANCELED, and the workflow is TERMINATED."""
    begin(driver, sub())
    terminate(driver, child_of(driver), TerminateCompensation.SKIP)
    assert driver.latest("s1").status is TaskStatus.CANCELED
    assert driver.header().status is WorkflowStatus.TERMINATED


def test_the_end_of_the_parent_is_that_of_the_child(driver: Driver) -> None:
    """Parent end: child terminated with "Parent workflow has been terminated with status ... reason ..."."""
    begin(driver, sub())
    child = child_of(driver)
    terminate(driver, compensation=TerminateCompensation.SKIP)
    assert driver.header().status is WorkflowStatus.TERMINATED
    assert driver.header(child).status is WorkflowStatus.TERMINATED
    assert driver.header(child).reason == "Parent workflow has been terminated with status TERMINATED reason enough"


def test_a_parent_that_turns_round_waits_for_its_child(driver: Driver) -> None:
    """What the child in flight has done is undone by the child, before the parent's own steps are."""
    begin(driver, simple("c", "undo_b"), sub())
    driver.give("c")
    child = child_of(driver)
    driver.give("a", workflow_id=child)
    terminate(driver, compensation=TerminateCompensation.RUN)
    assert driver.header(child).status is WorkflowStatus.COMPENSATING
    assert driver.header().status is WorkflowStatus.COMPENSATING
    assert not driver.hot().undoing
    driver.give("b", b"", TaskStatus.FAILED, workflow_id=child)
    driver.give(driver.undoing("a", child), workflow_id=child)
    assert driver.header(child).status is WorkflowStatus.TERMINATED
    assert driver.latest("s1").status is TaskStatus.CANCELED
    driver.give(driver.undoing("c"))
    assert driver.header().status is WorkflowStatus.TERMINATED
    assert driver.header().compensation is CompensationState.COMPLETE


def completed_child(driver: Driver, **fields: Any) -> str:
    """A parent whose sub-workflow has completed and whose next step is about to fail."""
    begin(driver, sub(**fields), simple("d", retryCount=0))
    child = child_of(driver)
    driver.give("a", workflow_id=child)
    driver.give("b", workflow_id=child)
    return child


def test_a_completed_child_is_undone_by_itself(driver: Driver) -> None:
    """Its child is reopened: COMPLETED -> COMPENSATING -> TERMINATED, reason "compensated by parent <id>"."""
    child = completed_child(driver)
    driver.fail("d")
    assert driver.header(child).status is WorkflowStatus.COMPENSATING
    assert driver.header().status is WorkflowStatus.COMPENSATING
    driver.give(driver.undoing("a", child), workflow_id=child)
    assert driver.header(child).status is WorkflowStatus.TERMINATED
    assert driver.header(child).reason == "compensated by parent w"
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().compensation is CompensationState.COMPLETE
    assert driver.latest("s1").status is TaskStatus.COMPLETED


def test_a_sub_workflow_with_a_compensation_of_its_own_runs_only_that(driver: Driver) -> None:
    """A completed SUB_WORKFLOW step with its own `compensateWith` runs only that."""
    child = completed_child(driver, compensateWith={"name": "e", "type": "SIMPLE"})
    driver.fail("d")
    assert driver.header(child).status is WorkflowStatus.COMPLETED
    driver.give(driver.undoing("s1"))
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header(child).status is WorkflowStatus.COMPLETED


def test_a_compensation_may_be_a_sub_workflow(driver: Driver) -> None:
    """A compensation is a SIMPLE, HTTP, GRPC or SUB_WORKFLOW task."""
    undo = {"name": "u", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "child"}}
    begin(driver, {**simple("c"), "compensateWith": undo}, simple("d", retryCount=0))
    driver.give("c")
    driver.fail("d")
    child = driver.undoing("c").child
    driver.give("a", workflow_id=child)
    driver.give("b", workflow_id=child)
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().compensation is CompensationState.COMPLETE


def test_a_stuck_child_holds_its_parent(driver: Driver) -> None:
    """A stuck child holds the parent; what an operator leaves there is left here, too."""
    child = completed_child(driver)
    driver.fail("d")
    for _ in range(20):
        driver.fail(driver.undoing("a", child), workflow_id=child)
        driver.wait(60_000)
    assert driver.header(child).compensation is CompensationState.STUCK
    assert driver.header().compensation is CompensationState.RUNNING
    driver.ok(SkipCompensation("default", child))
    assert driver.header(child).compensation is CompensationState.INCOMPLETE
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().compensation is CompensationState.INCOMPLETE


def test_a_pivot_of_a_child_is_one_of_the_parent(driver: Driver) -> None:
    """A pivot completed in a child is a pivot of the parent from the moment the SUB_WORKFLOW task completes."""
    driver.register(workflow("child", simple("a", "undo_a"), simple("b", pivot=True)))
    completed_child(driver)
    driver.fail("d")
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().compensation is CompensationState.NONE


def test_a_started_workflow_is_independent(driver: Driver) -> None:
    """START_WORKFLOW: starts and forgets; output.workflowId; its children are independent."""
    request = {"name": "child", "input": {"x": 1}, "workflowId": "free"}
    begin(driver, element("START_WORKFLOW", "t", {"startWorkflow": request}))
    assert text(driver, "t") == {"workflowId": "free"}
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert driver.header("free").status is WorkflowStatus.RUNNING
    assert driver.header("free").parent == ""


@pytest.mark.parametrize(
    ("asked", "correlation_id", "domains"),
    [
        ({}, "corr", (("a", "x"),)),
        ({"correlationId": "", "taskToDomain": {}}, "corr", (("a", "x"),)),
        ({"correlationId": "own", "taskToDomain": {"a": "y"}}, "own", (("a", "y"),)),
    ],
)
def test_a_started_workflow_inherits_what_is_not_said(
    driver: Driver, asked: dict[str, Any], correlation_id: str, domains: Any
) -> None:
    """START_WORKFLOW: inherits taskToDomain and correlationId if absent, and empty ones are."""
    request = {"name": "child", "workflowId": "free", **asked}
    driver.register(workflow("flow", element("START_WORKFLOW", "t", {"startWorkflow": request})))
    driver.start("flow", correlation_id="corr", task_to_domain=(("a", "x"),))
    header = driver.header("free")
    assert (header.correlation_id, header.task_to_domain) == (correlation_id, domains)


@pytest.mark.parametrize(
    "request_", [{"name": "nothing"}, {}, {"name": "child", "wrong": 1}, "child", {"name": "child", "version": "x"}]
)
def test_an_invalid_request_to_start_fails(driver: Driver, request_: Any) -> None:
    """START_WORKFLOW: invalid request FAILED."""
    begin(driver, element("START_WORKFLOW", "t", {"startWorkflow": request_}))
    assert driver.latest("t").status is TaskStatus.FAILED


def test_sub_workflows_are_not_endless(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow that starts itself ends at the limit of depth."""
    monkeypatch.setattr(limits, "DEPTH", 3)
    driver.register(workflow("endless", sub(subWorkflowParam={"name": "endless"})))
    driver.start("endless")
    assert driver.header().status is WorkflowStatus.FAILED
    assert "3 deep" in driver.header().reason


def test_children_are_deleted_with_their_root(driver: Driver) -> None:
    """Retention keeps children as long as their root."""
    child = completed_child(driver)
    driver.give("d")
    driver.wait(1000)
    driver.ok(DeleteWorkflow("default", "w", DeleteEffects.UNSET))
    assert driver.is_gone("w")
    assert driver.is_gone(child)


def test_a_replica_goes_on_between_any_two_messages(driver: Driver) -> None:
    """What executions owe each other is in the state: a replica that reads the rows goes on."""
    driver.messages_per_entry = 1
    child = completed_child(driver)
    driver = driver.restart()
    driver.fail("d")
    driver = driver.restart()
    driver.give(driver.undoing("a", child), workflow_id=child)
    assert driver.header().status is WorkflowStatus.FAILED


def test_an_event_says_where_it_comes_from(driver: Driver) -> None:
    """Sink `conductor:x` = conductor:<wfName>:x; output = payload + event_produced."""
    begin(driver, element("EVENT", "e", {"k": 1}, sink="conductor:x"), element("EVENT", "f", sink="conductor"))
    shown = text(driver, "e")
    assert shown["event_produced"] == "conductor:flow:x"
    assert (shown["k"], shown["workflowInstanceId"], shown["workflowType"]) == (1, "w", "flow")
    assert text(driver, "f")["event_produced"] == "conductor:flow:f"


def test_what_is_shown_of_a_sub_workflow(driver: Driver) -> None:
    """The input names the workflow and has the child's input."""
    begin(driver, sub(given={"k": 1}, subWorkflowParam={"name": "child", "version": 1}))
    assert shown_input(driver, "s1") == {"workflowInput": {"k": 1}, "subWorkflowName": "child", "subWorkflowVersion": 1}


def test_an_abandoned_child_is_left(driver: Driver) -> None:
    """Abandoning the child's compensation leaves the step in the parent."""
    child = completed_child(driver)
    driver.fail("d")
    for _ in range(20):
        driver.fail(driver.undoing("a", child), workflow_id=child)
        driver.wait(60_000)
    driver.ok(AbandonCompensation("default", child, "no use"))
    assert driver.header().compensation is CompensationState.INCOMPLETE
