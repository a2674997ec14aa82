"""Elements of definitions and helpers that the tests of execution share."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.engine import queries
from tests.engine.driver import Driver, workflow

ONE = ("default", "w")

# What scripts may come to, as JSON: whether that is true as a condition, and the case that it chooses.
TRUTHS = (
    (b"true", True, "true"), (b"false", False, "false"), (b"null", False, "null"), (b"1", True, "1"),
    (b"0", False, "0"), (b"0.5", True, "0.5"), (b"0.0", False, "0.0"), (b"-1", False, "-1"), (b"1e-7", True, "1e-7"),
    (b"0e5", False, "0e5"), (b"20", True, "20"), (b'"true"', False, "true"), (b'"1"', False, "1"), (b'""', False, ""),
    (b"{}", False, "{}"), (b'{"a":1}', False, '{"a":1}'), (b"[]", False, "[]"), (b"[1]", False, "[1]"),
)


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
    """`on`: what is joined; the last of each branch by default."""
    last = [branch[-1]["taskReferenceName"] for branch in branches if branch]
    joined = element("JOIN", "j", joinOn=last if on is None else on, **join)
    return [element("FORK_JOIN", "f", forkTasks=list(branches)), joined]


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
