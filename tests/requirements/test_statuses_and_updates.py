"""Statuses, timeouts, updates and ends: the rules of CONDUCTOR.md 2.1 to 2.9 that stand between the operators'."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine.choices import DeadlineKind, TerminateCompensation
from orchestrator.engine.commands import (
    CompleteTask,
    ExpireDeadline,
    PauseWorkflow,
    RecordHeartbeat,
    ResumeWorkflow,
    RetryWorkflow,
    SignalWorkflow,
    TerminateWorkflow,
    UpdateTask,
)
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.engine.results import Judged, Rejected, Verdict
from orchestrator.engine.transitions import TASK_RETRIABLE, TASK_SUCCESSFUL, TASK_TERMINAL, WORKFLOW_TERMINAL
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import ONE, begin, busy_driver, element, fork, switch, text


@pytest.fixture
def driver() -> Driver:
    return busy_driver()


# --- 2.1 statuses

# (terminal, successful). Whether another attempt may follow by itself: only those that are not successful are asked.
STATUSES = {
    "SCHEDULED": (False, True),
    "IN_PROGRESS": (False, True),
    "COMPLETED": (True, True),
    "COMPLETED_WITH_ERRORS": (True, True),
    "SKIPPED": (True, True),
    "FAILED": (True, False),
    "TIMED_OUT": (True, False),
    "CANCELED": (True, False),
    "FAILED_WITH_TERMINAL_ERROR": (True, False),
}


def test_which_statuses_of_a_task_are_terminal_successful_and_retriable() -> None:
    """The table of task statuses."""
    found = {one.name: (one in TASK_TERMINAL, one in TASK_SUCCESSFUL) for one in TaskStatus}
    assert found == STATUSES
    assert {one.name for one in TASK_RETRIABLE} == {"FAILED", "TIMED_OUT"}


def test_which_statuses_of_a_workflow_are_terminal() -> None:
    """RUNNING <-> PAUSED; COMPLETED, FAILED, TIMED_OUT, TERMINATED terminal. COMPENSATING is ours."""
    assert {one.name for one in WORKFLOW_TERMINAL} == {"COMPLETED", "FAILED", "TIMED_OUT", "TERMINATED"}
    assert {one.name for one in set(WorkflowStatus) - WORKFLOW_TERMINAL} == {"RUNNING", "PAUSED", "COMPENSATING"}


@pytest.mark.parametrize("status", ["SCHEDULED", "TIMED_OUT", "CANCELED", "SKIPPED", "COMPLETED_WITH_ERRORS"])
def test_what_workers_report(driver: Driver, status: str) -> None:
    """Workers report only IN_PROGRESS, COMPLETED, FAILED, FAILED_WITH_TERMINAL_ERROR."""
    begin(driver, simple("a"))
    attempt = driver.latest("a")
    result = driver.do(
        CompleteTask("default", "w", attempt.task_id, attempt.fencing_token, TaskStatus[status], b"{}", "", "")
    )
    assert isinstance(result, Rejected) and result.reason == "STATUS_INVALID"
    refused = driver.do(UpdateTask(*ONE, "a", TaskStatus[status], b"{}"))
    assert isinstance(refused, Rejected) and refused.reason == "STATUS_INVALID"
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS


# --- 2.2 decide


def test_the_workflows_timeout_counts_from_the_last_retry(driver: Driver) -> None:
    """base = lastRetriedTime if > 0 else createTime"""
    begin(driver, simple("a", retryCount=0), timeoutSeconds=60, timeoutPolicy="TIME_OUT_WF")
    driver.wait(50_000)
    driver.fail("a")
    driver.ok(RetryWorkflow(*ONE))
    driver.wait(59_999)
    assert driver.header().status is WorkflowStatus.RUNNING
    driver.wait(1)
    assert driver.header().status is WorkflowStatus.TIMED_OUT


def test_what_was_scheduled_already_is_not_scheduled_again(driver: Driver) -> None:
    """A ref already IN_PROGRESS or terminal is not scheduled again."""
    begin(driver, *fork([simple("a")], [simple("b")]), simple("c"))
    driver.ok(PauseWorkflow(*ONE))
    driver.give("a")
    driver.give("b")
    driver.ok(ResumeWorkflow(*ONE))
    assert [len(driver.hot().attempts_of[one]) for one in ("a", "b", "c", "j")] == [1, 1, 1, 1]


def test_a_workflow_that_ends_leaves_nothing_open(driver: Driver) -> None:
    """Terminal workflow: cancel leftover non-terminal tasks."""
    waits = [element("WAIT", "w1", {"duration": "1 hours"}), element("HUMAN", "h"), simple("z", startDelay=9)]
    begin(driver, *fork([simple("a", retryCount=0)], *[[one] for one in waits]))
    driver.fail("a")
    assert driver.header().status is WorkflowStatus.FAILED
    statuses = {one.reference: one.status.name for one in driver.hot().tasks.values() if one.reference != "f"}
    assert statuses == {"a": "FAILED", "w1": "CANCELED", "h": "CANCELED", "z": "CANCELED", "j": "CANCELED"}
    assert not driver.state.timers and not driver.state.ready


# --- 2.3 retry


@pytest.mark.parametrize(("status", "outcome"), [("FAILED", "FAILED"), ("FAILED_WITH_TERMINAL_ERROR", "FAILED")])
def test_how_the_workflow_ends_with_its_task(driver: Driver, status: str, outcome: str) -> None:
    """Reason "Task %s failed with status: %s and reason: '%s'" (taskId, workflow status, task reason)."""
    begin(driver, simple("a", retryCount=0))
    driver.give("a", b"", TaskStatus[status], "broken")
    header = driver.header()
    assert header.status.name == outcome
    task_id = driver.latest("a").task_id
    assert header.reason == f"Task {task_id} failed with status: {outcome} and reason: 'broken'"


def test_a_task_that_timed_out_times_out_the_workflow(driver: Driver) -> None:
    """TIMED_OUT -> TIMED_OUT"""
    begin(driver, simple("a", retryCount=0))
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, driver.latest("a").fencing_token))
    assert driver.header().status is WorkflowStatus.TIMED_OUT
    assert "failed with status: TIMED_OUT" in driver.header().reason


def test_a_used_up_total_timeout_ends_the_workflow_though_retries_are_left(driver: Driver) -> None:
    """A separate guard ends the workflow (TIMED_OUT if the task was, else FAILED; "... exceeded total timeout of N
    seconds ...")."""
    again = {"name": "a", "retryCount": 9, "retryDelaySeconds": 8, "totalTimeoutSeconds": 10, "timeoutPolicy": "RETRY"}
    begin(driver, simple("a", taskDefinition=again))
    driver.wait(1_000)
    driver.fail("a", "first")
    driver.wait(9_000)
    assert driver.header().status in (WorkflowStatus.FAILED, WorkflowStatus.TIMED_OUT)
    assert "exceeded total timeout of 10 seconds" in driver.header().reason


def test_operators_are_not_retried(driver: Driver) -> None:
    """No retry when the type is a built-in operator."""
    given = {"terminationStatus": "${workflow.input.s}"}
    begin(driver, element("TERMINATE", "t", given, retryCount=3), given=b'{"s":"?"}')
    assert len(driver.hot().attempts_of["t"]) == 1
    assert driver.header().status is WorkflowStatus.FAILED


def test_a_retry_delay_never_overflows(driver: Driver) -> None:
    """overflow -> max int; cap by maxRetryDelaySeconds if > 0"""
    again = {"name": "a", "retryCount": 3, "retryDelaySeconds": 2**31 - 1, "retryLogic": "EXPONENTIAL_BACKOFF"}
    begin(driver, simple("a", taskDefinition=again))
    driver.fail("a")
    driver.wait((2**31 - 1) * 1000)
    driver.fail("a")
    [timer] = driver.state.timers.values()
    assert timer.fire_ms == driver.now_ms + (2**31 - 1) * 1000


# --- 2.4 timeouts


def test_the_delay_of_a_retry_does_not_count_as_waiting_for_a_worker(driver: Driver) -> None:
    """Poll: now - (scheduledTime + startDelay) >= pollTimeoutSeconds + callbackAfterSeconds"""
    again = {"name": "z", "retryCount": 1, "retryDelaySeconds": 10, "pollTimeoutSeconds": 5}
    driver.worker("t", "z")
    begin(driver, simple("z", taskDefinition=again))
    driver.fail("z")
    assert not driver.state.ready
    driver.wait(9_999)
    assert driver.latest("z").status is TaskStatus.SCHEDULED
    driver.wait(1)
    assert driver.latest("z").status is TaskStatus.IN_PROGRESS


BY_ITSELF = [
    ("HUMAN", {}),
    ("WAIT", {"inputParameters": {"duration": "1 hours"}}),
    ("SUB_WORKFLOW", {"subWorkflowParam": {"name": "child"}}),
    ("DO_WHILE", {"loopCondition": "true", "loopOver": [simple("a")]}),
    ("EVENT", {"sink": "conductor", "asyncComplete": True}),
    ("PULL_WORKFLOW_MESSAGES", {}),
]


def timed(policy: str, **fields: Any) -> dict[str, Any]:
    return {"taskDefinition": {"name": "t", "timeoutSeconds": 5, "timeoutPolicy": policy, "retryCount": 0, **fields}}


@pytest.mark.parametrize(("kind", "fields"), BY_ITSELF)
def test_what_nobody_executes_has_its_time_too(driver: Driver, kind: str, fields: dict[str, Any]) -> None:
    """Task timeout: startTime > 0, and now - (startTime + startDelay) >= timeoutSeconds; whatever type it is of."""
    driver.register(workflow("child", simple("a")))
    begin(driver, element(kind, "h", **fields, **timed("TIME_OUT_WF"), startDelay=2))
    driver.wait(8_999)
    assert driver.header().status is WorkflowStatus.RUNNING
    driver = driver.restart()
    driver.wait(1)
    assert (driver.header().status, driver.latest("h").status) == (WorkflowStatus.TIMED_OUT, TaskStatus.TIMED_OUT)
    assert driver.header().reason.startswith("Task timed out after ")
    child = driver.latest("h").child
    assert not child or driver.header(child).status is WorkflowStatus.TERMINATED


def test_a_join_has_its_time_too(driver: Driver) -> None:
    """The same; an operator's retry gives it anew."""
    begin(driver, *fork([simple("a")], **timed("TIME_OUT_WF")))
    driver.wait(5_000)
    assert driver.header().status is WorkflowStatus.TIMED_OUT
    driver.ok(RetryWorkflow(*ONE))
    driver.wait(4_999)
    assert driver.header().status is WorkflowStatus.RUNNING
    driver.wait(1)
    assert driver.header().status is WorkflowStatus.TIMED_OUT


def test_a_human_is_asked_again_by_policy_retry(driver: Driver) -> None:
    """RETRY = TIMED_OUT then 2.3; ALERT_ONLY = log only."""
    asked = element("HUMAN", "h", **timed("RETRY", retryCount=1, retryDelaySeconds=1))
    begin(driver, asked, element("HUMAN", "k", **timed("ALERT_ONLY")))
    driver.wait(6_000)
    assert (driver.latest("h").status, driver.latest("h").retry_count) == (TaskStatus.IN_PROGRESS, 1)
    driver.ok(SignalWorkflow(*ONE, "h", b"{}"))
    driver.wait(60_000)
    assert driver.latest("k").status is TaskStatus.IN_PROGRESS


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("how", ["optional", "permissive"])
def test_a_loop_whose_time_is_over_is_left(driver: Driver, how: str, outer: bool) -> None:
    """TIMED_OUT, optional or permissive: the walk goes on, and what is open in the loop is cancelled."""
    lenient = {} if outer and how == "optional" else {how: True}
    tasks = [element("DO_WHILE", "l", loopCondition="true", loopOver=fork([simple("a")], [simple("b")]),
                     **timed("RETRY"), **lenient)]
    if outer:
        tasks = [element("DO_WHILE", "o", loopCondition="true", loopOver=tasks, optional=True)]
    begin(driver, *tasks, simple("c"))
    suffix = "__1" if outer else ""
    driver.give(f"a{suffix}__1")
    driver.wait(5_000)
    assert driver.latest(f"b{suffix}__1").status is TaskStatus.CANCELED
    driver.give("c")
    # What is permissive fails the workflow in the end.
    assert driver.header().status is (WorkflowStatus.COMPLETED if how == "optional" else WorkflowStatus.FAILED)


def test_a_loop_whose_time_was_over_goes_on_by_a_retry(driver: Driver) -> None:
    """A retried DO_WHILE resumes its current iteration, and has its time again."""
    begin(driver, element("DO_WHILE", "l", items=[1, 2], loopCondition="", loopOver=[simple("a"), simple("b")],
                          **timed("TIME_OUT_WF")))
    driver.give("a__1")
    driver.wait(5_000)
    assert driver.header().status is WorkflowStatus.TIMED_OUT
    driver.ok(RetryWorkflow(*ONE))
    for reference in ("b__1", "a__2", "b__2"):
        driver.wait(1_000)
        driver.give(reference)
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert not driver.state.timers


def test_what_is_ended_from_outside_has_no_response_timeout(driver: Driver) -> None:
    """Response: IN_PROGRESS, not async-complete/built-in."""
    driver.register_task(name="h", responseTimeoutSeconds=1, retryCount=0)
    begin(driver, *fork([element("HUMAN", "h")], [element("WAIT", "h2")]))
    token = driver.latest("h").fencing_token
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, token))
    driver.wait(3_600_000)
    assert driver.header().status is WorkflowStatus.RUNNING
    assert not driver.state.leases


# --- 2.5 poll, update, lease


def test_an_update_of_what_has_ended_changes_nothing(driver: Driver) -> None:
    """Update of a terminal task, or any task of a terminal workflow: ignored."""
    begin(driver, *fork([simple("a")], [simple("b")]))
    held, other = driver.latest("a"), driver.latest("b")
    driver.give(held, b'{"n":1}')
    again = driver.give(held, b'{"n":2}', token=held.fencing_token)
    assert isinstance(again, Judged) and text(driver, "a") == {"n": 1}
    driver.ok(TerminateWorkflow(*ONE, "stop", TerminateCompensation.SKIP))
    late = driver.give(other, b'{"n":3}')
    assert isinstance(late, Judged) and late.verdict is Verdict.FENCED
    assert driver.latest("b").status is TaskStatus.CANCELED


def test_a_sign_of_life_extends_the_lease_and_keeps_what_it_says(driver: Driver) -> None:
    """extendLease=true: only refreshes updateTime."""
    begin(driver, simple("a"))
    before = driver.latest("a")
    driver.now_ms += 1_000
    told = driver.ok(RecordHeartbeat("default", "w", before.task_id, before.fencing_token, b'{"at":1}'))
    assert told.verdict is Verdict.ACCEPTED
    after = driver.latest("a")
    assert (after.updated_ms, after.status, after.fencing_token) == (
        before.updated_ms + 1_000, TaskStatus.IN_PROGRESS, before.fencing_token,
    )


@pytest.mark.parametrize(
    ("token", "details", "verdict"),
    [(None, b"{", "INVALID"), (None, b'"' + b"x" * 70_000 + b'"', "INVALID"), (7, b"{}", "FENCED")],
)
def test_a_sign_of_life_that_says_too_much_or_comes_from_another_is_not_kept(
    driver: Driver, token: int | None, details: bytes, verdict: str
) -> None:
    """What it says is JSON of at most 64 KiB, and comes from who holds the task."""
    begin(driver, simple("a"))
    before = driver.latest("a")
    used = before.fencing_token if token is None else token
    told = driver.ok(RecordHeartbeat("default", "w", before.task_id, used, details))
    assert told.verdict.name == verdict
    assert driver.latest("a") == before


def test_an_update_by_reference_means_the_latest_iteration(driver: Driver) -> None:
    """Base ref matches the latest iteration."""
    begin(driver, element("DO_WHILE", "l", items=[1, 2], loopOver=[element("HUMAN", "h")]))
    driver.ok(UpdateTask(*ONE, "h", TaskStatus.COMPLETED, b'{"n":1}'))
    driver.ok(UpdateTask(*ONE, "h", TaskStatus.COMPLETED, b'{"n":2}'))
    assert (text(driver, "h__1"), text(driver, "h__2")) == ({"n": 1}, {"n": 2})
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- 2.6 JOIN


def test_a_join_of_what_was_cancelled_is_cancelled(driver: Driver) -> None:
    """If every failure is CANCELED the JOIN is CANCELED (workflow TERMINATED)."""
    driver.register(workflow("child", simple("a")))
    sub = element("SUB_WORKFLOW", "s", subWorkflowParam={"name": "child"}, permissive=True)
    begin(driver, *fork([sub], [simple("b")]))
    driver.ok(TerminateWorkflow("default", driver.latest("s").child, "stop", TerminateCompensation.SKIP))
    assert driver.latest("s").status is TaskStatus.CANCELED
    driver.give("b")
    assert driver.latest("j").status is TaskStatus.CANCELED
    assert driver.header().status is WorkflowStatus.TERMINATED


# --- 2.8 sub-workflows


@pytest.mark.parametrize(
    ("how", "status"),
    [("paused", "IN_PROGRESS"), ("completed", "COMPLETED"), ("failed", "FAILED"), ("terminated", "CANCELED"),
     ("timed out", "TIMED_OUT")],
)
def test_the_status_of_a_child_is_that_of_its_task(driver: Driver, how: str, status: str) -> None:
    """RUNNING/PAUSED -> IN_PROGRESS, COMPLETED -> COMPLETED, FAILED -> FAILED, TERMINATED -> CANCELED, TIMED_OUT ->
    TIMED_OUT"""
    driver.register(workflow("child", simple("a", retryCount=0), timeoutSeconds=60, timeoutPolicy="TIME_OUT_WF"))
    begin(driver, element("SUB_WORKFLOW", "s", subWorkflowParam={"name": "child"}))
    child = driver.latest("s").child
    if how == "paused":
        driver.ok(PauseWorkflow("default", child))
    elif how == "completed":
        driver.give("a", workflow_id=child)
    elif how == "failed":
        driver.fail("a", workflow_id=child)
    elif how == "terminated":
        driver.ok(TerminateWorkflow("default", child, "stop", TerminateCompensation.SKIP))
    else:
        driver.wait(60_000)
    assert driver.latest("s").status.name == status


# --- 2.9 ends


def test_the_output_is_resolved_on_failure_too(driver: Driver) -> None:
    """Resolved on failure too (what is available)."""
    begin(driver, simple("a"), simple("b", retryCount=0), outputParameters={"a": "${a.output.n}", "b": "${b.output.n}"})
    driver.give("a", b'{"n":1}')
    driver.fail("b")
    assert driver.hot().load(driver.header().output) == b'{"a":1,"b":null}'


def test_a_terminate_task_starts_the_failure_workflow(driver: Driver) -> None:
    """failureWorkflow starts on FAILED/TIMED_OUT by the decider or a TERMINATE task; correlationId and taskToDomain
    copied."""
    driver.register(
        workflow("mourn", simple("b")),
        workflow("flow", element("TERMINATE", "t", {"terminationStatus": "FAILED"}), failureWorkflow="mourn"),
    )
    driver.start("flow", correlation_id="order-7", task_to_domain=(("b", "gpu"),))
    [other] = [key[1] for key in driver.state.hot_keys() if key[1] != "w"]
    header = driver.header(other)
    assert (header.name, header.correlation_id, header.task_to_domain) == ("mourn", "order-7", (("b", "gpu"),))


def test_a_failure_workflow_that_is_not_there_changes_nothing(driver: Driver) -> None:
    """The workflow has failed all the same."""
    begin(driver, simple("a", retryCount=0), failureWorkflow="nobody")
    driver.fail("a")
    assert driver.header().status is WorkflowStatus.FAILED
    assert [key[1] for key in driver.state.hot_keys()] == ["w"]
    assert driver.machine.next_message() is None


def test_a_retry_of_a_child_goes_on_in_its_parent(driver: Driver) -> None:
    """Parents of a child: SUB_WORKFLOW task IN_PROGRESS, parent RUNNING, cancelled siblings repaired."""
    driver.register(workflow("child", simple("a", retryCount=0)))
    sub = element("SUB_WORKFLOW", "s", subWorkflowParam={"name": "child"})
    begin(driver, *fork([sub], [simple("b")]))
    child = driver.latest("s").child
    driver.fail("a", workflow_id=child)
    assert driver.latest("b").status is TaskStatus.CANCELED
    driver.ok(RetryWorkflow("default", child))
    assert driver.header().status is WorkflowStatus.RUNNING
    driver.give("a", workflow_id=child)
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED


def optional_family(driver: Driver, **of_task: Any) -> tuple[str, str]:
    """Ids of a parent and its child, in a grandparent `w`; the parent has failed while the child went on."""
    driver.register(workflow("child", simple("a", retryCount=0)))
    sub = element("SUB_WORKFLOW", "s", subWorkflowParam={"name": "child"}, **of_task)
    driver.register(workflow("parent", *fork([sub], [simple("b", retryCount=0)])))
    begin(driver, element("SUB_WORKFLOW", "p", subWorkflowParam={"name": "parent"}))
    parent = driver.latest("p").child
    child = driver.latest("s", parent).child
    driver.fail("b", workflow_id=parent)
    statuses = [driver.header(one).status for one in ("w", parent, child)]
    assert statuses == [WorkflowStatus.FAILED, WorkflowStatus.FAILED, WorkflowStatus.TERMINATED]
    return parent, child


def test_the_way_outwards_stops_at_an_optional_task(driver: Driver) -> None:
    """The walk stops at an optional parent task: the child runs again, and nobody waits for it."""
    parent, child = optional_family(driver, optional=True)
    driver.ok(RetryWorkflow("default", child))
    assert driver.header(child).status is WorkflowStatus.RUNNING
    assert [driver.header(one).status for one in ("w", parent)] == [WorkflowStatus.FAILED] * 2
    driver.give("a", workflow_id=child)
    assert driver.header(child).status is WorkflowStatus.COMPLETED
    assert driver.latest("s", parent).status is TaskStatus.CANCELED


def test_it_goes_all_the_way_otherwise(driver: Driver) -> None:
    """Each parent that waited for the one that runs again does so again."""
    parent, child = optional_family(driver)
    driver.ok(RetryWorkflow("default", child))
    assert {driver.header(one).status for one in ("w", parent, child)} == {WorkflowStatus.RUNNING}


def test_it_stops_at_a_task_that_was_tried_again(driver: Driver) -> None:
    """... or already retried parent task: the attempt that took its place has a child of its own."""
    parent, child = optional_family(driver)
    driver.ok(RetryWorkflow("default", parent))
    other = driver.latest("s", parent).child
    assert other != child and driver.header().status is WorkflowStatus.RUNNING
    driver.ok(TerminateWorkflow("default", parent, "no", TerminateCompensation.SKIP))
    assert driver.header().status in WORKFLOW_TERMINAL
    driver.ok(RetryWorkflow("default", child))
    assert driver.header(child).status is WorkflowStatus.RUNNING
    assert driver.header(parent).status is WorkflowStatus.TERMINATED


@pytest.mark.parametrize("value", ["x", "z"])
def test_a_switch_without_tasks_in_its_branch_goes_on(driver: Driver, value: Any) -> None:
    """A SWITCH with hasChildren schedules nothing itself; one without goes on."""
    begin(driver, switch("s", value, {"x": []}), simple("a"))
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS
