"""Workflows and helpers that the tests of rules share."""

from __future__ import annotations

from typing import Any

from orchestrator.engine import queries
from orchestrator.engine.model import CompensationState, WorkflowStatus
from orchestrator.engine.results import Rejected
from tests.engine.driver import Driver, simple, workflow

ONE = ("default", "w")
NAMES = ("a", "b", "c", "d", "undo_a", "undo_b", "undo_c", "x")


def fork(*branches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = [branch[-1]["taskReferenceName"] for branch in branches]
    return [
        {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": list(branches)},
        {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": last},
    ]


def terminate(status: str, **given: Any) -> dict[str, Any]:
    parameters = {"terminationStatus": status, **given}
    return {"name": "t", "taskReferenceName": "t", "type": "TERMINATE", "inputParameters": parameters}


def failing(reference: str, **fields: Any) -> dict[str, Any]:
    return simple(reference, retryCount=0, **fields)


def begin(driver: Driver, *tasks: dict[str, Any], **fields: Any) -> None:
    driver.register(workflow("saga", *tasks, **fields))
    assert not isinstance(driver.start("saga", given=b'{"order":1}'), Rejected)


def names(steps: tuple[queries.CompensatedStep, ...]) -> list[str]:
    return [step.reference for step in steps]


def view(driver: Driver) -> queries.CompensationView:
    return queries.compensation_view(driver.hot())


def stuck(driver: Driver) -> None:
    """a and b completed, c failed, and the undoing of b has used up its attempts."""
    undo = {"name": "undo_b", "type": "SIMPLE", "retryCount": 0}
    begin(driver, simple("a", "undo_a"), {**simple("b"), "compensateWith": undo}, failing("c"))
    driver.give("a")
    driver.give("b")
    driver.fail("c", "no trucks")
    driver.fail(driver.undoing("b"), "no luck")
    assert driver.header().compensation is CompensationState.STUCK


def saga_driver() -> Driver:
    driver = Driver()
    driver.worker("s", *NAMES, slots=10)
    return driver


def three_branches(driver: Driver, **fields: Any) -> None:
    """a has completed, b fails while c is in flight and d waits for a worker that does not exist."""
    begin(driver, *fork([simple("a", "undo_a"), failing("b")], [simple("c", "undo_c")], [simple("nobody")]), **fields)
    driver.give("a")
    driver.fail("b")
    assert driver.header().status is WorkflowStatus.COMPENSATING
