"""One test per rule of how a workflow is executed (Conductor's observable results); the rule is its docstring."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits, queries
from orchestrator.engine.commands import (
    DeadlineKind,
    ExpireDeadline,
    PauseWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
    SignalWorkflow,
    TerminateCompensation,
    TerminateWorkflow,
)
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.engine.results import Code, Done
from tests.engine.driver import Driver, simple, workflow

ONE = ("default", "w")


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", "c", "d", "e", slots=50)
    return driver


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
    return msgspec.json.decode(queries.payload(hot, driver.latest(reference, workflow_id).output))


def shown_input(driver: Driver, reference: str) -> Any:
    return msgspec.json.decode(queries.resolved_input(driver.state, driver.hot(), driver.latest(reference)))


# --- 2.2 decide


def test_a_workflow_that_takes_too_long_times_out(driver: Driver) -> None:
    """TIME_OUT_WF makes it TIMED_OUT and cancels tasks ("Workflow timed out after N seconds. ...")."""
    begin(driver, simple("a"), timeoutSeconds=60, timeoutPolicy="TIME_OUT_WF")
    driver.wait(59_999)
    assert driver.header().status is WorkflowStatus.RUNNING
    driver.wait(1)
    assert driver.header().status is WorkflowStatus.TIMED_OUT
    assert driver.latest("a").status is TaskStatus.CANCELED
    assert driver.header().reason == (
        "Workflow timed out after 60 seconds. Timeout configured as 60 seconds. Timeout policy configured to"
        " TIME_OUT_WF"
    )


def test_alert_only_changes_nothing(driver: Driver) -> None:
    """ALERT_ONLY logs."""
    begin(driver, simple("a"), timeoutSeconds=60, timeoutPolicy="ALERT_ONLY")
    driver.wait(600_000)
    assert driver.header().status is WorkflowStatus.RUNNING


def test_a_paused_workflow_still_times_out(driver: Driver) -> None:
    """The workflow's timeout is checked before PAUSED is."""
    begin(driver, simple("a"), timeoutSeconds=60, timeoutPolicy="TIME_OUT_WF")
    driver.ok(PauseWorkflow(*ONE))
    driver.wait(60_000)
    assert driver.header().status is WorkflowStatus.TIMED_OUT


def test_paused_schedules_nothing_and_takes_results(driver: Driver) -> None:
    """PAUSED: nothing new is scheduled; task updates are still accepted and stored."""
    begin(driver, simple("a"), simple("b"))
    driver.ok(PauseWorkflow(*ONE))
    driver.give("a", b'{"n":1}')
    assert driver.latest("a").status is TaskStatus.COMPLETED
    assert driver.hot().latest("b") is None
    driver = driver.restart()
    driver.ok(ResumeWorkflow(*ONE))
    assert driver.latest("b").status is TaskStatus.IN_PROGRESS


def test_a_retry_that_is_due_while_paused_waits_for_resume(driver: Driver) -> None:
    """PAUSED holds retries too, those whose delay passes meanwhile included."""
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=5)
    begin(driver, simple("a"))
    driver.fail("a")
    driver.ok(PauseWorkflow(*ONE))
    driver.wait(10_000)
    assert driver.latest("a").status is TaskStatus.SCHEDULED
    driver.ok(ResumeWorkflow(*ONE))
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS


def test_a_permissive_failure_fails_the_workflow_in_the_end(driver: Driver) -> None:
    """At that point the latest attempt of a permissive, non-optional task unsuccessful => workflow FAILED."""
    begin(driver, simple("a", permissive=True, retryCount=0), simple("b"))
    driver.fail("a", "no")
    driver.give("b")
    assert driver.header().status is WorkflowStatus.FAILED
    attempt = driver.latest("a")
    assert driver.header().reason == f"Task {attempt.task_id} failed with status: FAILED and reason: 'no'"


def test_a_step_makes_at_most_256_transitions_and_a_later_one_goes_on(driver: Driver) -> None:
    """Synchronous tasks repeat until no change, bounded by what one step may do."""
    begin(driver, *[element("NOOP", f"n{number}") for number in range(700)], simple("a"))
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert len(driver.hot().tasks) == 701


def test_a_wide_fork_is_made_and_cancelled_in_bounded_steps(driver: Driver) -> None:
    """However wide: each branch begins, and all end with the workflow."""
    driver.check = False
    begin(driver, *fork(*[[simple(f"z{number}")] for number in range(600)]))
    assert len(driver.hot().open) == 601
    driver.check = True
    driver.ok(TerminateWorkflow(*ONE, "stop", TerminateCompensation.UNSET))
    assert driver.header().status is WorkflowStatus.TERMINATED
    assert not driver.state.ready


# --- 2.3 retry


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        ({"retryLogic": "FIXED", "retryDelaySeconds": 3}, [3_000, 3_000, 3_000]),
        ({"retryLogic": "LINEAR_BACKOFF", "retryDelaySeconds": 3, "backoffScaleFactor": 2}, [6_000, 12_000, 18_000]),
        ({"retryLogic": "EXPONENTIAL_BACKOFF", "retryDelaySeconds": 3}, [3_000, 6_000, 12_000]),
        (
            {"retryLogic": "EXPONENTIAL_BACKOFF", "retryDelaySeconds": 3, "maxRetryDelaySeconds": 5},
            [3_000, 5_000, 5_000],
        ),
    ],
)
def test_delays_follow_the_formulas(driver: Driver, policy: dict[str, Any], delays: list[int]) -> None:
    """FIXED d, LINEAR d * scale * (n + 1), EXPONENTIAL d * 2^n, capped."""
    driver.register_task(name="a", retryCount=3, **policy)
    begin(driver, simple("a"))
    for delay_ms in delays:
        driver.fail("a")
        (timer,) = driver.state.timers.values()
        assert timer.fire_ms - driver.now_ms == delay_ms
        driver.wait(delay_ms)


def test_jitter_comes_on_top_and_is_the_same_everywhere(driver: Driver) -> None:
    """Then + random(0..backoffJitterMs) ms."""
    driver.register_task(name="a", retryCount=9, retryDelaySeconds=1, backoffJitterMs=500)
    begin(driver, simple("a"))
    other = driver.restart()
    seen = []
    for replica in (driver, other):
        delays = []
        for _ in range(9):
            replica.fail("a")
            (timer,) = replica.state.timers.values()
            delays.append(timer.fire_ms - replica.now_ms)
            replica.wait(delays[-1])
        seen.append(delays)
    assert seen[0] == seen[1]
    assert all(1_000 <= delay <= 1_500 for delay in seen[0])
    assert len(set(seen[0])) > 3


def test_a_new_attempt_is_a_new_task(driver: Driver) -> None:
    """New taskId, retryCount + 1, output cleared, firstScheduledTime kept; old task: retried = true."""
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=5)
    begin(driver, simple("a", inputParameters={"id": "${CPEWF_TASK_ID}"}))
    first = driver.latest("a")
    driver.give("a", b'{"half":1}', TaskStatus.FAILED)
    second = driver.latest("a")
    assert second.task_id != first.task_id
    assert (second.retry_count, second.output, second.first_scheduled_ms) == (1, b"", first.scheduled_ms)
    assert driver.hot().tasks[first.sequence].retried
    assert shown_input(driver, "a") == {"id": second.task_id}


def test_a_terminal_error_is_not_retried(driver: Driver) -> None:
    """No retry when the status is not retriable."""
    begin(driver, simple("a"))
    driver.give("a", b"", TaskStatus.FAILED_WITH_TERMINAL_ERROR, "declined")
    assert driver.header().status is WorkflowStatus.FAILED


def test_the_workflow_task_overrides_the_number_of_retries(driver: Driver) -> None:
    """Effective retryCount = workflowTask.retryCount if set, else TaskDef.retryCount."""
    driver.register_task(name="a", retryCount=5)
    begin(driver, simple("a", retryCount=0))
    driver.fail("a")
    assert driver.header().status is WorkflowStatus.FAILED


def test_an_optional_task_that_failed_is_completed_with_errors(driver: Driver) -> None:
    """Optional => COMPLETED_WITH_ERRORS and go on."""
    begin(driver, simple("a", optional=True, retryCount=0), simple("b"))
    driver.fail("a")
    assert driver.latest("a").status is TaskStatus.COMPLETED_WITH_ERRORS
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_permissive_task_that_failed_keeps_its_status(driver: Driver) -> None:
    """Permissive => status kept, go on."""
    begin(driver, simple("a", permissive=True, retryCount=0), simple("b"))
    driver.fail("a")
    assert driver.latest("a").status is TaskStatus.FAILED
    assert driver.latest("b").status is TaskStatus.IN_PROGRESS


# --- 2.4 timeouts


def timeouts(driver: Driver, **fields: Any) -> None:
    known = {"name": "a", "retryCount": 1, "retryDelaySeconds": 0, "responseTimeoutSeconds": 1}
    driver.register_task(**{**known, **fields})
    begin(driver, simple("a"))


def test_a_task_that_takes_too_long_is_tried_again_by_policy_retry(driver: Driver) -> None:
    """RETRY = TIMED_OUT then 2.3."""
    timeouts(driver, timeoutSeconds=5, timeoutPolicy="RETRY")
    first = driver.latest("a")
    driver.wait(5_000)
    ended = driver.hot().tasks[first.sequence]
    assert ended.status is TaskStatus.TIMED_OUT
    assert ended.reason == (
        "Task timed out after 5 seconds. Timeout configured as 5 seconds. Timeout policy configured to RETRY"
    )
    assert driver.latest("a").retry_count == 1


def test_a_task_that_takes_too_long_times_out_the_workflow_by_policy(driver: Driver) -> None:
    """TIME_OUT_WF = task TIMED_OUT and workflow TIMED_OUT."""
    timeouts(driver, timeoutSeconds=5, timeoutPolicy="TIME_OUT_WF")
    driver.wait(5_000)
    assert driver.latest("a").status is TaskStatus.TIMED_OUT
    assert driver.header().status is WorkflowStatus.TIMED_OUT
    assert driver.header().failed_task == "a"


def test_a_task_timeout_may_only_alert(driver: Driver) -> None:
    """ALERT_ONLY = log only."""
    timeouts(driver, timeoutSeconds=5, totalTimeoutSeconds=6, timeoutPolicy="ALERT_ONLY")
    driver.wait(60_000)
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS


def test_silence_is_always_retried(driver: Driver) -> None:
    """Response: always TIMED_OUT then normal retry, whatever the policy."""
    timeouts(driver, timeoutPolicy="TIME_OUT_WF")
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, driver.latest("a").fencing_token))
    assert (driver.latest("a").retry_count, driver.latest("a").status) == (1, TaskStatus.IN_PROGRESS)
    assert driver.header().status is WorkflowStatus.RUNNING


def test_a_late_deadline_means_nothing(driver: Driver) -> None:
    """A deadline of the leader that arrives after the result changes nothing."""
    begin(driver, simple("a"), simple("b"))
    token = driver.latest("a").fencing_token
    driver.give("a")
    before = driver.rows()
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, token))
    driver.ok(ExpireDeadline(DeadlineKind.POLL, 1))
    assert driver.rows() == before


def test_a_task_that_nobody_takes_times_out_by_policy(driver: Driver) -> None:
    """Poll: SCHEDULED and now - (scheduledTime + startDelay) >= pollTimeoutSeconds: by policy."""
    driver.register_task(name="z", pollTimeoutSeconds=5, timeoutPolicy="TIME_OUT_WF")
    begin(driver, simple("z"))
    (ready,) = driver.state.ready.values()
    assert ready.poll_timeout_ms == 5_000
    driver.ok(ExpireDeadline(DeadlineKind.POLL, ready.number))
    assert driver.header().status is WorkflowStatus.TIMED_OUT


def test_the_total_timeout_counts_all_attempts(driver: Driver) -> None:
    """Total: now - firstScheduledTime >= totalTimeoutSeconds; with RETRY the retry step then refuses (budget gone) and
    the workflow becomes TIMED_OUT."""
    timeouts(driver, retryCount=9, retryDelaySeconds=4, totalTimeoutSeconds=10, timeoutPolicy="RETRY")
    driver.wait(2_000)
    driver.fail("a")
    driver.wait(8_000)
    assert driver.latest("a").status is TaskStatus.TIMED_OUT
    assert driver.header().status is WorkflowStatus.TIMED_OUT
    assert "exceeded total timeout of 10 seconds" in driver.header().reason


def test_the_start_delay_passes_before_a_worker_gets_the_task(driver: Driver) -> None:
    """First callback after startDelay."""
    begin(driver, simple("a", startDelay=5))
    driver.wait(4_999)
    assert driver.latest("a").status is TaskStatus.SCHEDULED
    driver.wait(1)
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS


# --- 2.6 JOIN


def test_a_join_gathers_the_outputs_that_are_not_empty(driver: Driver) -> None:
    """output[ref] = task output if non-empty."""
    begin(driver, *fork([simple("a")], [simple("b")]))
    driver.give("a", b'{"n":1}')
    driver.give("b")
    assert text(driver, "j") == {"a": {"n": 1}}


def test_a_join_ends_with_errors_if_an_optional_task_did(driver: Driver) -> None:
    """Any COMPLETED_WITH_ERRORS optional: JOIN COMPLETED_WITH_ERRORS."""
    begin(driver, *fork([simple("a", optional=True, retryCount=0)], [simple("b")]))
    driver.fail("a")
    driver.give("b")
    assert driver.latest("j").status is TaskStatus.COMPLETED_WITH_ERRORS
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_permissive_failure_counts_when_all_have_ended(driver: Driver) -> None:
    """Permissive failure counts only when all are terminal (reason concatenates reasons)."""
    begin(driver, *fork([simple("a", permissive=True, retryCount=0)], [simple("b")]))
    driver.fail("a", "first")
    assert driver.latest("j").status is TaskStatus.IN_PROGRESS
    driver.give("b")
    assert (driver.latest("j").status, driver.latest("j").reason) == (TaskStatus.FAILED, "first")
    assert driver.header().status is WorkflowStatus.FAILED


def test_a_failure_in_a_branch_ends_the_workflow_at_once(driver: Driver) -> None:
    """Fails at once when a joined task that is neither optional nor permissive is unsuccessful."""
    begin(driver, *fork([simple("a", retryCount=0)], [simple("b")]))
    driver.fail("a")
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.latest("b").status is driver.latest("j").status is TaskStatus.CANCELED


def test_a_join_waits_for_a_retry_that_is_due(driver: Driver) -> None:
    """A joined reference counts when it is terminal with no retry due."""
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=5)
    begin(driver, *fork([simple("a")], [simple("b")]))
    driver.give("b")
    driver.fail("a")
    assert driver.latest("j").status is TaskStatus.IN_PROGRESS
    driver.wait(5_000)
    driver.give("a")
    assert driver.latest("j").status is TaskStatus.COMPLETED


def test_a_join_waits_for_the_end_of_a_switchs_branch(driver: Driver) -> None:
    """Where it is a SWITCH, its taken branch has reached its end."""
    begin(driver, *fork([switch("s", "x", {"x": [simple("a"), simple("b")]})], [simple("c")]))
    driver.give("c")
    driver.give("a")
    assert driver.latest("j").status is TaskStatus.IN_PROGRESS
    driver.give("b")
    assert driver.latest("j").status is TaskStatus.COMPLETED


def test_what_can_no_longer_be_made_counts_as_done_when_its_branch_ends(driver: Driver) -> None:
    """A joinOn reference that can no longer be created because its branch ended counts as done."""
    cases = {"x": [simple("a")], "y": [simple("b")]}
    begin(driver, *fork([switch("s", "x", cases), simple("d")], [simple("c")], on=["a", "b", "c"]))
    driver.give("c")
    driver.give("a")
    assert driver.latest("j").status is TaskStatus.IN_PROGRESS
    driver.give("d")
    assert driver.latest("j").status is TaskStatus.COMPLETED


def test_the_workflow_waits_for_branches_that_are_not_joined(driver: Driver) -> None:
    """Complete when nothing is scheduled or pending."""
    begin(driver, *fork([simple("a")], [simple("b")], on=["a"]))
    driver.give("a")
    assert driver.latest("j").status is TaskStatus.COMPLETED
    assert driver.header().status is WorkflowStatus.RUNNING
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED


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
    assert driver.header().reason == "the execution exceeds the limit of 2 tasks"
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
