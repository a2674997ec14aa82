"""What callers may change of an execution that runs: variables, pending tasks, and what is logged of them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine import limits, task_logs
from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import (
    AddTaskLogs,
    CompleteTask,
    PauseWorkflow,
    ReleaseTask,
    ResumeWorkflow,
    TerminateWorkflow,
    UpdateTask,
    UpdateVariables,
)
from orchestrator.engine.effects import Cancel
from orchestrator.engine.model import Table, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Code, Rejected, Verdict
from orchestrator.engine.scopes import load
from tests.engine.driver import Driver, simple, workflow

ONE = ("default", "w")
DONE, FAILED, GOES_ON = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.IN_PROGRESS
WAIT = {"name": "wait", "taskReferenceName": "wait", "type": "WAIT"}


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", "undo", slots=9)
    return driver


def begin(driver: Driver, *tasks: dict[str, Any], **fields: Any) -> None:
    driver.register(workflow("flow", *tasks, **fields))
    assert not isinstance(driver.start("flow"), Rejected)


def update(reference: str, status: TaskStatus = DONE, output: bytes = b"{}", reason: str = "") -> UpdateTask:
    return UpdateTask(*ONE, reference, status, output, reason)


def variables(driver: Driver) -> bytes:
    return load(driver.hot(), driver.header().variables)


def output(driver: Driver, reference: str) -> bytes:
    return load(driver.hot(), driver.latest(reference).output)


# --- variables


def test_variables_are_merged_as_a_set_variable_does_it(driver: Driver) -> None:
    setting = {"name": "set", "taskReferenceName": "set", "type": "SET_VARIABLE", "inputParameters": {"b": 3}}
    begin(driver, WAIT, setting, simple("a", inputParameters={"v": "${workflow.variables}"}), variables={"a": 1})
    driver.ok(UpdateVariables(*ONE, b'{"b":2,"c":{"d":[]}}'))
    assert variables(driver) == b'{"a":1,"b":2,"c":{"d":[]}}'
    driver.ok(update("wait"))
    assert load(driver.hot(), driver.latest("a").input) == b'{"v":{"a":1,"b":3,"c":{"d":[]}}}'


def test_what_was_handed_out_with_other_variables_stays_as_it_was(driver: Driver) -> None:
    begin(driver, simple("a", inputParameters={"v": "${workflow.variables.v}"}), variables={"v": "x" * 5000})
    before = driver.effects
    driver.ok(UpdateVariables(*ONE, b'{"v":1}'))
    attempt = driver.latest("a")
    assert attempt.bound_variables
    assert len(load(driver.hot(), attempt.bound_variables)) > 5000
    assert before


@pytest.mark.parametrize(
    ("given", "reason"),
    [(b"[]", "PAYLOAD_INVALID"), (b"{", "PAYLOAD_INVALID"), (b'{"w":"%b"}' % (b"x" * 200_000), "PAYLOAD_TOO_LARGE")],
)
def test_variables_have_the_limits_of_a_payload(driver: Driver, given: bytes, reason: str) -> None:
    begin(driver, WAIT, variables={"v": "x" * 100_000})
    refused = driver.do(UpdateVariables(*ONE, given))
    assert (refused.code, refused.reason) == (Code.INVALID_ARGUMENT, reason)
    assert len(variables(driver)) < 100_020


def test_variables_count_for_the_size_of_the_execution(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(driver, WAIT)
    monkeypatch.setattr(limits, "EXECUTION_BYTES", 1000)
    assert driver.do(UpdateVariables(*ONE, b'{"v":"%b"}' % (b"x" * 2000))).reason == "EXECUTION_TOO_LARGE"


# --- tasks


def test_a_wait_ends_with_what_it_was_given_bit_by_bit(driver: Driver) -> None:
    """IN_PROGRESS merges the output; COMPLETED ends it."""
    begin(driver, WAIT, simple("a", inputParameters={"v": "${wait.output}"}))
    driver.ok(update("wait", GOES_ON, b'{"x":1,"y":1}'))
    assert driver.latest("wait").status is GOES_ON
    driver.ok(update("wait", GOES_ON, b'{"y":{"big":"%b"}}' % (b"z" * 5000)))
    driver.ok(update("wait", DONE, b'{"y":2,"z":3}'))
    assert output(driver, "wait") == b'{"x":1,"y":2,"z":3}'
    assert load(driver.hot(), driver.latest("a").input) == b'{"v":{"x":1,"y":2,"z":3}}'
    assert not driver.hot().payloads


def test_a_wait_that_ends_by_its_time_keeps_what_it_was_given(driver: Driver) -> None:
    begin(driver, {**WAIT, "inputParameters": {"duration": "5 seconds"}}, simple("a"))
    driver.ok(update("wait", GOES_ON, b'{"x":1}'))
    driver.wait(5_000)
    assert (driver.latest("wait").status, output(driver, "wait")) == (DONE, b'{"x":1}')


def test_its_timer_fires_for_nothing(driver: Driver) -> None:
    begin(driver, {**WAIT, "inputParameters": {"duration": "5 seconds"}}, simple("a"))
    driver.ok(update("wait"))
    assert not driver.state.timers


def test_what_a_worker_holds_is_taken_from_it(driver: Driver) -> None:
    """Its lease is fenced: it is told to stop, and nothing it says counts."""
    begin(driver, simple("a", "undo"), simple("b"))
    held = driver.latest("a")
    driver.ok(update("a", DONE, b'{"by":"hand"}'))
    assert driver.state.leases[held.fencing_token,].fenced
    assert any(isinstance(effect, Cancel) and effect.fenced for effect in driver.effects)
    late = driver.ok(CompleteTask(*ONE, held.task_id, held.fencing_token, DONE, b'{"by":"worker"}', "", ""))
    assert late.verdict is Verdict.FENCED
    assert output(driver, "a") == b'{"by":"hand"}'
    assert driver.latest("b").status is TaskStatus.IN_PROGRESS
    # The step has completed: it is owed its compensation, once.
    driver.give("b", b"", TaskStatus.FAILED_WITH_TERMINAL_ERROR)
    assert [record.outcome.name for record in driver.hot().records.values()] == ["COMPLETED"]


def test_a_failure_said_for_a_worker_leaves_the_outcome_unknown(driver: Driver) -> None:
    begin(driver, simple("a", "undo", retryCount=0))
    driver.ok(update("a", FAILED, reason="given up"))
    assert driver.header().status is WorkflowStatus.COMPENSATING
    assert driver.hot().records[1].outcome.name == "UNKNOWN"


def test_a_failure_is_retried_as_a_workers_would_be(driver: Driver) -> None:
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=0)
    begin(driver, simple("a"))
    token = driver.latest("a").fencing_token
    driver.ok(update("a", FAILED, reason="by hand"))
    assert driver.latest("a").retry_count == 1
    driver.ok(ReleaseTask("s", token))
    driver.ok(update("a", TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason="enough"))
    assert (driver.header().status, driver.header().failed_task) == (WorkflowStatus.FAILED, "a")
    assert "enough" in driver.header().reason


def test_what_waits_for_a_worker_is_taken_from_its_queue(driver: Driver) -> None:
    begin(driver, simple("nobody"), simple("a"))
    assert len(driver.state.ready) == 1
    driver.ok(update("nobody", GOES_ON, b'{"x":1}'))
    assert driver.latest("nobody").status is TaskStatus.SCHEDULED
    driver.ok(update("nobody"))
    assert not driver.state.ready
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS


def test_while_paused_it_counts_and_nothing_follows(driver: Driver) -> None:
    begin(driver, WAIT, simple("a"))
    driver.ok(PauseWorkflow(*ONE))
    driver.ok(update("wait"))
    assert driver.hot().latest("a") is None
    driver.ok(ResumeWorkflow(*ONE))
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS


def test_what_cannot_be_updated_is_refused_with_the_reason(driver: Driver) -> None:
    branches = [[simple("a")], [WAIT]]
    fork = {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": branches}
    join = {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["a", "wait"]}
    begin(driver, fork, join, simple("b"))
    for command, code, reason in (
        (update("nothing"), Code.NOT_FOUND, "TASK_NOT_FOUND"),
        (update("b"), Code.NOT_FOUND, "TASK_NOT_FOUND"),
        (update("f"), Code.FAILED_PRECONDITION, "TASK_ENDED"),
        (update("j"), Code.FAILED_PRECONDITION, "TASK_NOT_UPDATABLE"),
        (update("wait", TaskStatus.TIMED_OUT), Code.INVALID_ARGUMENT, "STATUS_INVALID"),
        (update("wait", DONE, b"3"), Code.INVALID_ARGUMENT, "PAYLOAD_INVALID"),
        (UpdateTask("default", "none", "a", DONE, b"{}"), Code.NOT_FOUND, "WORKFLOW_NOT_FOUND"),
    ):
        refused = driver.do(command)
        assert (refused.code, refused.reason) == (code, reason)
    driver.ok(TerminateWorkflow(*ONE, "stop", TerminateCompensation.SKIP))
    assert driver.do(update("wait")).reason == "WORKFLOW_ENDED"


# --- logs


def logged(driver: Driver) -> list[tuple[str, int, str]]:
    return [(line.attempt.reference, line.time_ms, line.text) for line in task_logs.lines_after(driver.hot(), 0, 0)]


def log(driver: Driver, reference: str, *texts: str, token: int | None = None) -> Any:
    attempt = driver.latest(reference)
    used = attempt.fencing_token if token is None else token
    return driver.ok(AddTaskLogs(*ONE, attempt.task_id, used, tuple(enumerate(texts))))


def test_lines_are_kept_in_the_order_in_which_they_came(driver: Driver) -> None:
    begin(driver, simple("a"), simple("b"))
    assert log(driver, "a", "one", "two").verdict is Verdict.ACCEPTED
    attempt = driver.latest("a")
    last = ((7, "three"),)
    driver.ok(CompleteTask(*ONE, attempt.task_id, attempt.fencing_token, DONE, b"{}", "", "", logs=last))
    log(driver, "b", "four")
    assert logged(driver) == [("a", 0, "one"), ("a", 1, "two"), ("a", 7, "three"), ("b", 0, "four")]
    assert logged(driver.restart()) == logged(driver)
    [second, *_] = list(task_logs.lines_after(driver.hot(), *_place(driver, 1)))
    assert second.text == "two"


def _place(driver: Driver, at: int) -> tuple[int, int]:
    line = list(task_logs.lines_after(driver.hot(), 0, 0))[at]
    return line.number, line.position


def test_a_worker_logs_while_it_holds_the_attempt(driver: Driver) -> None:
    begin(driver, simple("a"), simple("b"))
    token = driver.latest("a").fencing_token
    assert log(driver, "a", "x", token=token + 1).verdict is Verdict.FENCED
    assert driver.ok(AddTaskLogs(*ONE, "none", 1, ((1, "x"),))).verdict is Verdict.UNKNOWN
    driver.give("a")
    assert log(driver, "a", "x").verdict is Verdict.FENCED
    assert log(driver, "a", "an operator's", token=0).verdict is Verdict.ACCEPTED
    assert logged(driver) == [("a", 0, "an operator's")]


def test_the_oldest_go_and_how_many_is_known(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_LINES", 5)
    monkeypatch.setattr(limits, "LOG_BYTES", 40)
    begin(driver, simple("a"))
    log(driver, "a", *"abc")
    log(driver, "a", *"de")
    log(driver, "a", "f")
    assert [text for _, _, text in logged(driver)] == ["d", "e", "f"]
    assert driver.header().log_lines_dropped == 3
    log(driver, "a", *"ghijklmn")
    assert [text for _, _, text in logged(driver)] == ["j", "k", "l", "m", "n"]
    assert driver.header().log_lines_dropped == 9
    log(driver, "a", "x" * 20, "é" * 15, "y" * 10)
    assert [text for _, _, text in logged(driver)] == ["é" * 15, "y" * 10]
    assert driver.header().log_lines_dropped == 15
    assert (driver.header().log_lines, driver.header().log_bytes) == (2, 40)


def test_a_line_is_cut(driver: Driver) -> None:
    begin(driver, simple("a"))
    log(driver, "a", "x" * (limits.LOG_LINE_CHARS + 1))
    assert len(logged(driver)[0][2]) == limits.LOG_LINE_CHARS


def test_no_lines_are_no_row(driver: Driver) -> None:
    begin(driver, simple("a"))
    log(driver, "a")
    assert not [mark for mark in driver.rows() if mark[0] is Table.TASK_LOG]
