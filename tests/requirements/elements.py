"""Elements of definitions and helpers that the tests of execution share."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.engine import queries
from tests.engine.driver import Driver, workflow

ONE = ("default", "w")


def begin(driver: Driver, *tasks: dict[str, Any], given: bytes = b"{}", **fields: Any) -> None:
    driver.register(workflow("flow", *tasks, **fields))
    result = driver.start("flow", given=given)
    assert type(result).__name__ == "Started", result


def element(kind: str, reference: str, given: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    task = {"name": reference, "taskReferenceName": reference, "type": kind, **fields}
    return task if given is None else {**task, "inputParameters": given}


def switch(reference: str, value: Any, cases: dict[str, Any], default: list[Any] | None = None) -> dict[str, Any]:
    task = element("SWITCH", reference, {"v": value}, evaluatorType="value-param", expression="v", decisionCases=cases)
    return task if default is None else {**task, "defaultCase": default}


def fork(*branches: list[dict[str, Any]], on: list[str] | None = None, **join: Any) -> list[dict[str, Any]]:
    joined = element("JOIN", "j", **join)
    return [element("FORK_JOIN", "f", forkTasks=list(branches)), joined if on is None else {**joined, "joinOn": on}]


def text(driver: Driver, reference: str, workflow_id: str = "w") -> Any:
    hot = driver.hot(workflow_id)
    return msgspec.json.decode(queries.output(driver.state, hot, driver.latest(reference, workflow_id)))


def shown_input(driver: Driver, reference: str, workflow_id: str = "w") -> Any:
    hot = driver.hot(workflow_id)
    return msgspec.json.decode(queries.resolved_input(driver.state, hot, driver.latest(reference, workflow_id)))


def busy_driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", "c", "d", "e", slots=50)
    return driver
