"""Executions that run again are cleared in bounded steps: SAGA.md and ARCHITECTURE.md D3, as docstrings."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.engine import limits, machine, step
from orchestrator.engine.choices import DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import (
    CompleteTask,
    Continue,
    DeleteWorkflow,
    OpenSession,
    PauseWorkflow,
    RerunWorkflow,
    RestartWorkflow,
    RetryWorkflow,
    SignalWorkflow,
    SkipTask,
    TerminateWorkflow,
    UpdateVariables,
)
from orchestrator.engine.explain import explain
from orchestrator.engine.messages import UpdateVariables as VariablesSent
from orchestrator.engine.model import SessionKind, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Code, Rejected, Verdict
from orchestrator.engine.transitions import TASK_TERMINAL
from tests.engine.driver import Driver, simple
from tests.engine.scenario import play
from tests.requirements.elements import begin, element, fork, switch

ONE = ("default", "w")
EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "60"))
SOON = {"name": "a", "retryCount": 1, "retryDelaySeconds": 1}


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", *"abcde", "undo_a", slots=50)
    driver.ok(OpenSession("node", SessionKind.STREAM, "$system", "", "node", ("system/script",), 50, 10_000))
    return driver


def id_of(driver: Driver, reference: str) -> str:
    return driver.latest(reference).task_id


def finish(driver: Driver, *references: str) -> None:
    for reference in references:
        driver.give(reference)


def where_it_stands(driver: Driver, workflow_id: str = "w") -> Any:
    """What the execution has come to, whatever it took: no ids, no sequences."""
    hot = driver.hot(workflow_id)
    header = hot.execution
    attempts = [hot.tasks[sequences[-1]] for sequences in hot.attempts_of.values()]
    newest = {
        one.reference: (
            one.status if one.status in TASK_TERMINAL else "open",
            one.passed,
            one.waiting,
            one.position,
            one.assembled_bytes,
            one.retry_count,
            len(hot.attempts_of[one.reference]),
        )
        for one in attempts
    }
    counts = (header.status, header.open_tasks, header.open_branches, header.payload_bytes, header.ending)
    return newest, counts, len(hot.records), len(hot.payloads), len(hot.expansions)


class Slowly:
    """An execution that is being cleared, as long as a test wants to look at it."""

    def __init__(self, driver: Driver, command: Any) -> None:
        self.driver = driver
        driver.messages_per_entry = 0
        driver.index += 1
        driver.machine.begin_entry(driver.index, 1, driver.now_ms)
        outcome = driver.machine.apply(command)
        assert not isinstance(outcome.result, Rejected), outcome.result
        assert driver.header().clearing

    def try_to(self, command: Any) -> Any:
        return self.driver.machine.apply(command).result

    def go_on(self) -> None:
        self.driver.machine.end_entry(b"")
        self.driver.messages_per_entry = 1000
        self.driver.entry()
        assert not self.driver.header().clearing


AGAIN = (RestartWorkflow(*ONE, effects=DeleteEffects.KEEP), RerunWorkflow(*ONE, effects=DeleteEffects.KEEP))


def of_the_first_task(driver: Driver, command: Any) -> Any:
    return replace(command, task_id=id_of(driver, "a")) if isinstance(command, RerunWorkflow) else command


@pytest.mark.parametrize("command", AGAIN)
def test_while_it_is_cleared_callers_are_refused(
    driver: Driver, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the removal happens to an execution that is about to run again: callers try again."""
    begin(driver, simple("a", "undo_a"), simple("b"), simple("c"))
    late = driver.latest("a")
    finish(driver, "a", "b", "c")
    monkeypatch.setattr(limits, "TRANSITIONS_PER_STEP", 2)
    slowly = Slowly(driver, of_the_first_task(driver, command))
    for one in (
        PauseWorkflow(*ONE),
        TerminateWorkflow(*ONE, "stop", TerminateCompensation.SKIP),
        RetryWorkflow(*ONE),
        RestartWorkflow(*ONE),
        DeleteWorkflow(*ONE, DeleteEffects.KEEP),
        SignalWorkflow(*ONE, "go", b"{}"),
        UpdateVariables(*ONE, b"{}"),
        SkipTask(*ONE, "c"),
    ):
        result = slowly.try_to(one)
        assert (result.code, result.reason) == (Code.RESOURCE_EXHAUSTED, "WORKFLOW_CLEARING"), one
    given = CompleteTask(*ONE, late.task_id, late.fencing_token, TaskStatus.COMPLETED, b"{}", "", "")
    assert slowly.try_to(given).verdict is Verdict.UNKNOWN
    [waiting] = explain(driver.state, driver.hot())
    assert "removal of what its run before has left" in waiting.waits_for
    slowly.go_on()
    assert slowly.driver.latest("a").fencing_token > late.fencing_token
    finish(driver, "a", "b", "c")
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize("command", AGAIN)
def test_what_is_sent_to_it_meanwhile_comes_in_its_turn(
    driver: Driver, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent that ends, an event, a timeout: what reaches an execution being cleared takes effect after it."""
    begin(driver, simple("a"), simple("b"), simple("c"), timeoutSeconds=1, timeoutPolicy="TIME_OUT_WF")
    finish(driver, "a", "b", "c")
    monkeypatch.setattr(limits, "TRANSITIONS_PER_STEP", 1)
    slowly = Slowly(driver, of_the_first_task(driver, command))
    monkeypatch.setitem(
        machine.COMMANDS,
        Continue,
        lambda step, _: [
            step.send(VariablesSent(*ONE, b'{"v":%d}' % number, append=False)) for number in range(3)
        ] and machine.Done(),
    )
    slowly.try_to(Continue())
    monkeypatch.undo()
    monkeypatch.setattr(limits, "TRANSITIONS_PER_STEP", 1)
    assert len(driver.state.messages) == 4
    other = driver.restart()
    for one in (driver, other):
        if one is driver:
            slowly.go_on()
        else:
            one.messages_per_entry = 1000
            one.entry()
        assert one.hot().load(one.header().variables) == b'{"v":2}'
        assert not one.state.messages
        one.wait(1_000)
        assert one.header().status is WorkflowStatus.TIMED_OUT


def test_where_it_is_cleared_step_by_step_it_comes_to_the_same(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little a step may do."""
    inner = [simple("a", taskDefinition=SOON), switch("w1", "x", {"x": [simple("b")]})]
    loop = element("DO_WHILE", "l", loopCondition="$.x", loopOver=inner)
    begin(driver, *fork([loop, simple("c")], [simple("d"), simple("e")]))
    driver.fail("a__1")
    driver.wait(1_000)
    finish(driver, "a__1", "b__1", "d")
    driver.give("l", b'{"result":true}')
    finish(driver, "e", "a__2", "b__2")
    driver.give("l", b'{"result":false}')
    driver.give("c")
    for task in sorted(driver.hot().by_task_id):
        seen = []
        for bound in (256, 1, 2, 3, 5):
            with monkeypatch.context() as patched:
                patched.setattr(limits, "TRANSITIONS_PER_STEP", bound)
                other = driver.restart()
                other.ok(RerunWorkflow(*ONE, task_id=task))
            seen.append(where_it_stands(other))
        assert all(one == seen[0] for one in seen), task


# --- at random


def runs_again(driver: Driver, seed: int, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that has ended runs again, in small steps and in large ones."""
    for workflow_id in [key[1] for key in driver.state.hot_keys()]:
        one = ("default", workflow_id)
        tasks = ["", *sorted(driver.hot(workflow_id).by_task_id)]
        command = RerunWorkflow(*one, task_id=tasks[seed % len(tasks)], effects=DeleteEffects.KEEP)
        small = driver.restart()
        with monkeypatch.context() as patched:
            patched.setattr(limits, "TRANSITIONS_PER_STEP", bound)
            small.messages_per_entry = bound
            done = small.do(command)
        large = driver.restart()
        assert large.do(command) == done
        statuses = [one.header(workflow_id).status for one in (large, small)]
        assert statuses[0] is statuses[1]
        if statuses[0] is WorkflowStatus.RUNNING:
            # Where a task has ended it at once, the one may have come further than the other.
            assert where_it_stands(large, workflow_id) == where_it_stands(small, workflow_id)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="ENGINE_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32), events=st.integers(0, 40), bound=st.integers(1, 4))
def test_any_run_is_cleared_alike_in_small_steps(
    seed: int, events: int, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_again(play(seed, events), seed, bound, monkeypatch)


# --- at size


@pytest.mark.patches_engine
def test_thousands_of_tasks_are_cleared_a_few_at_a_time(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step removes or reads anew more than its bound of attempts, however many there are."""
    count = 3_500
    loop = element("DO_WHILE", "l", items=list(range(count)), loopOver=[element("NOOP", "n")])
    begin(driver, simple("a"), loop, simple("b"))
    finish(driver, "a", "b")
    assert driver.header().status is WorkflowStatus.COMPLETED
    written: list[int] = []

    def counted(self: step.Step, changed: step.Changed) -> int:
        written.append(len(self.tasks_before))
        return commit(self, changed)

    commit = step.Step.commit
    monkeypatch.setattr(step.Step, "commit", counted)
    driver.check = False  # of each step: quadratic
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "n__7")))
    assert len(driver.hot().tasks) == count + 3
    # Removed, or made again; a few attempts above them with each step.
    assert max(written) <= limits.TRANSITIONS_PER_STEP + 8
    assert len(written) > 2 * count // limits.TRANSITIONS_PER_STEP
    finish(driver, "b")
    assert driver.header().status is WorkflowStatus.COMPLETED
    driver.ok(RestartWorkflow(*ONE, effects=DeleteEffects.KEEP))
    assert max(written) <= limits.TRANSITIONS_PER_STEP + 8
    driver.check = True
    finish(driver, "a", "b")
    assert driver.header().status is WorkflowStatus.COMPLETED
