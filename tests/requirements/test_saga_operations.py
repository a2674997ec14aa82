"""Status, operators and lost workers: one test per rule of compensation; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine.choices import PurgeRule
from orchestrator.engine.commands import (
    AbandonCompensation,
    ExpireSession,
    PauseWorkflow,
    PurgeExecutions,
    PurgeItem,
    ResumeWorkflow,
    RetryCompensation,
    RetryWorkflow,
    SetRetention,
    SignalWorkflow,
    SkipCompensation,
    UpdateTask,
    UpdateVariables,
)
from orchestrator.engine.effects import ExecutionChanged
from orchestrator.engine.model import CompensationState, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Code
from tests.engine.driver import Driver, simple
from tests.requirements.flows import (
    NAMES,
    ONE,
    begin,
    failing,
    fork,
    names,
    saga_driver,
    stuck,
    three_branches,
    view,
)


@pytest.fixture
def driver() -> Driver:
    return saga_driver()


# --- Status


def test_the_outcome_is_fixed_on_entry_and_becomes_the_status_at_the_end(driver: Driver) -> None:
    """On entry the outcome (with reason and failed task) is fixed; it becomes the status when compensation ends."""
    three_branches(driver)
    entered = driver.header()
    assert (entered.outcome, entered.failed_task) == (WorkflowStatus.FAILED, "b")
    driver.fail("c", "something else")
    driver.give(driver.undoing("a"))
    ended = driver.header()
    assert (ended.status, ended.reason, ended.failed_task) == (WorkflowStatus.FAILED, entered.reason, "b")


def test_waiters_see_the_end_and_never_the_entry(driver: Driver) -> None:
    """Waiters and terminal events see the end, never the entry."""
    begin(driver, simple("a", "undo_a"), failing("b"))
    driver.give("a")
    driver.fail("b")
    assert not any(isinstance(effect, ExecutionChanged) and effect.terminal for effect in driver.effects)
    driver.give(driver.undoing("a"))
    assert any(isinstance(effect, ExecutionChanged) and effect.terminal for effect in driver.effects)


def test_what_is_done_and_left_is_told(driver: Driver) -> None:
    """`compensation: {state: NONE | RUNNING | STUCK | COMPLETE | INCOMPLETE, done: [...], left: [...]}`."""
    begin(driver, simple("a", "undo_a"), simple("b", "undo_b"), failing("c"))
    driver.give("a")
    driver.give("b")
    assert (view(driver).state, names(view(driver).left)) == (CompensationState.NONE, ["b", "a"])
    driver.fail("c")
    driver.give(driver.undoing("b"))
    assert view(driver).state is CompensationState.RUNNING
    assert (names(view(driver).done), names(view(driver).left)) == (["b"], ["a"])


def test_the_workflow_timeout_does_not_apply_while_compensating(driver: Driver) -> None:
    """The workflow's timeout does not apply while COMPENSATING."""
    begin(driver, simple("a", "undo_a"), failing("b"), timeoutSeconds=60, timeoutPolicy="TIME_OUT_WF")
    driver.give("a")
    driver.fail("b")
    driver.wait(120_000)
    driver.give(driver.undoing("a"))
    assert driver.header().status is WorkflowStatus.FAILED


def test_task_timeouts_apply_while_compensating(driver: Driver) -> None:
    """Task timeouts do."""
    driver.register_task(name="undo_a", timeoutSeconds=5, responseTimeoutSeconds=4, retryCount=1, retryDelaySeconds=1)
    begin(driver, simple("a", "undo_a"), failing("b"))
    driver.give("a")
    driver.fail("b")
    first = driver.undoing("a")
    driver.wait(5_000)
    assert driver.hot().tasks[first.sequence].status is TaskStatus.TIMED_OUT
    driver.wait(1_000)
    assert driver.undoing("a").sequence > first.sequence


def test_pause_holds_compensation_and_resume_returns_to_it(driver: Driver) -> None:
    """`pause` holds it, `resume` returns to it."""
    begin(driver, simple("a", "undo_a"), simple("b", "undo_b"), failing("c"))
    driver.give("a")
    driver.give("b")
    driver.fail("c")
    driver.ok(PauseWorkflow(*ONE))
    driver.give(driver.undoing("b"))
    assert driver.header().status is WorkflowStatus.PAUSED
    assert len(driver.hot().undoing) == 1
    driver.ok(ResumeWorkflow(*ONE))
    assert driver.header().status is WorkflowStatus.COMPENSATING
    driver.give(driver.undoing("a"))
    assert driver.header().status is WorkflowStatus.FAILED


def test_signals_are_refused_while_compensating(driver: Driver) -> None:
    """Signals and updates of forward tasks are refused, apart from completions being settled."""
    begin(driver, simple("a", "undo_a"), failing("b"))
    driver.give("a")
    driver.fail("b")
    for command in (
        SignalWorkflow(*ONE, "go", b"{}"),
        UpdateTask(*ONE, "b", TaskStatus.COMPLETED, b"{}"),
        UpdateVariables(*ONE, b"{}"),
    ):
        refused = driver.do(command)
        assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "WORKFLOW_COMPENSATING")


# --- Stuck


def test_a_compensation_that_exhausts_its_retries_is_stuck(driver: Driver) -> None:
    """The workflow stays COMPENSATING with state STUCK, runs no further compensation and counts in a metric."""
    stuck(driver)
    assert driver.header().status is WorkflowStatus.COMPENSATING
    assert len(driver.hot().undoing) == 1
    assert driver.state.meta.stuck_compensations == 1
    driver.wait(10_000_000)
    assert driver.header().status is WorkflowStatus.COMPENSATING


def test_a_compensation_that_cannot_be_made_is_stuck(driver: Driver) -> None:
    """As one whose attempts are used up: the workflow says so and waits for an operator."""
    large = {"name": "undo_b", "type": "SIMPLE", "inputParameters": {str(n): "${a.output.v}" for n in range(9)}}
    begin(driver, simple("a", "undo_a"), {**simple("b"), "compensateWith": large}, failing("c"))
    driver.give("a", b'{"v":"' + b"x" * 200_000 + b'"}')
    driver.give("b")
    driver.fail("c")
    assert driver.header().compensation is CompensationState.STUCK
    assert "limit of" in driver.undoing("b").reason
    driver.ok(SkipCompensation(*ONE))
    driver.give(driver.undoing("a"))
    assert driver.header().compensation is CompensationState.INCOMPLETE


def test_an_operator_retries_a_stuck_compensation(driver: Driver) -> None:
    """`compensation retry` (attempts reset)."""
    stuck(driver)
    driver.ok(RetryCompensation(*ONE))
    assert driver.undoing("b").retry_count == 0
    assert driver.state.meta.stuck_compensations == 0
    driver.give(driver.undoing("b"))
    driver.give(driver.undoing("a"))
    assert driver.header().compensation is CompensationState.COMPLETE


def test_a_compensation_retried_while_paused_waits_for_resume(driver: Driver) -> None:
    """`pause` holds it: also what an operator asks for meanwhile."""
    stuck(driver)
    driver.ok(PauseWorkflow(*ONE))
    driver.ok(RetryCompensation(*ONE))
    assert driver.header().compensation is CompensationState.RUNNING
    assert driver.undoing("b").status is TaskStatus.SCHEDULED
    driver.ok(ResumeWorkflow(*ONE))
    assert driver.undoing("b").status is TaskStatus.IN_PROGRESS
    driver.give(driver.undoing("b"))
    driver.give(driver.undoing("a"))
    assert driver.header().compensation is CompensationState.COMPLETE


def test_an_operator_skips_a_stuck_compensation(driver: Driver) -> None:
    """`skip` (recorded as left, go on)."""
    stuck(driver)
    driver.ok(SkipCompensation(*ONE))
    driver.give(driver.undoing("a"))
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().compensation is CompensationState.INCOMPLETE
    assert (names(view(driver).done), names(view(driver).left)) == (["a"], ["b"])
    assert "no luck" in view(driver).left[0].reason


def test_an_operator_abandons_a_stuck_compensation(driver: Driver) -> None:
    """`abandon` (end with INCOMPLETE)."""
    stuck(driver)
    driver.ok(AbandonCompensation(*ONE, "written off"))
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().compensation is CompensationState.INCOMPLETE
    assert names(view(driver).left) == ["b", "a"]
    assert driver.state.meta.stuck_compensations == 0


@pytest.mark.parametrize(
    "command", [RetryCompensation(*ONE), SkipCompensation(*ONE), AbandonCompensation(*ONE, "enough")]
)
def test_nothing_can_be_done_about_a_compensation_that_is_not_stuck(driver: Driver, command: Any) -> None:
    """An operator *then* uses retry, skip or abandon."""
    begin(driver, simple("a", "undo_a"), failing("b"))
    assert driver.do(command).reason == "COMPENSATION_NOT_STUCK"
    driver.give("a")
    driver.fail("b")
    assert driver.do(command).reason == "COMPENSATION_NOT_STUCK"


# --- Operations


def test_retry_is_refused_once_any_compensation_has_started(driver: Driver) -> None:
    """`retry` is refused (FAILED_PRECONDITION, COMPENSATION_STARTED) once any compensation has started."""
    begin(driver, simple("a", "undo_a"), failing("b"))
    driver.give("a")
    driver.fail("b")
    for _ in range(2):
        refused = driver.do(RetryWorkflow(*ONE))
        assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "COMPENSATION_STARTED")
        driver.give(driver.undoing("a"))


def test_retry_is_possible_after_a_turn_in_which_nothing_was_owed(driver: Driver) -> None:
    """No compensation has started when settling found that there was nothing to undo."""
    begin(driver, *fork([failing("b")], [simple("c", "undo_c")]))
    driver.fail("b")
    assert driver.header().status is WorkflowStatus.COMPENSATING
    driver.fail("c")
    assert driver.header().compensation is CompensationState.NONE
    driver.ok(RetryWorkflow(*ONE))
    driver.give("b")
    driver.give("c")
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize("rule", PurgeRule)
def test_retention_never_removes_what_is_owed(driver: Driver, rule: PurgeRule) -> None:
    """keepLastN, retries and retention never remove an owed record."""
    stuck(driver)
    records = dict(driver.hot().records)
    driver.ok(SetRetention(1, 1, 1))
    driver.wait(10 * 365 * 86_400_000)
    driver.ok(PurgeExecutions((PurgeItem(*ONE, driver.header().ended_ms, rule, 2**40),)))
    assert driver.hot().records == records
    driver.ok(RetryCompensation(*ONE))
    driver.give(driver.undoing("b"))
    driver.give(driver.undoing("a"))
    assert driver.header().compensation is CompensationState.COMPLETE


# --- Lost workers


def lose(driver: Driver, number: int) -> None:
    driver.ok(ExpireSession("s" if number == 0 else f"s{number}"))
    driver.worker(f"s{number + 1}", *NAMES, slots=10)


def test_a_lost_worker_ends_its_attempts(driver: Driver) -> None:
    """An expired session ends its attempts as TIMED_OUT, reason WORKER_LOST."""
    begin(driver, simple("a"))
    lost = driver.latest("a")
    driver.ok(ExpireSession("s"))
    ended = driver.hot().tasks[lost.sequence]
    assert (ended.status, ended.reason) == (TaskStatus.TIMED_OUT, "WORKER_LOST")


def test_without_retries_a_lost_worker_is_final(driver: Driver) -> None:
    """With retryCount 0 there is no further attempt."""
    begin(driver, failing("a"))
    driver.ok(ExpireSession("s"))
    assert driver.header().status is WorkflowStatus.TIMED_OUT


def test_three_losses_in_a_row_are_free_and_then_they_count(driver: Driver) -> None:
    """Otherwise the next is queued at once without using up retryCount, until three losses in a row of that task,
    after which losses count."""
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=7)
    begin(driver, simple("a"))
    for number in range(3):
        lose(driver, number)
        assert (driver.latest("a").status, driver.latest("a").retry_count) == (TaskStatus.IN_PROGRESS, 0)
    lose(driver, 3)
    assert (driver.latest("a").status, driver.latest("a").retry_count) == (TaskStatus.SCHEDULED, 1)
    driver.wait(7_000)
    lose(driver, 4)
    assert driver.header().status is WorkflowStatus.TIMED_OUT


def test_an_answer_breaks_the_row_of_losses(driver: Driver) -> None:
    """Three losses *in a row*."""
    driver.register_task(name="a", retryCount=2, retryDelaySeconds=0)
    begin(driver, simple("a"))
    for number in range(3):
        lose(driver, number)
    driver.fail("a")
    lose(driver, 3)
    assert (driver.latest("a").status, driver.latest("a").retry_count) == (TaskStatus.IN_PROGRESS, 1)
