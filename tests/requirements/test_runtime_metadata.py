"""One test per rule of runtimeMetadata in the engine, which knows names only; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine import queries
from orchestrator.engine.model import TaskAttempt
from tests.engine.driver import Driver, simple, workflow

KEYS = {"runtimeMetadata": ["KEY", "URL"]}


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.register(workflow("flow", simple("a")))
    driver.worker("s", "a", "undo", slots=5)
    return driver


def names(driver: Driver, attempt: TaskAttempt) -> tuple[str, ...]:
    view = queries.assignment_view(driver.state, driver.hot(), attempt.fencing_token)
    assert view is not None
    return view.runtime_metadata


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ()),
        ({"runtimeMetadata": []}, ()),
        (KEYS, ("KEY", "URL")),
        ({"runtimeMetadata": ["B", "A", "B"]}, ("B", "A")),
    ],
)
def test_the_definition_says_what_a_worker_is_to_get(
    driver: Driver, fields: dict[str, Any], expected: tuple[str, ...]
) -> None:
    """The names of the task's definition, each once."""
    driver.register_task(name="a", **fields)
    driver.start("flow")
    assert names(driver, driver.latest("a")) == expected


def test_an_inline_definition_says_so_too(driver: Driver) -> None:
    """`taskDefinition` of a task in a workflow is a task definition."""
    driver.register(workflow("inline", simple("a", taskDefinition={"name": "a", **KEYS})))
    driver.start("inline")
    assert names(driver, driver.latest("a")) == ("KEY", "URL")


def test_a_compensation_gets_what_its_own_definition_names(driver: Driver) -> None:
    """What the undone step got is not for who undoes it."""
    driver.register(workflow("saga", simple("a", "undo"), simple("b", retryCount=0)))
    driver.register_task(name="a", runtimeMetadata=["CHARGE"])
    driver.register_task(name="undo", runtimeMetadata=["REFUND"])
    driver.worker("b", "b")
    driver.start("saga")
    assert names(driver, driver.latest("a")) == ("CHARGE",)
    driver.give("a")
    driver.fail("b")
    assert names(driver, driver.undoing("a")) == ("REFUND",)


def test_tasks_that_are_only_known_at_run_time_get_theirs(driver: Driver) -> None:
    """A DYNAMIC task, and what a dynamic fork forks."""
    dynamic = simple("d", type="DYNAMIC", dynamicTaskNameParam="which", inputParameters={"which": "a"})
    fork = simple(
        "f", type="FORK_JOIN_DYNAMIC", dynamicForkTasksParam="tasks", dynamicForkTasksInputParamName="inputs",
        inputParameters={"tasks": [{"name": "a", "taskReferenceName": "x"}], "inputs": {}},
    )
    driver.register(workflow("dynamic", dynamic, fork, simple("j", type="JOIN")))
    driver.register_task(name="a", **KEYS)
    driver.start("dynamic")
    assert names(driver, driver.latest("d")) == ("KEY", "URL")
    driver.give("d")
    assert names(driver, driver.latest("x")) == ("KEY", "URL")


def test_an_execution_keeps_the_names_it_began_with(driver: Driver) -> None:
    """The task definition is copied at the start: a later one changes nothing for what runs."""
    driver.register_task(name="a", **KEYS)
    driver.start("flow")
    driver.register_task(name="a", runtimeMetadata=["OTHER"], retryDelaySeconds=0)
    driver.fail("a")
    driver.wait(60_000)
    assert driver.latest("a").retry_count == 1
    assert names(driver, driver.latest("a")) == ("KEY", "URL")


def test_what_nodes_execute_gets_nothing(driver: Driver) -> None:
    """An HTTP task is given its input only: values are for workers."""
    request = {"http_request": {"uri": "http://x", "method": "GET"}}
    driver.register(workflow("call", simple("h", type="HTTP", inputParameters=request)))
    driver.register_task(name="h", **KEYS)
    driver.start("call")
    assert [node.runtime_metadata for plan in driver.state.plans.values() for node in plan.nodes.values()]
    assert not any(node.runtime_metadata for plan in driver.state.plans.values() for node in plan.nodes.values())
