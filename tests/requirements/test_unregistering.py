"""One test per rule of definitions that are taken away; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine import queries
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import MigrateWorkflow, RerunWorkflow, RestartWorkflow, StartWorkflow
from orchestrator.engine.definition_commands import DeleteTaskDefinition, DeleteWorkflowDefinition
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.engine.results import Code, Rejected
from tests.engine.driver import Driver, simple, workflow


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", slots=10)
    return driver


def register(driver: Driver, *versions: int, name: str = "flow") -> None:
    for version in versions:
        driver.register({**workflow(name, simple("a", retryCount=0), simple("b")), "version": version})


def versions(driver: Driver) -> list[int]:
    return [row.version for row in queries.workflow_definitions(driver.state, "default")]


def refusal(result: Any) -> tuple[Code, str]:
    assert isinstance(result, Rejected)
    return result.code, result.reason


def delete(driver: Driver, version: int = 0, name: str = "flow", namespace: str = "default") -> Any:
    return driver.do(DeleteWorkflowDefinition(namespace, name, version))


def start(driver: Driver, version: int = 0, workflow_id: str = "w") -> Any:
    return driver.do(StartWorkflow("default", "flow", version, workflow_id, IfExists.FAIL, b"{}"))


def test_one_version_goes_and_the_highest_that_is_left_is_the_highest(driver: Driver) -> None:
    register(driver, 1, 2, 3)
    delete(driver, 3)
    assert versions(driver) == [1, 2]
    start(driver)
    assert driver.header().version == 2
    assert refusal(start(driver, 3, "v")) == (Code.NOT_FOUND, "WORKFLOW_DEFINITION_NOT_FOUND")
    assert versions(driver.restart()) == [1, 2]


def test_all_versions_go_together(driver: Driver) -> None:
    register(driver, 1, 2)
    register(driver, 1, name="other")
    delete(driver)
    assert [row.name for row in queries.workflow_definitions(driver.state, "default")] == ["other"]
    assert refusal(start(driver)) == (Code.NOT_FOUND, "WORKFLOW_DEFINITION_NOT_FOUND")


def test_what_is_not_there_can_not_be_taken_away(driver: Driver) -> None:
    """NOT_FOUND: of another namespace, another name, another version, and a second time."""
    register(driver, 1)
    for refused in (
        delete(driver, namespace="shop"), delete(driver, name="other"), delete(driver, 2),
        driver.do(DeleteTaskDefinition("default", "a")),
    ):
        assert refusal(refused)[0] is Code.NOT_FOUND
    delete(driver)
    assert refusal(delete(driver)) == (Code.NOT_FOUND, "WORKFLOW_DEFINITION_NOT_FOUND")


def test_what_runs_keeps_its_definition(driver: Driver) -> None:
    """Until its end, and when it is run again; only the newest one there is none of any more."""
    register(driver, 1)
    start(driver)
    delete(driver)
    driver = driver.restart()
    driver.give("a")
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED
    driver.ok(RestartWorkflow("default", "w"))
    driver.give("a")
    driver.give("b")
    driver.ok(RerunWorkflow("default", "w", driver.latest("b").task_id))
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED
    latest = driver.do(RestartWorkflow("default", "w", use_latest_definitions=True))
    assert refusal(latest) == (Code.NOT_FOUND, "WORKFLOW_DEFINITION_NOT_FOUND")


def test_what_runs_can_not_be_moved_to_what_is_gone(driver: Driver) -> None:
    register(driver, 1, 2)
    start(driver, 1)
    delete(driver, 2)
    assert refusal(driver.do(MigrateWorkflow("default", "w", 2)))[0] is Code.NOT_FOUND


def test_a_sub_workflow_that_is_gone_fails_its_task(driver: Driver) -> None:
    """It is looked up when the task's turn comes."""
    register(driver, 1)
    sub = simple("sub", type="SUB_WORKFLOW", subWorkflowParam={"name": "flow"})
    driver.register(workflow("parent", simple("a"), sub))
    driver.start("parent")
    delete(driver)
    driver.give("a")
    assert (driver.latest("sub").status, driver.header().status) == (TaskStatus.FAILED, WorkflowStatus.FAILED)
    assert "no workflow definition is called flow" in driver.latest("sub").reason


def test_a_name_may_come_again(driver: Driver) -> None:
    """Without `overwrite`, as there is nothing to replace; what began before keeps the old one."""
    register(driver, 1)
    start(driver)
    delete(driver)
    driver.register(workflow("flow", simple("b")))
    start(driver, workflow_id="v")
    assert (list(driver.hot().by_task_id), driver.latest("b", "v").status) == (
        [driver.latest("a").task_id], TaskStatus.IN_PROGRESS
    )


def test_a_task_definition_that_is_gone_holds_for_what_has_begun(driver: Driver) -> None:
    """For the rest it is a task without a definition."""
    driver.register_task(name="a", retryCount=5, inputTemplate={"n": 1})
    driver.register(workflow("flow", simple("a")))
    start(driver)
    driver.ok(DeleteTaskDefinition("default", "a"))
    start(driver, workflow_id="v")
    state = driver.state
    assert queries.resolved_input(state, driver.hot(), driver.latest("a")) == b'{"n":1}'
    assert queries.resolved_input(state, driver.hot("v"), driver.latest("a", "v")) == b"{}"
    assert queries.task_definitions(state, "default") == []


def test_with_a_task_definition_its_limits_go(driver: Driver) -> None:
    """They hold for all attempts of the name: what they held back is handed out at once."""
    driver.register_task(name="a", concurrentExecLimit=1)
    driver.register(workflow("flow", simple("a")))
    start(driver)
    start(driver, workflow_id="v")
    assert driver.latest("a", "v").status is TaskStatus.SCHEDULED
    driver.ok(DeleteTaskDefinition("default", "a"))
    assert driver.latest("a", "v").status is TaskStatus.IN_PROGRESS
