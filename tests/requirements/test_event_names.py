"""One test per rule of the names of events that workflows publish; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine.definitions.errors import DefinitionError, DefinitionInvalid, DefinitionUnimplemented
from orchestrator.engine.definitions.parse import validate_workflow
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from tests.engine.driver import Driver, workflow
from tests.requirements.elements import element
from tests.requirements.listening import heard, listen

ROOM = 200 - len("conductor:flow:")


def event(sink: str, reference: str = "e") -> dict[str, Any]:
    return element("EVENT", reference, {}, sink=sink)


@pytest.mark.parametrize(
    ("task", "path"),
    [
        (event("conductor:" + "x" * (ROOM + 1)), "tasks[0].sink"),
        (event("conductor", "x" * (ROOM + 1)), "tasks[0].sink"),
        (element("DO_WHILE", "l", items=[1], loopOver=[event("conductor:" + "x" * 190)]), "tasks[0].loopOver[0].sink"),
        (event("conductor:"), "tasks[0].sink"),
    ],
)
def test_a_sink_whose_event_nobody_could_publish_is_refused(task: dict[str, Any], path: str) -> None:
    """The name of an event has 1 to 200 characters, and is known when the workflow is registered."""
    with pytest.raises(DefinitionInvalid) as refused:
        validate_workflow(msgspec.json.encode(workflow("flow", task)))
    assert refused.value.path == path


@pytest.mark.parametrize("task", [event("conductor:" + "x" * ROOM), event("conductor", "x" * ROOM)])
def test_the_longest_name_is_published(task: dict[str, Any]) -> None:
    """200 characters are a name."""
    driver = Driver()
    driver.register(workflow("flow", task))
    driver.start("flow")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_fork_that_brings_such_a_task_fails() -> None:
    """Tasks that come at run time are checked by the same rule, before any of them is made."""
    driver = Driver()
    given = {"tasks": [event("conductor:" + "x" * 190)], "inputs": {}}
    params = {"dynamicForkTasksParam": "tasks", "dynamicForkTasksInputParamName": "inputs"}
    driver.register(workflow("flow", element("FORK_JOIN_DYNAMIC", "f", given, **params), element("JOIN", "j")))
    driver.start("flow")
    assert driver.header().status is WorkflowStatus.FAILED
    assert "the name of one may have 200" in driver.header().reason
    assert driver.latest("f").status is not TaskStatus.COMPLETED


@pytest.mark.parametrize(
    ("sink", "name"),
    [
        ("conductor:${workflow.input.kind}", "conductor:flow:paid"),
        ("conductor:order-${workflow.input.n}", "conductor:flow:order-7"),
        ("${workflow.input.sink}", "conductor:flow:e"),
    ],
)
def test_a_sink_may_have_expressions(sink: str, name: str) -> None:
    """They are resolved when the task's turn comes."""
    driver = Driver()
    listen(driver, name)
    driver.register(workflow("flow", event(sink)))
    driver.start("flow", given=b'{"kind":"paid","n":7,"sink":"conductor"}')
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert [event for event, _ in heard(driver)] == [name]


@pytest.mark.parametrize("kind", ["kafka:topic", "", "conductor:" + "x" * 190])
def test_a_sink_that_turns_out_to_be_none_fails_the_task(kind: str) -> None:
    """What is elsewhere, or no name, is found when it is resolved."""
    driver = Driver()
    driver.register(workflow("flow", event("${workflow.input.sink}")))
    driver.start("flow", given=msgspec.json.encode({"sink": kind}))
    assert driver.latest("e").status is TaskStatus.FAILED
    assert driver.header().status is WorkflowStatus.FAILED


@pytest.mark.parametrize(
    ("sink", "refusal"),
    [("conductor:${nobody.output.x}", DefinitionInvalid), ("kafka:${workflow.input.x}", DefinitionUnimplemented)],
)
def test_what_is_known_of_such_a_sink_is_checked(sink: str, refusal: type[DefinitionError]) -> None:
    """References to tasks that are not there, and sinks of other kinds, are refused all the same."""
    with pytest.raises(refusal) as refused:
        validate_workflow(msgspec.json.encode(workflow("flow", event(sink))))
    assert refused.value.path == "tasks[0].sink"
