"""One test per rule of idempotency keys of sub-workflows; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits
from orchestrator.engine.choices import DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import DeleteWorkflow, RegisterWorkflows, RetryWorkflow, TerminateWorkflow
from orchestrator.engine.explain import explain
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.engine.results import Rejected
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import element, fork, text


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", *"abcde", "undo_a", slots=50)
    driver.register(workflow("child", simple("a", "undo_a", retryCount=0), simple("b", retryCount=0)))
    return driver


def begin(driver: Driver, *tasks: dict[str, Any], given: dict[str, Any] | None = None, workflow_id: str = "w") -> None:
    driver.register(workflow("flow", *tasks))
    assert not isinstance(driver.start("flow", workflow_id, msgspec.json.encode(given or {})), Rejected)


def child_of(driver: Driver, reference: str = "s1", workflow_id: str = "w") -> str:
    return driver.latest(reference, workflow_id).child


KEY = "order-7"


def keyed(strategy: str = "", reference: str = "s1", key: str = KEY, **fields: Any) -> dict[str, Any]:
    named = {"name": "child", "idempotencyKey": key, **({"idempotencyStrategy": strategy} if strategy else {})}
    return element("SUB_WORKFLOW", reference, subWorkflowParam=named, **fields)


def there(driver: Driver) -> str:
    """An execution of the child that a caller has started with the key."""
    driver.start("child", "there", idempotency_key=KEY)
    return "there"


def finish(driver: Driver, workflow_id: str, output: bytes = b'{"r":1}') -> None:
    driver.give("a", workflow_id=workflow_id)
    driver.give("b", output, workflow_id=workflow_id)


@pytest.mark.parametrize("strategy", ["", "FAIL", "FAIL_ON_RUNNING"])
def test_a_key_that_is_taken_fails_the_task(driver: Driver, strategy: str) -> None:
    """FAIL, which is the default, and FAIL_ON_RUNNING while it runs: the task fails and says which one it was."""
    there(driver)
    begin(driver, keyed(strategy))
    attempt = driver.latest("s1")
    assert (attempt.status, attempt.error_code, attempt.child) == (TaskStatus.FAILED, "IDEMPOTENCY_KEY_TAKEN", "")
    assert "'there'" in attempt.reason
    assert (driver.header().status, driver.header("there").status) == (WorkflowStatus.FAILED, WorkflowStatus.RUNNING)


def test_a_key_whose_execution_has_ended_starts_another_on_running(driver: Driver) -> None:
    """FAIL_ON_RUNNING: what has ended does not matter; so a retry of the task starts another child."""
    begin(driver, keyed("FAIL_ON_RUNNING", retryCount=1))
    first = child_of(driver)
    assert driver.header(first).idempotency_key == KEY
    driver.fail("a", workflow_id=first)
    driver.wait(60_000)
    second = child_of(driver)
    assert second != first
    finish(driver, second)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_key_may_come_from_an_expression(driver: Driver) -> None:
    """idempotencyKey and idempotencyStrategy are resolved like any input."""
    begin(driver, keyed("${workflow.input.strategy}", key="${workflow.input.key}"), given={"key": "x", "strategy": ""})
    assert driver.header(child_of(driver)).idempotency_key == "x"


def test_a_strategy_that_is_none_is_refused(driver: Driver) -> None:
    refused = driver.do(
        RegisterWorkflows("default", (msgspec.json.encode(workflow("flow", keyed("SOMETIMES"))),), True)
    )
    assert isinstance(refused, Rejected)
    assert dict(refused.metadata)["path"] == "tasks[0].subWorkflowParam.idempotencyStrategy"
    begin(driver, keyed("${workflow.input.strategy}"), given={"strategy": "SOMETIMES"})
    assert driver.latest("s1").status is TaskStatus.FAILED


def test_the_one_there_is_is_waited_for(driver: Driver) -> None:
    """RETURN_EXISTING: the task ends as the execution ends that was started with the key, and has its output."""
    there(driver)
    begin(driver, keyed("RETURN_EXISTING"), simple("c"))
    attempt = driver.latest("s1")
    assert (attempt.status, attempt.child) == (TaskStatus.IN_PROGRESS, "there")
    assert driver.header("there").parent == ""
    driver = driver.restart()
    finish(driver, "there")
    assert text(driver, "s1") == {"r": 1, "subWorkflowId": "there"}
    assert driver.latest("c").status is TaskStatus.IN_PROGRESS
    assert driver.header("there").joined_by == ()


def test_one_that_has_ended_is_not_waited_for(driver: Driver) -> None:
    there(driver)
    driver.fail("a", workflow_id="there")
    begin(driver, keyed("RETURN_EXISTING"))
    attempt = driver.latest("s1")
    assert (attempt.status, driver.header().status) == (TaskStatus.FAILED, WorkflowStatus.FAILED)
    assert attempt.reason.startswith("Sub workflow there failure reason: ")


def test_several_wait_for_the_same(driver: Driver) -> None:
    """The first of them starts it, and it is a part of that one's execution; the others wait for it."""
    begin(driver, *fork([keyed("RETURN_EXISTING")], [keyed("RETURN_EXISTING", "s2")]))
    driver.start("flow", "v")
    child = child_of(driver)
    assert [child_of(driver, "s2"), child_of(driver, "s1", "v"), child_of(driver, "s2", "v")] == [child] * 3
    finish(driver, child)
    assert (driver.header().status, driver.header("v").status) == (WorkflowStatus.COMPLETED, WorkflowStatus.COMPLETED)


def test_who_only_waits_does_not_end_it_undo_it_or_delete_it(driver: Driver) -> None:
    """It is another's: nothing that becomes of the one that waits concerns it."""
    there(driver)
    begin(driver, *fork([keyed("RETURN_EXISTING")], [simple("d", retryCount=0)]))
    driver.fail("d")
    assert driver.header().status is WorkflowStatus.FAILED
    assert (driver.header("there").status, driver.header("there").joined_by) == (WorkflowStatus.RUNNING, ())
    driver.wait(1)
    driver.ok(DeleteWorkflow("default", "w", DeleteEffects.KEEP))
    finish(driver, "there")
    begin(driver, keyed("RETURN_EXISTING"), simple("d", retryCount=0), workflow_id="v")
    driver.fail("d", workflow_id="v")
    assert driver.header("v").status is WorkflowStatus.FAILED
    assert driver.header("there").status is WorkflowStatus.COMPLETED
    driver.wait(1)
    driver.ok(DeleteWorkflow("default", "v", DeleteEffects.KEEP))
    assert not driver.is_gone("there")


def test_a_retry_does_not_retry_what_is_anothers(driver: Driver) -> None:
    """resumeSubworkflowTasks is for the children of the execution itself."""
    there(driver)
    begin(driver, keyed("RETURN_EXISTING"))
    driver.fail("a", workflow_id="there")
    assert driver.header().status is WorkflowStatus.FAILED
    driver.ok(RetryWorkflow("default", "w", resume_sub_workflows=True))
    assert driver.header("there").status is WorkflowStatus.FAILED
    assert driver.latest("s1").retry_count == 0
    assert len(driver.hot().attempts_of["s1"]) == 2


@pytest.mark.parametrize("depth", [1, 2])
def test_nothing_waits_for_itself(driver: Driver, depth: int) -> None:
    """A sub-workflow that would be one of those around it fails its task."""
    named = {"name": "ring", "idempotencyKey": KEY, "idempotencyStrategy": "RETURN_EXISTING"}
    inner = element("SUB_WORKFLOW", "s1", subWorkflowParam=named)
    between = element("SUB_WORKFLOW", "s0", subWorkflowParam={"workflowDefinition": workflow("between", inner)})
    driver.register(workflow("ring", inner if depth == 1 else between))
    driver.start("ring", "w", idempotency_key=KEY)
    waiting = "w" if depth == 1 else child_of(driver, "s0")
    attempt = driver.latest("s1", waiting)
    assert (attempt.status, attempt.error_code) == (TaskStatus.FAILED, "WAITS_FOR_ITSELF")
    assert driver.header().status is WorkflowStatus.FAILED


def test_two_do_not_wait_for_each_other(driver: Driver) -> None:
    """Who would wait for one that waits for it, or for its parent, fails its task."""
    def other(key: str) -> dict[str, Any]:
        named = {"name": "ring", "idempotencyKey": key, "idempotencyStrategy": "RETURN_EXISTING"}
        return element("SUB_WORKFLOW", "s1", subWorkflowParam=named)

    driver.register(workflow("ring", simple("a"), other("${workflow.input.key}")))
    driver.start("ring", "w", b'{"key":"v"}', idempotency_key="w")
    driver.start("ring", "v", b'{"key":"w"}', idempotency_key="v")
    driver.give("a")
    assert driver.latest("s1").child == "v"
    assert said(driver) == "the workflow v, which was started by others with the same idempotency key"
    driver.give("a", workflow_id="v")
    assert driver.latest("s1", "v").error_code == "WAITS_FOR_ITSELF"
    assert (driver.header("v").status, driver.header().status) == (WorkflowStatus.FAILED, WorkflowStatus.FAILED)
    assert driver.header().joined_by == driver.header("v").joined_by == ()


def test_a_grandchild_does_not_wait_for_the_grandparent(driver: Driver) -> None:
    """The same where what it would wait for is further out, and not the outermost."""
    named = {"name": "ring", "idempotencyKey": KEY, "idempotencyStrategy": "RETURN_EXISTING"}
    inner = element("SUB_WORKFLOW", "s1", subWorkflowParam=named)
    between = element("SUB_WORKFLOW", "s0", subWorkflowParam={"workflowDefinition": workflow("between", inner)})
    driver.register(workflow("ring", between))
    begin(driver, element("SUB_WORKFLOW", "s", subWorkflowParam={**named, "idempotencyStrategy": "FAIL"}))
    ring = child_of(driver, "s")
    attempt = driver.latest("s1", child_of(driver, "s0", ring))
    assert (attempt.status, attempt.error_code) == (TaskStatus.FAILED, "WAITS_FOR_ITSELF")
    assert driver.header().status is WorkflowStatus.FAILED


def said(driver: Driver) -> str:
    [one] = explain(driver.state, driver.hot())
    return one.waits_for


def test_so_many_wait_for_one(driver: Driver) -> None:
    there(driver)
    driver.register(workflow("flow", keyed("RETURN_EXISTING")))
    for number in range(limits.JOINED + 1):
        driver.start("flow", f"w{number}")
    assert driver.latest("s1", f"w{limits.JOINED}").error_code == "TOO_MANY_WAIT"
    assert len(driver.header("there").joined_by) == limits.JOINED
    driver.ok(TerminateWorkflow("default", "w0", "enough", TerminateCompensation.SKIP))
    driver.start("flow", "late")
    assert driver.latest("s1", "late").status is TaskStatus.IN_PROGRESS
