"""One test per rule of how a workflow is executed (Conductor's observable results); the rule is its docstring."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine import attempts
from orchestrator.engine.choices import DeadlineKind, TerminateCompensation
from orchestrator.engine.commands import (
    ExpireDeadline,
    FireTimers,
    PauseWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from tests.engine.driver import Driver, simple
from tests.requirements.elements import ONE, begin, busy_driver, element, fork, shown_input, switch, text


@pytest.fixture
def driver() -> Driver:
    return busy_driver()


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


def test_every_permissive_failure_is_named_in_the_end(driver: Driver) -> None:
    """... each of them, ". " between, with the status of the task; the workflow is FAILED, whatever that status is."""
    late = simple("a", permissive=True, retryCount=0, taskDefinition={"name": "a", "responseTimeoutSeconds": 5})
    begin(driver, late, simple("b", permissive=True, retryCount=0))
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, driver.latest("a").fencing_token))
    assert driver.latest("a").status is TaskStatus.TIMED_OUT
    driver.fail("b", "no")
    assert driver.header().status is WorkflowStatus.FAILED
    a, b = driver.latest("a"), driver.latest("b")
    assert driver.header().reason == (
        f"Task {a.task_id} failed with status: TIMED_OUT and reason: '{a.reason}'."
        f" Task {b.task_id} failed with status: FAILED and reason: 'no'"
    )


def test_a_permissive_failure_in_a_dynamic_fork_counts_in_the_end(driver: Driver) -> None:
    """A permissive task that was not in the definition fails the workflow like any other, though its JOIN goes on."""
    forked = {"tasks": [simple("a", permissive=True, retryCount=0)], "inputs": {}}
    names = {"dynamicForkTasksParam": "tasks", "dynamicForkTasksInputParamName": "inputs"}
    begin(
        driver, element("FORK_JOIN_DYNAMIC", "f", forked, **names), element("JOIN", "j", optional=True), simple("b")
    )
    driver.fail("a", "no")
    assert driver.latest("j").status is TaskStatus.COMPLETED_WITH_ERRORS
    driver.give("b")
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().reason.endswith("and reason: 'no'")


def test_a_step_makes_at_most_so_many_transitions_and_a_later_one_goes_on(driver: Driver) -> None:
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


SAME = {"timeoutSeconds": 5, "totalTimeoutSeconds": 5, "pollTimeoutSeconds": 5, "responseTimeoutSeconds": 5}


@pytest.mark.parametrize("noticed", ["time", "response"])
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (SAME, attempts.TOTAL_TIMEOUT),
        ({**SAME, "totalTimeoutSeconds": 6}, attempts.TASK_TIMEOUT),
        ({"responseTimeoutSeconds": 5}, attempts.RESPONSE_TIMEOUT),
    ],
)
def test_of_timeouts_at_the_same_time_the_first_counts(
    driver: Driver, fields: dict[str, int], code: str, noticed: str
) -> None:
    """For each in order: total timeout, task timeout, poll timeout, response timeout. So a response timeout, which is
    retried whatever the policy, never stands in for a timeout that ends the workflow by policy."""
    timeouts(driver, **fields, timeoutPolicy="TIME_OUT_WF")
    first = driver.latest("a")
    driver.now_ms += 5_000
    expired = ExpireDeadline(DeadlineKind.RESPONSE, first.fencing_token)
    driver.entry(*((expired, FireTimers()) if noticed == "response" else (FireTimers(), expired)))
    assert driver.hot().tasks[first.sequence].error_code == code
    ends = code != attempts.RESPONSE_TIMEOUT
    assert driver.header().status is (WorkflowStatus.TIMED_OUT if ends else WorkflowStatus.RUNNING)


@pytest.mark.parametrize("noticed", ["time", "poll"])
@pytest.mark.parametrize(("total_s", "code"), [(5, attempts.TOTAL_TIMEOUT), (6, attempts.POLL_TIMEOUT)])
def test_so_it_is_for_a_task_that_nobody_took(driver: Driver, total_s: int, code: str, noticed: str) -> None:
    """The total timeout comes before the poll timeout."""
    driver.register_task(name="z", pollTimeoutSeconds=5, totalTimeoutSeconds=total_s, timeoutPolicy="TIME_OUT_WF")
    begin(driver, simple("z"))
    [ready] = driver.state.ready.values()
    driver.now_ms += 5_000
    expired = ExpireDeadline(DeadlineKind.POLL, ready.number)
    driver.entry(*((expired, FireTimers()) if noticed == "poll" else (FireTimers(), expired)))
    assert driver.latest("z").error_code == code
    assert driver.header().status is WorkflowStatus.TIMED_OUT


def test_a_timer_that_comes_late_finds_all_that_is_over(driver: Driver) -> None:
    """The same order counts where a task timeout and, a little later, the total timeout are seen together."""
    timeouts(driver, timeoutSeconds=5, totalTimeoutSeconds=6, timeoutPolicy="RETRY")
    first = driver.latest("a")
    driver.now_ms += 6_000
    driver.ok(FireTimers())
    assert driver.hot().tasks[first.sequence].error_code == attempts.TOTAL_TIMEOUT
    assert driver.header().status is WorkflowStatus.TIMED_OUT


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
    assert driver.latest("j").reason == f"a/{driver.latest('a').task_id} completed with errors"
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_the_errors_of_an_inner_join_are_its_own(driver: Driver) -> None:
    """What it joins is COMPLETED_WITH_ERRORS and not optional itself, as an inner JOIN is: it is COMPLETED."""
    inner = [
        element("FORK_JOIN", "f2", forkTasks=[[simple("a", optional=True, retryCount=0)], [simple("c")]]),
        element("JOIN", "j2", joinOn=["a", "c"]),
    ]
    begin(driver, *fork(inner, [simple("b")]))
    driver.fail("a")
    driver.give("c")
    driver.give("b")
    assert driver.latest("j2").status is TaskStatus.COMPLETED_WITH_ERRORS
    assert (driver.latest("j").status, driver.latest("j").reason) == (TaskStatus.COMPLETED, "")


def test_a_join_without_join_on_waits_for_nobody(driver: Driver) -> None:
    """If not specified, the JOIN of a static fork moves on without waiting for any forked tasks to complete; the
    workflow completes when nothing is pending."""
    begin(driver, *fork([simple("a")], [simple("b")], on=[]), simple("c"))
    assert driver.latest("j").status is TaskStatus.COMPLETED
    driver.give("c")
    driver.give("a")
    assert driver.header().status is WorkflowStatus.RUNNING
    driver.give("b")
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


def test_a_join_waits_for_what_an_inner_fork_has_not_joined(driver: Driver) -> None:
    """Waits until every joinOn ref is terminal: also one that is not made yet, in a branch of an inner fork whose own
    JOIN does not wait for it; and it counts once."""
    inner = [
        element("FORK_JOIN", "f2", forkTasks=[[simple("a"), simple("b")], [simple("c")]]),
        element("JOIN", "j2", joinOn=["c"]),
    ]
    begin(driver, *fork(inner, [simple("d")], [simple("e")], on=["b", "d", "e"]))
    driver.give("c")
    assert driver.latest("j2").status is TaskStatus.COMPLETED
    driver.give("d")
    driver.give("a")
    driver.give("b", b'{"n":1}')
    assert driver.latest("j").status is TaskStatus.IN_PROGRESS
    driver.give("e")
    assert driver.latest("j").status is TaskStatus.COMPLETED
    assert text(driver, "j") == {"b": {"n": 1}}


def test_a_join_that_is_reopened_waits_for_what_an_inner_fork_has_not_joined(driver: Driver) -> None:
    """The same after an operator's retry: what can still be made is waited for."""
    inner = [
        element("FORK_JOIN", "f2", forkTasks=[[simple("a"), simple("b")], [simple("c")]]),
        element("JOIN", "j2", joinOn=["c"]),
    ]
    begin(driver, *fork(inner, [simple("d", retryCount=0)], on=["b", "d"]))
    driver.give("c")
    driver.fail("d")
    driver.ok(RetryWorkflow(*ONE))
    driver.give("d")
    assert driver.latest("j").status is TaskStatus.IN_PROGRESS
    driver.give("a")
    driver.give("b")
    assert driver.latest("j").status is TaskStatus.COMPLETED
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_the_workflow_waits_for_branches_that_are_not_joined(driver: Driver) -> None:
    """Complete when nothing is scheduled or pending."""
    begin(driver, *fork([simple("a")], [simple("b")], on=["a"]))
    driver.give("a")
    assert driver.latest("j").status is TaskStatus.COMPLETED
    assert driver.header().status is WorkflowStatus.RUNNING
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED
