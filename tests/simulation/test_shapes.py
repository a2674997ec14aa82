"""What the checks of loops, forks, sub-workflows and events find, on rows in which each of them is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from orchestrator.engine.commands import PutEventHandler, RegisterWorkflows
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import element
from tests.simulation import kinds, shapes
from tests.simulation.held import Held

ALL = workflow(
    "e0",
    element("DO_WHILE", "l", items=[1, 2], loopOver=[simple("n0")]),
    element("FORK_JOIN_DYNAMIC", "f", {"forkTaskName": "n1", "forkTaskInputs": [1, 2]}),
    element("JOIN", "j"),
    element("SUB_WORKFLOW", "s", subWorkflowParam={"name": kinds.CHILD}),
    element("EVENT", "v", sink=f"conductor:{kinds.TOLD}"),
)
CHILD = workflow(kinds.CHILD, element("NOOP", "n"))
TOLD = workflow(kinds.TOLD, element("NOOP", "n"))
DOCUMENTS = {f"default/{one['name']}": one for one in (ALL, CHILD, TOLD)}


def played() -> list[Held]:
    driver = Driver()
    driver.worker("s", "n0", "n1")
    driver.register(ALL, CHILD, TOLD)
    for handler in kinds.handlers():
        driver.ok(PutEventHandler("default", msgspec.json.encode(handler)))
    driver.start("e0")
    for reference in ("n0__1", "n0__2", "_n1_0", "_n1_1"):
        driver.give(reference)
    assert driver.header().status is WorkflowStatus.COMPLETED
    found = []
    for key, hot in driver.state.hot_executions():
        assert key == (hot.execution.namespace, hot.execution.workflow_id)
        payloads = {number: row.data for number, row in hot.payloads.items()}
        found.append(Held(hot.execution, list(hot.tasks.values()), dict(hot.records), [], payloads))
    assert len(found) == 3
    return found


def change(executions: list[Held], reference: str, **fields: Any) -> None:
    for held in executions:
        held.tasks = [replace(one, **fields) if one.reference == reference else one for one in held.tasks]


def without(executions: list[Held], reference: str) -> None:
    for held in executions:
        held.tasks = [one for one in held.tasks if one.reference != reference]


def again(executions: list[Held], name: str) -> None:
    [held] = [one for one in executions if one.execution.name == name]
    executions.append(replace_id(held))


def replace_id(held: Held) -> Held:
    return Held(replace(held.execution, workflow_id="another"), held.tasks, {}, [], held.payloads)


def gone(executions: list[Held], name: str) -> None:
    executions[:] = [one for one in executions if one.execution.name != name]


def test_what_is_right_is_not_reproached() -> None:
    assert list(shapes.problems(played(), DOCUMENTS)) == []


@pytest.mark.parametrize(
    ("break_it", "found"),
    [
        (lambda them: change(them, "l", position=1), "it has ended after 1 of 2 iterations"),
        (lambda them: without(them, "n0__2"), "iteration 2 begins with None"),
        (lambda them: without(them, "_n1_1"), "its task _n1_1 is None"),
        (lambda them: change(them, "_n1_1", status=TaskStatus.IN_PROGRESS), "its task _n1_1 is TaskAttempt"),
        (lambda them: gone(them, kinds.CHILD), "it has completed, and its child is None"),
        (lambda them: again(them, kinds.CHILD), "none of whose tasks knows it"),
        (lambda them: gone(them, kinds.TOLD), "and nobody has handled it"),
        (lambda them: again(them, kinds.TOLD), "was handled 2 times"),
    ],
)
def test_each_mistake_is_found(break_it: Callable[[list[Held]], None], found: str) -> None:
    executions = played()
    break_it(executions)
    [problem] = shapes.problems(executions, DOCUMENTS)
    assert found in problem


def test_definitions_of_all_kinds_are_taken() -> None:
    """And every kind is drawn."""
    drawn: set[str] = set()
    for seed in range(40):
        made = kinds.definitions(random.Random(seed))
        driver = Driver()
        driver.ok(RegisterWorkflows("default", tuple(msgspec.json.encode(one) for one in made), True))
        drawn |= {str(one["type"]) for document in made for one in shapes.elements_of(document["tasks"])}
    assert drawn >= {"DO_WHILE", "FORK_JOIN_DYNAMIC", "DYNAMIC", "SUB_WORKFLOW", "START_WORKFLOW", "EVENT", "WAIT"}
