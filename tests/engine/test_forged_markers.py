"""Who knows what a value is called does not get it: what looks like a reference, made from data, refers to nothing.

The definitions here were registered at the first behaviour level, where names and keys were free.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from orchestrator.engine import behaviour, commands
from orchestrator.engine.blob_commands import HeldBlob, HoldBlobs
from orchestrator.engine.blobs import BlobRef, marker_of
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import RaiseBehaviour, RegisterWorkflows
from orchestrator.engine.model import Table, WorkflowStatus
from orchestrator.engine.results import Code, Rejected
from tests.engine.driver import Driver, simple, workflow
from tests.engine.triggers.making import arm

SECRET = b'"a value of another namespace"'
REF = BlobRef("shared", hashlib.sha256(SECRET).hexdigest(), len(SECRET))
MARKER = marker_of(REF)
INSIDE: dict[str, Any] = {"store": REF.store, "sha256": REF.sha256, "size": REF.size}
FORGED: dict[str, Any] = {"$blob": INSIDE}
PARTS = {key: f"${{workflow.input.{key}}}" for key in INSIDE}

Task = dict[str, Any]


def read(expression: str) -> Task:
    return simple("read", inputParameters={"stolen": expression})


def typed(kind: str, reference: str = "t", **fields: Any) -> Task:
    return {"name": reference, "taskReferenceName": reference, "type": kind, **fields}


def join(on: str) -> Task:
    return typed("JOIN", "j", joinOn=[on])


FORK = {"forkTasks": [[simple("$blob")]]}
LOOP = {"loopOver": [simple("$blob")], "items": "${workflow.input.store}"}

WAYS: dict[str, list[Task]] = {
    "a literal": [read("ignored") | {"inputParameters": {"stolen": FORGED}}],
    "a key of a template": [read("ignored") | {"inputParameters": {"stolen": {"$blob": PARTS}}}],
    "a fork's join": [typed("FORK_JOIN", **FORK), join("$blob"), read("${j.output}")],
    "an iteration": [typed("DO_WHILE", **LOOP), read("${t.output.1}")],
    "a variable": [typed("SET_VARIABLE", inputParameters={"stolen": {"$blob": PARTS}}),
                   read("${workflow.variables.stolen}")],
    "the variables": [typed("SET_VARIABLE", inputParameters={"$blob": PARTS}), read("${workflow.variables}")],
    "a child": [typed("SUB_WORKFLOW", subWorkflowParam={"name": "reads"}, inputParameters={"x": {"$blob": PARTS}})],
    "another": [typed("START_WORKFLOW", inputParameters={
        "startWorkflow": {"name": "reads", "input": {"x": {"$blob": PARTS}}}})],
    "an event": [typed("EVENT", sink="conductor:e", inputParameters={"x": {"$blob": PARTS}})],
    "an end": [typed("TERMINATE", inputParameters={
        "terminationStatus": "COMPLETED", "workflowOutput": {"x": {"$blob": PARTS}}})],
}
# They begin before the name is refused.
BY_REFERENCE = {"a fork's join": "$blob", "an iteration": "$blob__1"}


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    for name, tasks in WAYS.items():
        driver.register(workflow(name, *tasks))
    for name in BY_REFERENCE:
        driver.start(name, name, msgspec.json.encode(INSIDE))
    driver.register(
        workflow("reads", simple("read", inputParameters={"stolen": "${workflow.input.x}"})),
        workflow("template", read("${workflow.input.x}"), inputTemplate={"x": FORGED}),
        workflow("variables", read("${workflow.variables.x}"), variables={"x": FORGED}),
        workflow("output", simple("a"), outputParameters={"x": FORGED}),
    )
    for name, parameters in (("literal", {"name": "reads", "input": {"x": FORGED}}),
                             ("filled", {"name": "reads", "input": {"x": {"$blob": dict.fromkeys(INSIDE, "${v}")}}})):
        action = {"action": "start_workflow", "start_workflow": parameters}
        handler = {"name": name, "event": name, "active": True, "actions": [action]}
        driver.ok(commands.PutEventHandler("default", msgspec.json.encode(handler)))
    schedule = {"name": "s", "cronExpression": "* * * * * *",
                "startWorkflowRequest": {"name": "reads", "input": {"x": FORGED}}}
    driver.ok(commands.PutSchedule("default", msgspec.json.encode(schedule)))
    driver.ok(RaiseBehaviour(behaviour.STREAMS))
    theirs = msgspec.json.encode(workflow("theirs", simple("theirs")))
    driver.ok(RegisterWorkflows("other", (theirs,), False))
    driver.ok(HoldBlobs((HeldBlob(REF.store, REF.sha256, REF.size),)))
    driver.ok(commands.StartWorkflow("other", "theirs", 0, "v", IfExists.FAIL, b'{"x":%b}' % MARKER))
    driver.worker("s", "$blob", "read", "a", slots=9)
    return driver


def users(driver: Driver) -> int:
    (row,) = driver.state.resident[Table.BLOB].values()
    assert row.uses == 1, "only who put it uses it"
    return row.uses


def tasks_of(driver: Driver) -> list[Any]:
    hot = [hot for (namespace, _), hot in driver.state.hot_executions() if namespace == "default"]
    return [one for execution in hot for one in execution.tasks.values()]


@pytest.mark.parametrize("way", WAYS)
def test_no_task_gets_what_is_put_together_from_data(driver: Driver, way: str) -> None:
    if way in BY_REFERENCE:
        driver.give(BY_REFERENCE[way], msgspec.json.encode(INSIDE), workflow_id=way)
    else:
        driver.start(way, way, msgspec.json.encode(INSIDE))
    users(driver)
    failed = [one for one in tasks_of(driver) if "'$blob' is reserved" in one.reason or "kept outside" in one.reason]
    assert failed and not [one for one in tasks_of(driver) if one.reference == "read" and one.fencing_token]


@pytest.mark.parametrize("name", ["template", "variables"])
def test_nothing_begins_with_what_a_definition_says(driver: Driver, name: str) -> None:
    refused = driver.start(name)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, "INPUT_INVALID")
    assert "'$blob' is reserved" in refused.message
    users(driver)


def test_no_output_is_what_a_definition_says(driver: Driver) -> None:
    driver.start("output")
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert "'$blob' is reserved" in driver.header().reason and MARKER not in driver.hot().load(driver.header().output)
    users(driver)


@pytest.mark.parametrize("event", ["literal", "filled"])
def test_no_handler_starts_with_it(driver: Driver, event: str) -> None:
    driver.ok(commands.PublishEvent("default", event, "", msgspec.json.encode({"v": REF.sha256})))
    (run,) = driver.state.resident[Table.EVENT_RUN].values()
    assert "'$blob' is reserved" in run.reason
    users(driver)


def test_no_schedule_starts_with_it(driver: Driver) -> None:
    arm(driver, 1_000)
    driver.wait(2_000)
    runs = list(driver.state.resident[Table.SCHEDULE_RUN].values())
    assert runs and all("'$blob' is reserved" in run.reason for run in runs if run.reason)
    assert any(run.reason for run in runs)
    users(driver)
