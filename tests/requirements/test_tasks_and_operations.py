"""Task types, inputs, outputs, limits, operations: one test per rule; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits, queries
from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import (
    PauseWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
    SignalWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.engine.results import Code, Done
from tests.engine.driver import Driver, simple
from tests.requirements.elements import ONE, begin, busy_driver, element, fork, shown_input, switch, text


@pytest.fixture
def driver() -> Driver:
    return busy_driver()


# --- task types


@pytest.mark.parametrize(
    ("value", "case"),
    [
        ("x", "x"),
        (7, "7"),
        (1.0, "1.0"),
        (True, "true"),
        ("${workflow.input.no}", "null"),
        ({"k": 1}, '{"k":1}'),
        ("zz", "zz"),
    ],
)
def test_a_switch_chooses_by_the_text_of_its_value(driver: Driver, value: Any, case: str) -> None:
    """Stringified (null gives "null"); input.case, output.evaluationResult=[s], output.selectedCase;
    input.hasChildren="true" if branch tasks exist."""
    begin(driver, switch("s", value, {"x": [simple("a")]}, [simple("b")]))
    assert text(driver, "s") == {"evaluationResult": [case], "selectedCase": case}
    assert shown_input(driver, "s")["case"] == case
    assert shown_input(driver, "s")["hasChildren"] == "true"
    assert driver.latest("a" if case == "x" else "b").status is TaskStatus.IN_PROGRESS


def test_an_explicit_empty_case_means_nothing(driver: Driver) -> None:
    """defaultCase only if the key is absent (an explicit empty list means nothing)."""
    begin(driver, switch("s", "x", {"x": []}, [simple("a")]), simple("b"))
    assert driver.hot().latest("a") is None
    assert "hasChildren" not in shown_input(driver, "s")
    assert driver.latest("b").status is TaskStatus.IN_PROGRESS


def test_variables_are_merged_and_seen_by_later_tasks(driver: Driver) -> None:
    """Resolved input merged into workflow.variables."""
    begin(
        driver,
        element("SET_VARIABLE", "v1", {"x": 1, "y": 1}),
        element("SET_VARIABLE", "v2", {"y": "${workflow.input.n}"}),
        simple("a", inputParameters={"seen": "${workflow.variables}"}),
        given=b'{"n":5}',
        variables={"z": 0},
    )
    assert shown_input(driver, "a") == {"seen": {"z": 0, "x": 1, "y": 5}}


def test_too_many_variables_fail_the_task_and_are_rolled_back(driver: Driver) -> None:
    """> 256 KB total: FAILED_WITH_TERMINAL_ERROR, variables rolled back."""
    big = b'{"big":"' + b"x" * 200_000 + b'"}'
    tasks = [element("SET_VARIABLE", f"v{n}", {f"k{n}": "${workflow.input.big}"}) for n in range(2)]
    begin(driver, *tasks, given=big)
    assert driver.latest("v1").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert "262144" in driver.latest("v1").reason
    assert list(msgspec.json.decode(queries.payload(driver.hot(), driver.header().variables))) == ["k0"]


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "TERMINATED"])
def test_terminate_ends_the_workflow(driver: Driver, status: str) -> None:
    """Task COMPLETED, all others cancelled. Default reason "Workflow is X by TERMINATE task: <taskId>"."""
    begin(driver, *fork([simple("a")], [element("TERMINATE", "t", {"terminationStatus": status})]))
    assert driver.header().status.name == status
    assert driver.latest("t").status is TaskStatus.COMPLETED
    assert driver.latest("a").status is TaskStatus.CANCELED
    assert driver.header().reason == f"Workflow is {status} by TERMINATE task: {driver.latest('t').task_id}"


@pytest.mark.parametrize(("given", "output"), [({"k": 1}, {"k": 1}), (7, {"output": 7})])
def test_terminate_gives_the_output(driver: Driver, given: Any, output: Any) -> None:
    """workflowOutput (map = workflow output; other value = {output: v}); TERMINATE output wins."""
    parameters = {"terminationStatus": "COMPLETED", "terminationReason": "enough", "workflowOutput": given}
    begin(driver, element("TERMINATE", "t", parameters), outputParameters={"n": 1})
    assert msgspec.json.decode(queries.payload(driver.hot(), driver.header().output)) == output
    assert driver.header().reason == "enough"


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED"])
def test_terminate_without_an_output_leaves_none(driver: Driver, status: str) -> None:
    """TERMINATE output wins, also where it gives none: outputParameters are not resolved."""
    begin(
        driver, simple("a"), element("TERMINATE", "t", {"terminationStatus": status}), outputParameters={"n": 1}
    )
    driver.give("a", b'{"n":2}')
    assert driver.header().status.name == status
    assert driver.hot().load(driver.header().output) == b"{}"


def test_wait_for_a_time(driver: Driver) -> None:
    """Input duration (`1 days 2 hours 3 minutes 4 seconds`)."""
    begin(driver, element("WAIT", "hold", {"duration": "1 minutes 30 seconds"}))
    driver.wait(89_999)
    assert driver.latest("hold").status is TaskStatus.IN_PROGRESS
    driver.wait(1)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_wait_until_a_time(driver: Driver) -> None:
    """Or until (`yyyy-MM-dd HH:mm`); a time that has passed is now."""
    past = element("WAIT", "past", {"until": "2001-02-03 04:05"})
    begin(driver, past, element("WAIT", "hold", {"until": "2023-11-15"}))
    assert driver.latest("past").status is TaskStatus.IN_PROGRESS
    driver.wait(0)
    assert driver.latest("past").status is TaskStatus.COMPLETED
    (timer,) = driver.state.timers.values()
    assert timer.fire_ms == 1_700_006_400_000


@pytest.mark.parametrize("given", [{"duration": "soon"}, {"until": "one day"}])
def test_wait_for_what_is_no_time_fails(driver: Driver, given: dict[str, str]) -> None:
    """What turns out to be no time: FAILED_WITH_TERMINAL_ERROR. (Both are refused with the definition.)"""
    begin(driver, element("WAIT", "hold", dict.fromkeys(given, "${workflow.input.t}")), given=b'{"t":"soon"}')
    assert driver.latest("hold").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR


def test_signals_are_kept_for_their_name_and_taken_first_in_first_out(driver: Driver) -> None:
    """Durable and buffered until a WAIT with that signal's name takes it, also when it arrives first."""
    waits = [element("WAIT", f"h{n}", {"signal": "go"}) for n in range(2)]
    begin(driver, simple("a"), *waits, element("WAIT", "h3"))
    for number in (1, 2):
        driver.ok(SignalWorkflow(*ONE, "go", b'{"n":%d}' % number))
    driver.ok(SignalWorkflow(*ONE, "other", b"{}"))
    driver.give("a")
    assert [text(driver, f"h{n}") for n in range(2)] == [{"n": 1}, {"n": 2}]
    driver.ok(SignalWorkflow(*ONE, "h3", b'{"n":3}'))
    assert text(driver, "h3") == {"n": 3}
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_the_buffer_of_signals_is_bounded(driver: Driver) -> None:
    """Limit 100 and 1 MiB per execution: RESOURCE_EXHAUSTED."""
    driver.check = False
    begin(driver, simple("a"))
    for _ in range(limits.SIGNALS):
        assert driver.ok(SignalWorkflow(*ONE, "go", b"{}")) == Done()
    assert driver.do(SignalWorkflow(*ONE, "go", b"{}")).code is Code.RESOURCE_EXHAUSTED
    begin(driver := Driver(), simple("a"))
    big = b'{"x":"' + b"y" * 250_000 + b'"}'
    codes = [getattr(driver.do(SignalWorkflow(*ONE, "go", big)), "code", None) for _ in range(5)]
    assert codes == [None] * 4 + [Code.RESOURCE_EXHAUSTED]


# --- inputs, outputs, limits


def test_large_inputs_are_resolved_at_hand_out_and_stay_what_they_were(driver: Driver) -> None:
    """Inputs are kept as template plus references; what is referenced is immutable per attempt."""
    big = b'{"big":"' + b"x" * 10_000 + b'"}'
    tasks = [
        simple("a"),
        simple("b", inputParameters={"all": "${a.output.big}", "v": "${workflow.variables.n}"}),
        element("SET_VARIABLE", "v2", {"n": 2}),
        simple("c", inputParameters={"all": "${b.input.all}"}),
    ]
    begin(driver, element("SET_VARIABLE", "v1", {"n": 1}), *tasks)
    driver.give("a", big)
    assert driver.latest("b").input == b""
    first = shown_input(driver, "b")
    driver.give("b")
    assert shown_input(driver, "b") == first == {"all": "x" * 10_000, "v": 1}
    # Not from an input that is itself still to be resolved: that could go on for ever.
    assert isinstance(driver.latest("c").input, int)
    assert shown_input(driver, "c") == {"all": "x" * 10_000}


def test_a_large_input_stays_what_it_was_when_a_join_is_reopened(driver: Driver) -> None:
    """What is referenced is immutable: an input that refers to what may be reopened in place is kept as it is."""
    forked, join = fork([simple("a", permissive=True, retryCount=0)], [simple("b")])
    begin(driver, forked, {**join, "permissive": True}, simple("c", inputParameters={"v": "${j.output.b.v}"}))
    driver.give("b", b'{"v":"' + b"x" * 5000 + b'"}')
    driver.fail("a")
    before = shown_input(driver, "c")
    driver.give("c")
    driver.ok(RetryWorkflow(*ONE))
    assert driver.latest("j").status is TaskStatus.IN_PROGRESS
    assert shown_input(driver, "c") == before


def test_an_input_that_is_too_large_fails_the_task(driver: Driver) -> None:
    """Crossing a limit fails the task with a reason that names it."""
    big = b'{"big":"' + b"x" * 200_000 + b'"}'
    begin(driver, simple("a", inputParameters={"p": "${workflow.input.big}", "q": "${workflow.input.big}"}), given=big)
    assert driver.latest("a").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert driver.latest("a").reason == "the task's input exceeds the limit of 262144 bytes"


def test_an_execution_has_a_limit_in_all(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Execution 64 MiB: crossing it fails the task with a reason naming the limit."""
    monkeypatch.setattr(limits, "EXECUTION_BYTES", 10_000)
    begin(driver, simple("a", retryCount=0))
    driver.give("a", b'{"big":"' + b"x" * 10_000 + b'"}')
    assert driver.latest("a").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert "10000 bytes" in driver.latest("a").reason


def test_an_execution_has_a_limit_of_tasks(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 tasks; undoing what was done is not counted."""
    monkeypatch.setattr(limits, "TASKS", 2)
    begin(driver, {**simple("a"), "compensateWith": {"name": "b", "type": "SIMPLE"}}, simple("c"), simple("d"))
    driver.give("a")
    driver.give("c")
    assert driver.header().reason.startswith("the execution exceeds the limit of 2 tasks")
    driver.give(driver.undoing("a"))
    assert driver.header().status is WorkflowStatus.FAILED


def test_the_output_is_that_of_the_last_task_unless_defined(driver: Driver) -> None:
    """Output: outputParameters resolved, else the last task's output. Resolved on failure too."""
    begin(driver, simple("a"), simple("b", retryCount=0), outputParameters={"n": "${a.output.n}", "m": "${b.output.m}"})
    driver.give("a", b'{"n":1}')
    driver.fail("b")
    assert queries.payload(driver.hot(), driver.header().output) == b'{"n":1,"m":null}'


# --- 2.9 operations


def test_terminate_on_ended_workflows(driver: Driver) -> None:
    """terminate: on COMPLETED 409; on TERMINATED no-op."""
    begin(driver, simple("a"))
    driver.start("flow", "v")
    driver.give("a")
    stop = TerminateWorkflow(*ONE, "stop", TerminateCompensation.UNSET)
    assert driver.do(stop).code is Code.FAILED_PRECONDITION
    driver.ok(TerminateWorkflow("default", "v", "stop", TerminateCompensation.UNSET))
    assert driver.ok(TerminateWorkflow("default", "v", "again", TerminateCompensation.UNSET)) == Done()
    assert driver.header("v").reason == "stop"


def test_pause_and_resume_in_the_wrong_state(driver: Driver) -> None:
    """pause on ended 409; resume of a non-paused is refused."""
    begin(driver, simple("a"))
    assert driver.do(ResumeWorkflow(*ONE)).reason == "WORKFLOW_NOT_PAUSED"
    driver.ok(PauseWorkflow(*ONE))
    assert driver.ok(PauseWorkflow(*ONE)) == Done()
    driver.ok(ResumeWorkflow(*ONE))
    driver.give("a")
    assert driver.do(PauseWorkflow(*ONE)).code is Code.FAILED_PRECONDITION
    assert driver.do(PauseWorkflow("default", "nope")).code is Code.NOT_FOUND


def test_retry_gives_failed_and_cancelled_tasks_another_attempt(driver: Driver) -> None:
    """Latest attempts FAILED, TIMED_OUT, FAILED_WITH_TERMINAL_ERROR, CANCELED get a new task; JOIN is reopened in
    place; the workflow's timeout restarts."""
    begin(driver, *fork([simple("a", retryCount=0)], [simple("b")]), timeoutSeconds=60, timeoutPolicy="TIME_OUT_WF")
    join = driver.latest("j")
    driver.fail("a")
    driver.wait(50_000)
    driver.ok(RetryWorkflow(*ONE))
    assert driver.latest("j").sequence == join.sequence
    assert driver.latest("j").status is TaskStatus.IN_PROGRESS
    driver.wait(50_000)
    driver.give("a")
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize("how", ["too large", "too late"])
def test_a_join_that_failed_for_good_is_reopened_too(driver: Driver, how: str) -> None:
    """Latest attempts TIMED_OUT and FAILED_WITH_TERMINAL_ERROR, too: a JOIN is reopened in place."""
    tasks = fork([simple("a", permissive=True, retryCount=0)], [simple("b")], [simple("c")])
    if how == "too late":
        tasks[1]["taskDefinition"] = {"name": "j", "totalTimeoutSeconds": 60, "timeoutPolicy": "RETRY"}
    begin(driver, *tasks)
    large = b'{"v":"' + b"x" * 200_000 + b'"}'
    driver.give("b", large)
    if how == "too late":
        driver.wait(60_000)
        assert driver.latest("j").status is TaskStatus.TIMED_OUT
    else:
        driver.fail("a")
        driver.give("c", large)
        assert driver.latest("j").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    driver.ok(RetryWorkflow(*ONE))
    assert driver.latest("a").status is driver.latest("j").status is TaskStatus.IN_PROGRESS
    assert (driver.latest("j").reason, driver.latest("j").error_code) == ("", "")
    driver.give("a")
    if how == "too late":
        driver.give("c")
        assert driver.header().status is WorkflowStatus.COMPLETED
    else:
        assert driver.header().status is WorkflowStatus.FAILED


def test_retry_is_refused_where_there_is_nothing_to_retry(driver: Driver) -> None:
    """Running is refused; nothing retriable 409 (so also COMPLETED)."""
    begin(driver, simple("a"))
    assert driver.do(RetryWorkflow(*ONE)).reason == "WORKFLOW_RUNNING"
    driver.give("a")
    assert driver.do(RetryWorkflow(*ONE)).reason == "NOTHING_TO_RETRY"


def test_retry_of_a_permissive_failure_needs_only_its_result(driver: Driver) -> None:
    """What the walk has passed is not walked again."""
    begin(driver, simple("a", permissive=True, retryCount=0), simple("b"))
    driver.fail("a")
    driver.give("b")
    driver.ok(RetryWorkflow(*ONE))
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert len(driver.hot().attempts_of["b"]) == 1


def test_a_timed_out_workflow_may_be_retried_without_a_task(driver: Driver) -> None:
    """Except that a workflow-level TIMED_OUT may be retried with no retriable task."""
    begin(driver, simple("a"), simple("b"), timeoutSeconds=60, timeoutPolicy="TIME_OUT_WF")
    driver.ok(PauseWorkflow(*ONE))
    driver.give("a")
    driver.wait(60_000)
    assert driver.header().status is WorkflowStatus.TIMED_OUT
    driver.ok(RetryWorkflow(*ONE))
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED
