"""Executions that are started from within: as at the door, and who wanted one is told what came of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits, machine, origins, walk
from orchestrator.engine.commands import Continue
from orchestrator.engine.messages import Origin, OriginKind, StartExecution
from orchestrator.engine.model import Table, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Code, Rejected, Started
from tests.engine.driver import Driver, simple, workflow

WANTED_BY = Origin(name="somebody", number=7)


class Told:
    """What whoever sends the messages hears of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: list[tuple[Origin, Any]] = []
        self._monkeypatch = monkeypatch
        monkeypatch.setitem(
            origins.TOLD, OriginKind.NOBODY, lambda step, message, result: self.heard.append((message.origin, result))
        )

    def send(self, driver: Driver, **fields: Any) -> None:
        known = {"namespace": "default", "workflow_id": "born", "name": "order", "version": 0, "input": b'{"n":1}'}
        message = StartExecution(**{**known, "origin": WANTED_BY, **fields})
        with self._monkeypatch.context() as patched:
            patched.setitem(machine.COMMANDS, Continue, lambda step, _: step.send(message) or machine.Done())
            driver.do(Continue())

    def reason(self) -> str:
        [(origin, result)] = self.heard
        assert origin == WANTED_BY
        assert isinstance(result, Rejected), result
        return result.reason


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.register(workflow("order", simple("a"), inputTemplate={"m": 2}, variables={"v": 3}))
    return driver


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


def test_it_begins_as_one_that_was_started_at_the_door(driver: Driver, told: Told) -> None:
    fields: dict[str, Any] = {"correlation_id": "c", "priority": 5, "created_by": "me", "task_to_domain": (("a", "d"),)}
    told.send(driver, **fields)
    driver.start("order", "door", b'{"n":1}', **fields)
    assert told.heard == [(WANTED_BY, Started("born", existing=False))]
    born, door = driver.header("born"), driver.header("door")
    assert born == msgspec.structs.replace(door, workflow_id="born")
    assert driver.state.resident[Table.BUNDLE][(born.bundle,)].executions == 2
    driver.worker("w", "a", domain="d", slots=2)
    assert driver.latest("a", "born").status is TaskStatus.IN_PROGRESS
    driver.give("a", workflow_id="born")
    assert driver.header("born").status is WorkflowStatus.COMPLETED


def test_one_may_run_what_is_not_registered(driver: Driver, told: Told) -> None:
    told.send(driver, name="", document=msgspec.json.encode(workflow("inline", simple("a"))))
    assert driver.header("born").name == "inline"


@pytest.mark.parametrize(("fields", "reason"), [
    ({"name": "nothing"}, "WORKFLOW_DEFINITION_NOT_FOUND"),
    ({"version": 9}, "WORKFLOW_DEFINITION_NOT_FOUND"),
    ({"namespace": "default", "input": b"[]"}, "INPUT_INVALID"),
    ({"priority": 100}, "PRIORITY_INVALID"),
    ({"workflow_id": "x" * 201}, "WORKFLOW_ID_TOO_LONG"),
    ({"workflow_id": "taken"}, "WORKFLOW_ALREADY_EXISTS"),
    ({"document": b"{}"}, "DEFINITION_INVALID"),
])
def test_what_can_not_begin_is_told_and_changes_nothing(
    driver: Driver, told: Told, fields: dict[str, Any], reason: str
) -> None:
    driver.start("order", "taken")
    before = driver.rows()
    told.send(driver, **fields)
    assert told.reason() == reason
    after = driver.rows()
    assert [mark for mark in after if before.get(mark) != after[mark]] == [(Table.META, ())]


def test_an_id_that_is_taken_by_an_execution_in_the_database_is_taken(driver: Driver, told: Told) -> None:
    driver.start("order", "born")
    other = driver.restart(cold=True)
    told.send(other)
    assert told.reason() == "WORKFLOW_ALREADY_EXISTS"


def test_payloads_that_are_too_large_leave_no_trace_of_the_definition(
    driver: Driver, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EXECUTION_BYTES", 10)
    told.send(driver)
    assert told.reason() == "PAYLOAD_TOO_LARGE"
    assert driver.state.resident[Table.BUNDLE] == {}
    driver.start("order", "door")
    assert driver.state.execution(("default", "door")) is None
    assert driver.state.resident[Table.BUNDLE] == {}


@pytest.mark.patches_engine
def test_whoever_wanted_one_is_told_too_if_its_step_breaks(
    driver: Driver, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.check = False
    drain = walk.drain

    def broken(step: Any) -> None:
        drain(step)
        raise KeyError("broken")

    monkeypatch.setattr(walk, "drain", broken)
    told.send(driver)
    # Once in the step that was undone, and once more for good.
    [_, (origin, result)] = told.heard
    assert origin == WANTED_BY and isinstance(result, Rejected) and result.code is Code.INTERNAL
    assert driver.state.execution(("default", "born")) is None
    assert driver.machine.next_message() is None


def test_a_message_is_dropped_even_if_the_telling_breaks(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.check = False

    def broken(*_: Any) -> None:
        raise KeyError("broken")

    told = Told(monkeypatch)
    monkeypatch.setitem(origins.TOLD, OriginKind.NOBODY, broken)
    told.send(driver)
    assert driver.machine.next_message() is None
    assert driver.state.execution(("default", "born")) is None
