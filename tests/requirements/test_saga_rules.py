"""One test per rule of compensation; the rule is its docstring."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.engine import limits, queries
from orchestrator.engine.choices import DeadlineKind, TerminateCompensation
from orchestrator.engine.commands import (
    ExpireDeadline,
    ExpireSession,
    ReleaseTask,
    RetryWorkflow,
    SignalWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.effects import Cancel
from orchestrator.engine.model import CompensationState, StepOutcome, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Code, Done, Verdict
from tests.engine.driver import Driver, simple
from tests.requirements.flows import (
    NAMES,
    ONE,
    begin,
    failing,
    fork,
    names,
    saga_driver,
    terminate,
    three_branches,
    view,
)


@pytest.fixture
def driver() -> Driver:
    return saga_driver()


# --- Attempts


def test_the_fencing_token_grows_with_each_lease_and_the_key_stays_the_same(driver: Driver) -> None:
    """`fencing_token` grows with each lease; `idempotency_key` stays the same through automatic retries, re-leases,
    failovers and an operator's `retry`."""
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=0)
    begin(driver, simple("a"))
    seen = [driver.latest("a")]
    driver.fail("a")
    seen.append(driver.latest("a"))
    driver = driver.restart()
    driver.fail("a")
    driver.ok(RetryWorkflow(*ONE))
    seen.append(driver.latest("a"))
    assert len({attempt.fencing_token for attempt in seen}) == 3
    assert [attempt.fencing_token for attempt in seen] == sorted(attempt.fencing_token for attempt in seen)
    assert {attempt.idempotency_key for attempt in seen} == {seen[0].task_id}, "it is the id of the first attempt"


def test_no_two_steps_share_a_key(driver: Driver) -> None:
    """`idempotency_key` is of one step in one iteration and run of one execution: its compensation has another."""
    begin(driver, simple("a", "undo_a"), failing("b"))
    driver.give("a")
    driver.fail("b")
    keys = {driver.latest("a").idempotency_key, driver.latest("b").idempotency_key}
    keys.add(driver.undoing("a").idempotency_key)
    driver.start("saga", "other")
    keys.add(driver.latest("a", "other").idempotency_key)
    assert len(keys) == 4


# --- What is recorded


def test_a_compensation_sees_exactly_the_record_of_its_step(driver: Driver) -> None:
    """In the compensation's input `${step.input...}` and `${step.output...}` mean exactly that record."""
    undo = {
        "name": "undo_a",
        "type": "SIMPLE",
        "inputParameters": {"amount": "${step.input.amount}", "receipt": "${step.output.receipt}"},
    }
    first = {**simple("a"), "compensateWith": undo, "inputParameters": {"amount": "${workflow.input.order}"}}
    begin(driver, first, failing("b"))
    step_key = driver.latest("a").idempotency_key
    driver.give("a", b'{"receipt":"r7"}')
    driver.fail("b")
    assigned = queries.assignment_view(driver.state, driver.hot(), driver.undoing("a").fencing_token)
    assert assigned is not None
    assert assigned.input == b'{"amount":1,"receipt":"r7"}'
    step = assigned.compensation
    assert step is not None
    assert (step.reference, step.name, step.outcome_unknown) == ("a", "a", False)
    assert (step.input, step.output) == (b'{"amount":1}', b'{"receipt":"r7"}')
    assert step.idempotency_key == step_key


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"i": "${step.input.v}", "o": "${step.output.v}", "a": "${a.output.v}"},
        {"both": "${step.input.v} ${step.output.v}"},
    ],
)
def test_the_record_of_a_large_step_fits_into_the_input_of_its_compensation(
    driver: Driver, parameters: dict[str, str]
) -> None:
    """In the compensation's input `${step.input...}` and `${step.output...}` mean exactly that record."""
    large = b'{"v":"' + b"x" * 200_000 + b'"}'
    step = simple("b", "undo_b", inputParameters={"v": "${a.output.v}"})
    if parameters:
        step["compensateWith"]["inputParameters"] = parameters
    begin(driver, simple("a"), step, failing("c"))
    driver.give("a", large)
    driver.give("b", large)
    driver.fail("c")
    shown = json.loads(queries.resolved_input(driver.state, driver.hot(), driver.undoing("b")))
    v = json.loads(large)["v"]
    assert shown == ({key: (v + " " + v if " " in text else v) for key, text in parameters.items()} or {
        "step": {"input": {"v": v}, "output": {"v": v}}
    })
    driver.give(driver.undoing("b"))
    assert driver.header().compensation is CompensationState.COMPLETE


def test_an_execution_without_room_is_compensated_all_the_same(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Execution 64 MiB: a limit does not keep what was done from being undone."""
    begin(driver, simple("a", "undo_a"), failing("b"))
    driver.give("a", b'{"v":"' + b"x" * 100 + b'"}')
    monkeypatch.setattr(limits, "EXECUTION_BYTES", driver.header().payload_bytes + 10)
    driver.give("b", b'{"v":"too large"}')
    assert driver.latest("b").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    driver.give(driver.undoing("a"), b'{"v":"it is undone"}')
    assert driver.header().compensation is CompensationState.COMPLETE


def test_only_steps_with_a_compensation_are_recorded(driver: Driver) -> None:
    """Completing a step that has `compensateWith` appends an immutable record."""
    begin(driver, simple("a", "undo_a"), simple("b"), simple("c"))
    driver.give("a", b'{"n":1}')
    driver.give("b")
    records = list(driver.hot().records.values())
    assert [(record.reference, record.outcome, record.output) for record in records] == [
        ("a", StepOutcome.COMPLETED, b'{"n":1}')
    ]


# --- When


def test_a_failed_workflow_compensates(driver: Driver) -> None:
    """A compensation runs when the workflow fails."""
    begin(driver, simple("a", "undo_a"), failing("b"))
    driver.give("a")
    driver.fail("b", "no trucks")
    assert driver.header().status is WorkflowStatus.COMPENSATING
    driver.give(driver.undoing("a"))
    header = driver.header()
    assert header.status is WorkflowStatus.FAILED
    assert header.failed_task == "b"
    assert "no trucks" in header.reason
    assert header.compensation is CompensationState.COMPLETE


def test_a_timed_out_workflow_compensates(driver: Driver) -> None:
    """A compensation runs when the workflow times out."""
    begin(driver, simple("a", "undo_a"), simple("b"), timeoutSeconds=60, timeoutPolicy="TIME_OUT_WF")
    driver.give("a")
    driver.wait(60_000)
    assert driver.header().status is WorkflowStatus.COMPENSATING
    driver.fail("b")
    driver.give(driver.undoing("a"))
    assert driver.header().status is WorkflowStatus.TIMED_OUT


@pytest.mark.parametrize(
    ("compensation", "status"),
    [
        (TerminateCompensation.RUN, WorkflowStatus.COMPENSATING),
        (TerminateCompensation.SKIP, WorkflowStatus.TERMINATED),
    ],
)
def test_terminate_runs_or_skips_compensation(
    driver: Driver, compensation: TerminateCompensation, status: WorkflowStatus
) -> None:
    """Native terminate takes `compensation: RUN | SKIP`."""
    begin(driver, simple("a", "undo_a"), {"name": "hold", "taskReferenceName": "hold", "type": "WAIT"})
    driver.give("a")
    driver.ok(TerminateWorkflow(*ONE, "stop", compensation))
    assert driver.header().status is status
    if status is WorkflowStatus.COMPENSATING:
        driver.give(driver.undoing("a"))
        assert driver.header().status is WorkflowStatus.TERMINATED
        assert driver.header().reason == "stop"


def test_terminate_without_a_word_is_refused_only_if_something_is_owed(driver: Driver) -> None:
    """Unset is refused only if something is owed."""
    begin(driver, {"name": "hold", "taskReferenceName": "hold", "type": "WAIT"}, simple("a", "undo_a"), simple("b"))
    driver.start("saga", "free")
    assert driver.ok(TerminateWorkflow("default", "free", "stop", TerminateCompensation.UNSET)) == Done()
    driver.ok(SignalWorkflow(*ONE, "hold", b"{}"))
    driver.give("a")
    refused = driver.do(TerminateWorkflow(*ONE, "stop", TerminateCompensation.UNSET))
    assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "COMPENSATION_UNDECIDED")


@pytest.mark.parametrize(
    ("status", "given", "compensates"),
    [
        ("FAILED", {}, True),
        ("TERMINATED", {}, False),
        ("TERMINATED", {"compensate": True}, True),
        ("COMPLETED", {}, False),
        ("COMPLETED", {"compensate": True}, False),
    ],
)
def test_a_terminate_task_compensates_by_its_status(
    driver: Driver, status: str, given: dict[str, Any], compensates: bool
) -> None:
    """A TERMINATE task with FAILED compensates, with TERMINATED only if its input says `compensate: true`, with
    COMPLETED never."""
    begin(driver, simple("a", "undo_a"), terminate(status, **given))
    driver.give("a")
    if compensates:
        assert driver.header().status is WorkflowStatus.COMPENSATING
        driver.give(driver.undoing("a"))
    assert driver.header().status.name == status


def test_a_completed_pivot_ends_all_debts(driver: Driver) -> None:
    """A completed `pivot` task applies to the whole workflow, other fork branches included: from then on nothing is
    compensated however it ends."""
    begin(driver, *fork([simple("a", "undo_a"), failing("b")], [simple("c", pivot=True)]))
    driver.give("a")
    driver.give("c")
    driver.fail("b")
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().compensation is CompensationState.NONE


def test_compensation_on_request_is_refused_after_a_pivot(driver: Driver) -> None:
    """RUN is refused with PIVOT_PASSED."""
    begin(driver, simple("a", "undo_a"), simple("b", pivot=True), simple("c"))
    driver.give("a")
    driver.give("b")
    refused = driver.do(TerminateWorkflow(*ONE, "stop", TerminateCompensation.RUN))
    assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "PIVOT_PASSED")
    assert driver.ok(TerminateWorkflow(*ONE, "stop", TerminateCompensation.UNSET)) == Done()


# --- Settling first


def test_unleased_tasks_are_cancelled_and_leased_ones_awaited(driver: Driver) -> None:
    """Unleased tasks are cancelled. Leased ones get a cancel message and are awaited until they answer."""
    three_branches(driver)
    assert driver.latest("nobody").status is TaskStatus.CANCELED
    assert driver.latest("c").status is TaskStatus.IN_PROGRESS
    cancels = [effect for effect in driver.effects if isinstance(effect, Cancel)]
    assert [(cancel.task_id, cancel.fenced) for cancel in cancels] == [(driver.latest("c").task_id, False)]
    assert not driver.hot().undoing
    driver.fail("c", "stopped")
    assert driver.undoing("a").status is TaskStatus.IN_PROGRESS


def test_a_step_that_completes_while_settling_joins_the_list(driver: Driver) -> None:
    """A step that completes meanwhile joins the list."""
    three_branches(driver)
    assert driver.give("c", b'{"late":1}').verdict is Verdict.ACCEPTED
    assert driver.undoing("c").status is TaskStatus.IN_PROGRESS
    driver.give(driver.undoing("c"))
    driver.give(driver.undoing("a"))
    assert names(view(driver).done) == ["c", "a"]


def test_settling_ends_with_the_grace_period(driver: Driver) -> None:
    """Leased ones are awaited until `compensationGraceSeconds` passes; their outcome is unknown then."""
    three_branches(driver, compensationGraceSeconds=5)
    late = driver.latest("c")
    driver.wait(4_999)
    assert driver.latest("c").status is TaskStatus.IN_PROGRESS
    driver.wait(1)
    assert driver.latest("c").status is TaskStatus.CANCELED
    assert driver.give(late).verdict is Verdict.FENCED
    assigned = queries.assignment_view(driver.state, driver.hot(), driver.undoing("c").fencing_token)
    assert assigned is not None
    assert assigned.compensation is not None
    assert assigned.compensation.outcome_unknown
    assert assigned.compensation.output is None


def test_grace_is_thirty_seconds_by_default(driver: Driver) -> None:
    """`compensationGraceSeconds` (30)."""
    three_branches(driver)
    driver.wait(29_999)
    assert driver.latest("c").status is TaskStatus.IN_PROGRESS
    driver.wait(1)
    assert driver.latest("c").status is TaskStatus.CANCELED


def test_settling_ends_when_the_awaited_attempt_times_out(driver: Driver) -> None:
    """Leased ones are awaited until they time out."""
    three_branches(driver)
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, driver.latest("c").fencing_token))
    assert driver.latest("c").status is TaskStatus.TIMED_OUT
    assert driver.undoing("c").status is TaskStatus.IN_PROGRESS


def test_a_release_while_settling_is_an_answer_without_an_outcome(driver: Driver) -> None:
    """A worker that stops an awaited attempt without a result leaves its outcome unknown."""
    three_branches(driver)
    driver.ok(ReleaseTask("s", driver.latest("c").fencing_token))
    assert view(driver).left[0] == queries.CompensatedStep("c", 0, True)


@pytest.mark.parametrize("how", ["timeout", "loss", "invalid"])
def test_a_step_of_unknown_outcome_is_compensated(driver: Driver, how: str) -> None:
    """A step with `compensateWith` whose outcome is unknown (timed out or worker lost in any attempt, with no later
    completion) is compensated too, with `outcome: UNKNOWN` and no output."""
    begin(driver, simple("a", "undo_a", retryCount=0))
    if how == "timeout":
        driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, driver.latest("a").fencing_token))
    elif how == "loss":
        driver.ok(ExpireSession("s"))
        driver.worker("t", *NAMES)
    else:
        # It said COMPLETED: it has done something.
        driver.give("a", b"no json")
    assert driver.header().status is WorkflowStatus.COMPENSATING
    record = driver.hot().records[driver.undoing("a").compensates]
    assert (record.outcome, record.output) == (StepOutcome.UNKNOWN, b"")
    driver.give(driver.undoing("a"))
    assert driver.header().compensation is CompensationState.COMPLETE


def test_what_may_have_happened_is_undone_with_the_input_that_it_had(driver: Driver) -> None:
    """The record of a step whose outcome is unknown is that of the attempt that may have taken effect."""
    variable = {"name": "v", "taskReferenceName": "v", "type": "SET_VARIABLE", "inputParameters": {"v": 2}}
    step = simple("a", "undo_a", retryCount=1, inputParameters={"v": "${workflow.variables.v}"})
    begin(driver, *fork([step], [simple("b"), variable, failing("c")]), variables={"v": 1})
    driver.give("b")
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, driver.latest("a").fencing_token))
    assert driver.latest("a").input == b'{"v":2}'
    driver.fail("c")
    undoing = driver.undoing("a")
    view = queries.assignment_view(driver.state, driver.hot(), undoing.fencing_token)
    assert view is not None
    assert view.compensation is not None
    assert (view.compensation.outcome_unknown, view.compensation.input) == (True, b'{"v":1}')


def test_a_later_failure_does_not_make_an_unknown_outcome_known(driver: Driver) -> None:
    """Timed out in any attempt, with no later completion."""
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=0)
    begin(driver, simple("a", "undo_a"))
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, driver.latest("a").fencing_token))
    driver.fail("a")
    assert driver.undoing("a").status is TaskStatus.IN_PROGRESS


def test_a_later_completion_makes_the_outcome_known(driver: Driver) -> None:
    """An unknown outcome with a later completion is a completed step."""
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=0)
    begin(driver, simple("a", "undo_a"), failing("b"))
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, driver.latest("a").fencing_token))
    driver.give("a")
    driver.fail("b")
    assert [record.outcome for record in driver.hot().records.values()] == [StepOutcome.COMPLETED]


def test_a_step_that_only_failed_is_not_compensated(driver: Driver) -> None:
    """A step whose every attempt reported FAILED is not."""
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=0)
    begin(driver, simple("a", "undo_a"))
    driver.fail("a")
    driver.fail("a")
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.header().compensation is CompensationState.NONE


def test_a_step_that_no_worker_ever_took_is_not_compensated(driver: Driver) -> None:
    """A poll timeout leaves nothing unknown."""
    driver.register_task(name="nobody", pollTimeoutSeconds=5, retryCount=0)
    begin(driver, simple("nobody", "undo_a"))
    driver.ok(ExpireDeadline(DeadlineKind.POLL, driver.latest("nobody").ready))
    assert driver.header().status is WorkflowStatus.TIMED_OUT
    assert driver.header().compensation is CompensationState.NONE


def test_nothing_new_is_handed_out_once_the_workflow_turns_round(driver: Driver) -> None:
    """Unleased tasks are cancelled: also where there are more than one step may cancel, and a slot becomes free."""
    driver.ok(ExpireSession("s"))
    driver.worker("t", "a", "b", "undo_a", "z", slots=1)
    driver.check = False
    wide = [[simple(f"z{number}", taskDefinition={"name": "z"}, name="z")] for number in range(600)]
    begin(driver, simple("a", "undo_a"), *fork([failing("b")], *[[{**task[0], "name": "z"}] for task in wide]))
    driver.check = True
    driver.give("a")
    driver.fail("b")
    assert driver.undoing("a").status is TaskStatus.IN_PROGRESS
    assert all(attempt.fencing_token == 0 for attempt in driver.hot().tasks.values() if attempt.name == "z")


# --- Order


def test_unknown_outcomes_come_first_then_the_reverse_order_of_completion(driver: Driver) -> None:
    """One at a time: unknown outcomes first, then completed steps in reverse order of completion."""
    begin(driver, *fork([simple("a", "undo_a")], [simple("b", "undo_b")]), simple("c", "undo_c", retryCount=0))
    driver.give("b")
    driver.give("a")
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, driver.latest("c").fencing_token))
    for reference in ("c", "a", "b"):
        assert len(driver.header().compensating) == 1
        driver.give(driver.undoing(reference))
    assert names(view(driver).done) == ["c", "a", "b"]


def test_a_definition_may_ask_for_all_at_once(driver: Driver) -> None:
    """Unless the definition asks for `compensationOrder: PARALLEL`."""
    begin(driver, simple("a", "undo_a"), simple("b", "undo_b"), failing("c"), compensationOrder="PARALLEL")
    driver.give("a")
    driver.give("b")
    driver.fail("c")
    assert driver.undoing("a").status is driver.undoing("b").status is TaskStatus.IN_PROGRESS
    driver.give(driver.undoing("a"))
    driver.give(driver.undoing("b"))
    assert driver.header().compensation is CompensationState.COMPLETE


def test_a_compensation_has_its_own_retry_policy(driver: Driver) -> None:
    """Each has its own retry policy (default: exponential, 1 s to 60 s, 20 attempts)."""
    begin(driver, simple("a", "undo_a"), failing("b"))
    driver.give("a")
    driver.fail("b")
    delays = []
    while driver.header().compensation is CompensationState.RUNNING:
        driver.fail(driver.undoing("a"))
        timers = list(driver.state.timers.values())
        if timers:
            delays.append(timers[0].fire_ms - driver.now_ms)
            driver.wait(delays[-1])
    assert delays[:7] == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000]
    assert len(delays) == 19
    assert len({driver.undoing("a").idempotency_key}) == 1
