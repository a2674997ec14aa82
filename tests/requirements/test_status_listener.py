"""One test per rule of `workflowStatusListenerEnabled` and `workflowStatusListenerSink`; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine.choices import DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import (
    DeleteWorkflow,
    PauseWorkflow,
    RestartWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.definitions.parse import validate_workflow
from orchestrator.engine.model import Table
from tests.engine.driver import Driver, simple, workflow
from tests.engine.triggers.making import action, input_of, put_handler
from tests.requirements.elements import element
from tests.requirements.listening import heard, listen

LISTENED: dict[str, Any] = {"workflowStatusListenerEnabled": True, "workflowStatusListenerSink": "conductor:ends"}


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", "undo_a", slots=20)
    listen(driver, "conductor:flow:ends", "conductor:flow:status")
    return driver


def begin(driver: Driver, *tasks: dict[str, Any], **fields: Any) -> None:
    driver.register(workflow("flow", *(tasks or (simple("a", retryCount=0),)), **(fields or LISTENED)))
    driver.start("flow", correlation_id="c")


def statuses(driver: Driver) -> list[str]:
    return [told["status"] for _, told in heard(driver)]


def test_the_end_is_told(driver: Driver) -> None:
    """A terminal status is an event: workflowId, name, version, status, correlationId and the reason."""
    begin(driver)
    assert not heard(driver)
    driver.fail("a", "broken")
    told = {"workflowId": "w", "name": "flow", "version": 1, "status": "FAILED", "correlationId": "c"}
    assert heard(driver) == [("conductor:flow:ends", {**told, "reason": driver.header().reason})]
    assert "broken" in driver.header().reason


@pytest.mark.parametrize(
    ("sink", "event"),
    [("conductor", "conductor:flow:status"), ("conductor:ends", "conductor:flow:ends")],
)
def test_the_sink_names_the_event(driver: Driver, sink: str, event: str) -> None:
    """`conductor:x` is conductor:<workflow>:x, `conductor` alone conductor:<workflow>:status."""
    begin(driver, workflowStatusListenerEnabled=True, workflowStatusListenerSink=sink)
    driver.give("a")
    [(name, told)] = heard(driver)
    assert (name, told["status"], told["reason"]) == (event, "COMPLETED", None)


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([element("NOOP", "n")], "COMPLETED"),
        ([element("TERMINATE", "t", {"terminationStatus": "TERMINATED"})], "TERMINATED"),
    ],
)
def test_what_ends_in_its_first_step_is_told(driver: Driver, tasks: list[Any], expected: str) -> None:
    """A workflow that needs nobody ends as it starts, and says so; that it began is not told."""
    begin(driver, *tasks, **LISTENED)
    assert statuses(driver) == [expected]


def test_timeouts_and_terminations_are_told(driver: Driver) -> None:
    """TIMED_OUT and TERMINATED are ends like any other."""
    begin(driver, simple("a"), timeoutSeconds=5, timeoutPolicy="TIME_OUT_WF", **LISTENED)
    driver.start("flow", "v")
    driver.ok(TerminateWorkflow("default", "v", "enough", TerminateCompensation.UNSET))
    driver.wait(5_000)
    assert [(told["workflowId"], told["status"]) for _, told in heard(driver)] == [
        ("v", "TERMINATED"), ("w", "TIMED_OUT"),
    ]


def test_pausing_and_resuming_are_told(driver: Driver) -> None:
    """PAUSED, and RUNNING when it goes on; a second pause changes nothing."""
    begin(driver)
    driver.ok(PauseWorkflow("default", "w"))
    driver.ok(PauseWorkflow("default", "w"))
    driver.ok(ResumeWorkflow("default", "w"))
    driver.give("a")
    assert statuses(driver) == ["PAUSED", "RUNNING", "COMPLETED"]


def test_what_runs_again_says_so(driver: Driver) -> None:
    """A retry or a restart leads out of a terminal status: RUNNING, and the next end."""
    begin(driver)
    driver.fail("a")
    driver.ok(RetryWorkflow("default", "w"))
    driver.give("a")
    driver.ok(RestartWorkflow("default", "w"))
    driver.give("a")
    assert statuses(driver) == ["FAILED", "RUNNING", "COMPLETED", "RUNNING", "COMPLETED"]


def test_compensating_is_a_status_too(driver: Driver) -> None:
    """A saga that turns round is COMPENSATING until it has ended."""
    begin(driver, simple("a", "undo_a"), simple("b", retryCount=0), **LISTENED)
    driver.give("a")
    driver.fail("b")
    driver.give(driver.undoing("a"))
    assert statuses(driver) == ["COMPENSATING", "FAILED"]


def test_a_listener_hears_no_more_than_the_statuses(driver: Driver) -> None:
    """Results, deletions and what else happens to the execution are no statuses."""
    begin(driver, simple("a"), simple("b"), **LISTENED)
    driver.give("a")
    driver.give("b")
    driver.wait(1)
    driver.ok(DeleteWorkflow("default", "w", DeleteEffects.UNSET))
    assert statuses(driver) == ["COMPLETED"]


def test_a_handler_reacts_once(driver: Driver) -> None:
    """It is an event like any other: its handlers do what they do, once, whoever leads."""
    driver.register(workflow("mail", simple("z")))
    start = action("start_workflow", name="mail", input={"of": "${workflowId}", "is": "${status}"})
    put_handler(driver, start, name="mails", event="conductor:flow:ends")
    begin(driver)
    other = driver.restart()
    for replica in (driver, other):
        replica.give("a")
        [mail] = [key[1] for key in replica.state.hot_keys() if key[1] != "w"]
        given = input_of(replica, mail)
        assert (given["of"], given["is"]) == ("w", "COMPLETED")
    assert other.rows() == driver.rows()


@pytest.mark.parametrize(
    "fields",
    [
        {"workflowStatusListenerEnabled": True},
        {"workflowStatusListenerSink": "conductor:ends"},
        {"workflowStatusListenerEnabled": False, "workflowStatusListenerSink": "conductor:ends"},
        {"workflowStatusListenerEnabled": True, "workflowStatusListenerSink": ""},
    ],
)
def test_it_takes_the_flag_and_a_sink(driver: Driver, fields: dict[str, Any]) -> None:
    """The flag without a sink tells nobody, nor does a sink that is not enabled."""
    begin(driver, **fields)
    driver.give("a")
    assert not driver.state.resident[Table.EVENT]


@pytest.mark.parametrize(
    ("sink", "message"),
    [("conductor:", "has to follow the colon"), ("conductor:" + "x" * 187, "has 202 characters"), (7, "a string")],
)
def test_a_sink_that_names_no_event_is_refused(sink: Any, message: str) -> None:
    """Whether or not it is enabled."""
    document = workflow("flow", simple("a"), workflowStatusListenerSink=sink)
    with pytest.raises(DefinitionInvalid) as refused:
        validate_workflow(msgspec.json.encode(document))
    assert refused.value.path == "workflowStatusListenerSink"
    assert message in refused.value.message
