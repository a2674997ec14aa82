"""Restart, rerun, skip, retries of sub-workflows, the failure workflow: CONDUCTOR.md 2.9 and SAGA.md, as docstrings."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import queries
from orchestrator.engine.choices import DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import (
    OpenSession,
    RerunWorkflow,
    RestartWorkflow,
    RetryWorkflow,
    SkipTask,
    TerminateWorkflow,
)
from orchestrator.engine.model import SessionKind, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Rejected
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import begin, element, fork, shown_input, switch, text

ONE = ("default", "w")
SOON = {"name": "a", "retryCount": 1, "retryDelaySeconds": 1}


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", *"abcde", "undo_a", slots=50)
    driver.ok(OpenSession("node", SessionKind.STREAM, "$system", "", "node", ("system/script",), 50, 10_000))
    return driver


def refused(result: Any) -> str:
    assert isinstance(result, Rejected), result
    return result.reason


def id_of(driver: Driver, reference: str) -> str:
    return driver.latest(reference).task_id


def finish(driver: Driver, *references: str) -> None:
    for reference in references:
        driver.give(reference)


# --- restart


def test_a_restart_begins_anew(driver: Driver) -> None:
    """All tasks removed, same id; a new run, whose steps have other idempotency keys."""
    begin(driver, simple("a"), simple("b", retryCount=0), given=b'{"k":1}')
    driver.give("a")
    key = driver.latest("a").idempotency_key
    driver.fail("b")
    driver.ok(RestartWorkflow(*ONE))
    assert driver.header().status is WorkflowStatus.RUNNING
    assert driver.header().run == 2
    assert list(driver.hot().attempts_of) == ["a"]
    assert driver.latest("a").idempotency_key != key
    finish(driver, "a", "b")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_what_runs_is_not_restarted(driver: Driver) -> None:
    """restart: only terminal."""
    begin(driver, simple("a"))
    assert refused(driver.do(RestartWorkflow(*ONE))) == "WORKFLOW_RUNNING"


def test_what_completed_may_be_not_restartable(driver: Driver) -> None:
    """restartable=false and COMPLETED: not found."""
    begin(driver, simple("a"), restartable=False)
    driver.give("a")
    assert refused(driver.do(RestartWorkflow(*ONE))) == "WORKFLOW_NOT_RESTARTABLE"


def test_a_restart_may_take_the_latest_definition(driver: Driver) -> None:
    """useLatestDefinitions swaps the definition."""
    begin(driver, simple("a", retryCount=0))
    driver.fail("a")
    driver.register({**workflow("flow", simple("b")), "version": 2})
    driver.ok(RestartWorkflow(*ONE, use_latest_definitions=True))
    assert driver.header().version == 2
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_restart_does_not_drop_what_was_not_undone(driver: Driver) -> None:
    """Refused, naming the steps, unless the caller says compensate_first or keep_effects."""
    begin(driver, simple("a", "undo_a"), simple("b"))
    driver.give("a")
    driver.ok(TerminateWorkflow(*ONE, "stop", TerminateCompensation.SKIP))
    result = driver.do(RestartWorkflow(*ONE))
    assert refused(result) == "STEPS_NOT_UNDONE"
    assert "a" in result.message
    driver.ok(RestartWorkflow(*ONE, effects=DeleteEffects.KEEP))
    assert driver.header().status is WorkflowStatus.RUNNING
    assert not driver.hot().records


def test_a_restart_may_compensate_first(driver: Driver) -> None:
    """compensate_first: what was done is undone, then it begins anew."""
    begin(driver, simple("a", "undo_a"), simple("b"))
    finish(driver, "a", "b")
    driver.ok(RestartWorkflow(*ONE, effects=DeleteEffects.COMPENSATE_FIRST))
    assert driver.header().status is WorkflowStatus.COMPENSATING
    driver.give(driver.undoing("a"))
    assert driver.header().status is WorkflowStatus.RUNNING
    assert driver.header().run == 2
    finish(driver, "a", "b")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_what_was_undone_can_be_restarted(driver: Driver) -> None:
    """After a compensation nothing is dropped: restart is possible, retry is not."""
    begin(driver, simple("a", "undo_a"), simple("b", retryCount=0))
    driver.give("a")
    driver.fail("b")
    driver.give(driver.undoing("a"))
    assert refused(driver.do(RetryWorkflow(*ONE))) == "COMPENSATION_STARTED"
    driver.ok(RestartWorkflow(*ONE))
    finish(driver, "a", "b")
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- rerun


def test_a_rerun_begins_at_a_task(driver: Driver) -> None:
    """Tasks with a higher sequence are removed, that task is reset, with new input if given."""
    begin(driver, simple("a"), simple("b", inputParameters={"k": 1}), simple("c"))
    finish(driver, "a", "b", "c")
    task = id_of(driver, "b")
    driver.ok(RerunWorkflow(*ONE, task_id=task, task_input=b'{"k":2}'))
    assert driver.header().status is WorkflowStatus.RUNNING
    assert list(driver.hot().attempts_of) == ["a", "b"]
    assert shown_input(driver, "b") == {"k": 2}
    finish(driver, "b", "c")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_rerun_without_a_task_is_a_restart_with_another_input(driver: Driver) -> None:
    """Without: whole rerun with the new input."""
    begin(driver, simple("a", inputParameters={"k": "${workflow.input.k}"}), given=b'{"k":1}')
    driver.give("a")
    driver.ok(RerunWorkflow(*ONE, workflow_input=b'{"k":2}', correlation_id="other"))
    assert shown_input(driver, "a") == {"k": 2}
    assert driver.header().correlation_id == "other"


def test_a_rerun_of_an_unknown_task_is_refused(driver: Driver) -> None:
    """rerun: terminal only, unknown task invalid."""
    begin(driver, simple("a"))
    assert refused(driver.do(RerunWorkflow(*ONE, task_id="x"))) == "WORKFLOW_RUNNING"
    driver.give("a")
    assert refused(driver.do(RerunWorkflow(*ONE, task_id="x"))) == "TASK_UNKNOWN"


def test_a_rerun_inside_a_fork(driver: Driver) -> None:
    """Branches that are complete stay; the JOIN waits for what is run again."""
    begin(driver, *fork([simple("a"), simple("b")], [simple("c")]), simple("d"))
    finish(driver, "c", "a", "b", "d")
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "b")))
    assert driver.latest("c").status is TaskStatus.COMPLETED
    driver.give("b", b'{"again":1}')
    assert text(driver, "j") == {"b": {"again": 1}}
    driver.give("d")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_rerun_inside_a_switch(driver: Driver) -> None:
    """The choice that was made stays."""
    begin(driver, switch("w1", "x", {"x": [simple("a"), simple("b")]}), simple("c"))
    finish(driver, "a", "b", "c")
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "b")))
    finish(driver, "b", "c")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_rerun_inside_a_loop(driver: Driver) -> None:
    """Iterations before that of the task stay; the loop goes on from there."""
    loop = element("DO_WHILE", "l", loopCondition="$.l['iteration'] < 3", loopOver=[simple("a"), simple("b")])
    begin(driver, loop, simple("c"))
    for number in (1, 2, 3):
        finish(driver, f"a__{number}", f"b__{number}")
        driver.give("l", msgspec.json.encode({"result": number < 3}))
    driver.give("c")
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "b__2")))
    assert driver.latest("l").position == 2
    for number in (2, 3):
        driver.give(f"b__{number}", b'{"again":1}')
        driver.give("l", msgspec.json.encode({"result": number < 3}))
        if number < 3:
            driver.give("a__3")
    driver.give("c")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert text(driver, "l")["2"] == {"a": {}, "b": {"again": 1}}


def test_a_rerun_behind_a_loop_leaves_what_is_in_it(driver: Driver) -> None:
    """A loop that is complete stays complete, with everything in it."""
    inside = switch("w1", "x", {"x": [simple("a")]})
    loop = element("DO_WHILE", "l", loopCondition="$.x", loopOver=[inside])
    begin(driver, loop, simple("b"), simple("c"))
    driver.give("a__1")
    driver.give("l", b'{"result":false}')
    finish(driver, "b", "c")
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "b")))
    finish(driver, "b", "c")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_what_was_skipped_is_passed_when_the_walk_comes_there(driver: Driver) -> None:
    """A task that was skipped and is in a branch that is not gone any more counts for nothing."""
    choice = switch("w1", "${workflow.input.k}", {"1": [simple("a"), simple("b")], "2": [simple("c")]})
    begin(driver, simple("d"), choice, given=b'{"k":1}')
    driver.ok(SkipTask(*ONE, "b"))
    finish(driver, "d", "a")
    assert driver.header().status is WorkflowStatus.COMPLETED
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "w1"), workflow_input=b'{"k":2}'))
    driver.give("c")
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize("given", [b"", b'{"k":2}'])
def test_a_rerun_of_what_was_retried(driver: Driver, given: bytes) -> None:
    """The idempotency key changes when rerun begins a new run: attempts that failed before belong to the run before."""
    begin(driver, simple("a"), simple("b", retryCount=0), simple("c"))
    driver.give("a")
    driver.fail("b")
    driver.ok(RetryWorkflow(*ONE))
    finish(driver, "b", "c")
    first = driver.latest("b")
    driver.ok(RerunWorkflow(*ONE, task_id=first.task_id, task_input=given))
    again = driver.latest("b")
    assert again.idempotency_key != first.idempotency_key
    assert (again.retry_count, driver.hot().attempts_of["b"]) == (0, [again.sequence])
    finish(driver, "b", "c")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_rerun_before_what_a_sibling_was_retried(driver: Driver) -> None:
    """What is run again beside the task has other keys, too, though its first attempt is older than the task."""
    begin(driver, *fork([simple("a", retryCount=1, taskDefinition=SOON)], [simple("b"), simple("c")]), simple("d"))
    driver.give("b")
    driver.fail("a")
    driver.wait(1_000)
    finish(driver, "a", "c", "d")
    first = driver.latest("a").idempotency_key
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "c")))
    assert driver.latest("a").idempotency_key != first
    finish(driver, "a", "c", "d")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_rerun_of_what_failed(driver: Driver) -> None:
    """Unsuccessful siblings are reset."""
    begin(driver, *fork([simple("a", retryCount=0)], [simple("b"), simple("c")]), simple("d"))
    driver.give("b")
    driver.fail("a")
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "b")))
    finish(driver, "a", "b", "c", "d")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_rerun_keeps_what_is_undone_out(driver: Driver) -> None:
    """After a compensation rerun is allowed only if every compensated step is executed again."""
    begin(driver, simple("a", "undo_a"), simple("b"), simple("c", retryCount=0))
    finish(driver, "a", "b")
    driver.fail("c")
    driver.give(driver.undoing("a"))
    first, second = id_of(driver, "a"), id_of(driver, "b")
    assert refused(driver.do(RerunWorkflow(*ONE, task_id=second))) == "COMPENSATION_STARTED"
    driver.ok(RerunWorkflow(*ONE, task_id=first))
    finish(driver, "a", "b", "c")
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- skip


def test_a_task_that_has_not_begun_is_skipped(driver: Driver) -> None:
    """skip: only RUNNING and the reference not yet started; its output is what is given."""
    begin(driver, simple("a"), simple("b"), simple("c", inputParameters={"k": "${b.output.k}"}))
    driver.ok(SkipTask(*ONE, "b", b'{"k":3}'))
    assert refused(driver.do(SkipTask(*ONE, "b"))) == "TASK_BEGUN"
    assert refused(driver.do(SkipTask(*ONE, "x"))) == "TASK_UNKNOWN"
    driver.give("a")
    assert driver.latest("b").status is TaskStatus.SKIPPED
    assert shown_input(driver, "c") == {"k": 3}
    driver.give("c")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert refused(driver.do(SkipTask(*ONE, "b"))) == "WORKFLOW_NOT_RUNNING"


def test_a_join_does_not_wait_for_what_was_skipped_in_vain(driver: Driver) -> None:
    """A task that was skipped, in a branch that is not gone, is waited for by no JOIN."""
    choice = switch("w1", "x", {"x": [simple("a")], "y": [simple("b")]})
    begin(driver, simple("d"), *fork([choice], [simple("c")], on=["b", "c"]))
    driver.ok(SkipTask(*ONE, "b"))
    finish(driver, "d", "a", "c")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_skipped_switch_passes_as_one(driver: Driver) -> None:
    """Of a SWITCH no branch is gone."""
    begin(driver, simple("a"), switch("w1", "x", {"x": [simple("b")]}), simple("c"))
    driver.ok(SkipTask(*ONE, "w1"))
    finish(driver, "a", "c")
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- sub-workflows


def nested(driver: Driver, depth: int = 1) -> list[str]:
    """A workflow with a sub-workflow, so many deep, whose only task has failed; the ids from the outside in."""
    driver.register(workflow("flow0", simple("a", retryCount=0), simple("b")))
    for level in range(depth):
        inner = element("SUB_WORKFLOW", "s1", subWorkflowParam={"name": f"flow{level}"})
        driver.register(workflow(f"flow{level + 1}", inner, simple("c")))
    driver.start(f"flow{depth}")
    ids = ["w"]
    for _ in range(depth):
        ids.append(driver.latest("s1", ids[-1]).child)
    driver.fail("a", workflow_id=ids[-1])
    assert driver.header().status is WorkflowStatus.FAILED
    return ids


def test_a_retried_child_reopens_its_parents(driver: Driver) -> None:
    """Parents of a child: SUB_WORKFLOW task IN_PROGRESS, parent RUNNING."""
    ids = nested(driver, 2)
    driver.ok(RetryWorkflow("default", ids[-1]))
    assert [driver.header(one).status for one in ids] == [WorkflowStatus.RUNNING] * 3
    for reference, one in (("a", ids[2]), ("b", ids[2]), ("c", ids[1]), ("c", ids[0])):
        driver.give(reference, workflow_id=one)
    assert [driver.header(one).status for one in ids] == [WorkflowStatus.COMPLETED] * 3


def test_a_restarted_child_reopens_its_parents(driver: Driver) -> None:
    """restart: sub-workflow parents reopened."""
    ids = nested(driver)
    driver.ok(RestartWorkflow("default", ids[1]))
    for reference, one in (("a", ids[1]), ("b", ids[1]), ("c", ids[0])):
        driver.give(reference, workflow_id=one)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_what_a_terminate_task_has_ended_stays_so(driver: Driver) -> None:
    """A child that runs again does not reopen a parent that a TERMINATE has ended."""
    driver.register(workflow("child", simple("a")))
    ends = element("TERMINATE", "t", {"terminationStatus": "FAILED"})
    inner = element("SUB_WORKFLOW", "s1", subWorkflowParam={"name": "child"})
    begin(driver, *fork([inner], [simple("b"), ends]))
    driver.give("b")
    assert driver.header().status is WorkflowStatus.FAILED
    driver.ok(RestartWorkflow("default", driver.latest("s1").child))
    assert driver.header().status is WorkflowStatus.FAILED


def test_a_retry_may_resume_the_children(driver: Driver) -> None:
    """resumeSubworkflowTasks: retries the deepest failed child instead of a new child."""
    ids = nested(driver, 2)
    driver.ok(RetryWorkflow(*ONE, resume_sub_workflows=True))
    assert driver.latest("s1").child == ids[1]
    assert driver.latest("s1", ids[1]).child == ids[2]
    for reference, one in (("a", ids[2]), ("b", ids[2]), ("c", ids[1]), ("c", ids[0])):
        driver.give(reference, workflow_id=one)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_retry_starts_another_child(driver: Driver) -> None:
    """retry: a failed SUB_WORKFLOW gets a new task, and with it a new child."""
    ids = nested(driver)
    driver.ok(RetryWorkflow(*ONE))
    child = driver.latest("s1").child
    assert child != ids[1]
    for reference, one in (("a", child), ("b", child), ("c", "w")):
        driver.give(reference, workflow_id=one)
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- the failure workflow


def failure_of(driver: Driver) -> str:
    output = msgspec.json.decode(driver.hot().load(driver.header().output))
    return str(output["conductor.failure_workflow"])


@pytest.mark.parametrize("name", ["mourn", "$workflow.input.how", "${workflow.input.how}"])
def test_a_failure_workflow_is_told_what_happened(driver: Driver, name: str) -> None:
    """Input = the original input + workflowId, reason, failureStatus, failureTaskId, failedWorkflow."""
    driver.register(workflow("mourn", simple("b")))
    begin(driver, simple("a", retryCount=0), failureWorkflow=name, given=b'{"how":"mourn"}')
    driver.fail("a")
    other = failure_of(driver)
    given = msgspec.json.decode(driver.hot(other).load(driver.header(other).input))
    assert (given["how"], given["workflowId"], given["failureStatus"]) == ("mourn", "w", "FAILED")
    assert given["failureTaskId"] == driver.latest("a").task_id
    assert given["failedWorkflow"]["tasks"][0]["referenceTaskName"] == "a"
    assert given["compensation"]["state"] == "NONE"


def test_a_failure_workflow_sees_the_end_of_the_compensation(driver: Driver) -> None:
    """failureWorkflow gets `compensation` in its input, and sees the end, never the entry."""
    driver.register(workflow("mourn", simple("b")))
    begin(driver, simple("a", "undo_a"), simple("c", retryCount=0), failureWorkflow="mourn")
    driver.give("a")
    driver.fail("c")
    driver.give(driver.undoing("a"))
    other = failure_of(driver)
    given = msgspec.json.decode(driver.hot(other).load(driver.header(other).input))
    assert given["compensation"] == {"state": "COMPLETE", "done": [{"reference": "a", "iteration": 0}], "left": []}


def test_a_terminated_workflow_has_no_failure_workflow(driver: Driver) -> None:
    """Not on manual terminate."""
    driver.register(workflow("mourn", simple("b")))
    begin(driver, simple("a"), failureWorkflow="mourn")
    driver.ok(TerminateWorkflow(*ONE, "stop", TerminateCompensation.UNSET))
    assert b"conductor.failure_workflow" not in driver.hot().load(driver.header().output)


@pytest.mark.parametrize("status", ["FAILED", "TERMINATED", "COMPLETED"])
def test_a_failure_workflow_is_started_when_a_terminate_task_says_so(driver: Driver, status: str) -> None:
    """By a TERMINATE task, FAILED or TERMINATED, which is the task that failed it."""
    driver.register(workflow("mourn", simple("b")))
    begin(driver, element("TERMINATE", "t", {"terminationStatus": status}), failureWorkflow="mourn")
    if status == "COMPLETED":
        assert b"conductor.failure_workflow" not in driver.hot().load(driver.header().output)
        return
    other = failure_of(driver)
    given = msgspec.json.decode(driver.hot(other).load(driver.header(other).input))
    assert (given["failureStatus"], given["failureTaskId"]) == (status, driver.latest("t").task_id)


def test_a_failure_workflow_is_started_when_a_sub_workflow_was_terminated(driver: Driver) -> None:
    """By the decider, which makes a workflow whose task is CANCELED TERMINATED."""
    driver.register(workflow("mourn", simple("b")), workflow("child", simple("a")))
    begin(driver, element("SUB_WORKFLOW", "s1", subWorkflowParam={"name": "child"}), failureWorkflow="mourn")
    driver.ok(TerminateWorkflow("default", driver.latest("s1").child, "stop", TerminateCompensation.UNSET))
    assert driver.header().status is WorkflowStatus.TERMINATED
    other = failure_of(driver)
    given = msgspec.json.decode(driver.hot(other).load(driver.header(other).input))
    assert given["failureTaskId"] == driver.latest("s1").task_id


def test_what_runs_again_is_the_same_on_every_replica(driver: Driver) -> None:
    """A replica that reads the rows goes on from a rerun as one that made it."""
    begin(driver, *fork([simple("a"), simple("b")], [simple("c")]), simple("d"))
    finish(driver, "c", "a", "b", "d")
    command = RerunWorkflow(*ONE, task_id=id_of(driver, "b"))
    twin = driver.restart()
    assert driver.do(command) == twin.do(command)
    assert driver.rows() == twin.rows()
    assert queries.output(driver.state, driver.hot(), driver.latest("c")) == b"{}"


# --- step by step


def test_a_join_waits_for_what_is_run_again_whatever_was_made_after_it(driver: Driver) -> None:
    """Branches that are complete stay; the JOIN waits for what is run again, also where it is older than a branch."""
    begin(driver, *fork([simple("a"), simple("b"), simple("e")], [simple("c"), simple("d")]))
    finish(driver, "c", "a", "b", "d", "e")
    assert driver.latest("j").sequence < driver.latest("d").sequence < driver.latest("e").sequence
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "e")))
    assert driver.latest("j").status is TaskStatus.IN_PROGRESS
    driver.give("e")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_rerun_counts_the_outputs_of_a_loop_once(driver: Driver) -> None:
    """The limit of a loop's output is of what it keeps: iterations that are made again do not count twice."""
    loop = element("DO_WHILE", "l", loopCondition="$.l['iteration'] < 3", loopOver=[simple("a")])
    begin(driver, loop)
    for number in (1, 2, 3):
        driver.give(f"a__{number}", b'{"v":"xxxxxxxxxx"}')
        driver.give("l", msgspec.json.encode({"result": number < 3}))
    size = driver.latest("l").assembled_bytes
    assert size
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "a__2")))
    for number in (2, 3):
        driver.give(f"a__{number}", b'{"v":"xxxxxxxxxx"}')
        driver.give("l", msgspec.json.encode({"result": number < 3}))
    assert (driver.header().status, driver.latest("l").assembled_bytes) == (WorkflowStatus.COMPLETED, size)


def test_a_dynamic_fork_whose_input_was_wrong_is_tried_again(driver: Driver) -> None:
    """Unsuccessful siblings are reset."""
    given = {"forkTaskName": "a", "forkTaskInputs": "${b.output.list}"}
    wrong = element("FORK_JOIN_DYNAMIC", "g", given, startDelay=1)
    begin(driver, *fork([wrong, element("JOIN", "k")], [simple("c"), simple("d")]))
    driver.give("c")
    driver.wait(1_000)
    assert driver.header().status is WorkflowStatus.FAILED
    driver.ok(RerunWorkflow(*ONE, task_id=id_of(driver, "c")))
    assert len(driver.hot().attempts_of["g"]) == 2
