"""The trace of a start goes with the execution: to every attempt, to what compensates, and to whatever it starts."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.codec.entries import encode_command
from orchestrator.codec.rows import encode_row
from orchestrator.engine import queries
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import RestartWorkflow, StartWorkflow
from orchestrator.engine.model import Execution, Table
from tests.engine.driver import Driver, simple, workflow
from tests.engine.triggers.making import action, put_handler

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", "undo_a", slots=10)
    return driver


def task(kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": "x", "taskReferenceName": "x", "type": kind, **fields}


def handed_out(driver: Driver, workflow_id: str = "w") -> dict[str, str]:
    """The trace of each open attempt of the worker, by its reference."""
    hot = driver.hot(workflow_id)
    views = [queries.assignment_view(driver.state, hot, token) for (token,) in driver.state.leases]
    return {view.reference: view.trace for view in views if view is not None and view.workflow_id == workflow_id}


def started_besides(driver: Driver) -> Execution:
    rows = driver.rows()
    [other] = [row for (table, key), row in rows.items() if table is Table.EXECUTION and key != ("default", "w")]
    assert isinstance(other, Execution)
    return other


def test_each_attempt_has_it_and_what_undoes_a_step(driver: Driver) -> None:
    driver.register(workflow("saga", simple("a", "undo_a"), simple("b", retryCount=1)))
    driver.start("saga", trace=TRACE)
    assert handed_out(driver) == {"a": TRACE}
    driver.give("a")
    for _ in range(2):
        assert handed_out(driver) == {"b": TRACE}
        driver.fail("b")
        driver.wait(60_000)
    assert list(handed_out(driver).values()) == [TRACE]
    assert driver.undoing("a").compensates


def test_another_run_of_the_execution_has_it_too(driver: Driver) -> None:
    driver.register(workflow("order", simple("a")))
    driver.start("order", trace=TRACE)
    driver.give("a")
    driver.ok(RestartWorkflow("default", "w"))
    assert handed_out(driver) == {"a": TRACE}


@pytest.mark.parametrize("starts", [
    task("SUB_WORKFLOW", subWorkflowParam={"name": "other"}),
    task("START_WORKFLOW", inputParameters={"startWorkflow": {"name": "other"}}),
    task("EVENT", sink="conductor:happened"),
])
def test_what_it_starts_has_it(driver: Driver, starts: dict[str, Any]) -> None:
    put_handler(driver, action("start_workflow", name="other"), event="conductor:order:happened")
    driver.register(workflow("other", simple("a")), workflow("order", starts))
    driver.start("order", trace=TRACE)
    assert started_besides(driver).trace == TRACE


def test_the_workflow_for_its_failure_has_it(driver: Driver) -> None:
    order = workflow("order", simple("a", retryCount=0), failureWorkflow="mourn")
    driver.register(workflow("mourn", simple("b")), order)
    driver.start("order", trace=TRACE)
    driver.fail("a")
    assert started_besides(driver).trace == TRACE


def test_without_one_a_row_has_no_byte_of_it_and_a_start_one(driver: Driver) -> None:
    driver.register(workflow("order", simple("a")))
    driver.start("order")
    assert driver.header().trace == ""
    row = encode_row(driver.header())
    driver.start("order", "v", trace=TRACE)
    assert len(encode_row(driver.header("v"))) - len(row) >= len(TRACE)
    command = StartWorkflow("default", "order", 0, "w", IfExists.FAIL, b"{}")
    assert encode_command(None, command).endswith(b"\xa0\xa0")  # the violation and the trace
