"""One test per rule of idempotency keys; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine.choices import IdempotencyStrategy, IfExists, TerminateCompensation
from orchestrator.engine.commands import PauseWorkflow, RetryWorkflow, StartWorkflow, TerminateWorkflow
from orchestrator.engine.model import Table, WorkflowStatus
from orchestrator.engine.results import Code, Rejected, Started
from tests.engine.driver import Driver, simple, workflow

FAIL, RETURN, ON_RUNNING = IdempotencyStrategy


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.register(workflow("flow", simple("a", retryCount=0)), workflow("other", simple("a")))
    driver.register({**workflow("flow", simple("a")), "version": 2})
    driver.worker("s", "a", slots=10)
    return driver


def start(driver: Driver, key: str, strategy: IdempotencyStrategy, workflow_id: str = "", **fields: Any) -> Any:
    given: dict[str, Any] = {"namespace": "default", "name": "flow", "version": 1, "if_exists": IfExists.FAIL}
    command = StartWorkflow(
        **{**given, **fields}, workflow_id=workflow_id, input=b"{}", idempotency_key=key, idempotency=strategy
    )
    return driver.do(command)


def first(driver: Driver) -> str:
    started = start(driver, "k", FAIL)
    assert isinstance(started, Started)
    assert not started.existing
    assert driver.header(started.workflow_id).idempotency_key == "k"
    return started.workflow_id


def is_taken(result: Any) -> bool:
    return isinstance(result, Rejected) and (result.code, result.reason) == (
        Code.ALREADY_EXISTS,
        "IDEMPOTENCY_KEY_TAKEN",
    )


def test_fail_starts_once_whether_it_runs_or_has_ended(driver: Driver) -> None:
    """FAIL: starts only if there is no execution with the same key, whether running or completed."""
    workflow_id = first(driver)
    assert is_taken(start(driver, "k", FAIL))
    driver.give("a", workflow_id=workflow_id)
    assert driver.header(workflow_id).status is WorkflowStatus.COMPLETED
    assert is_taken(start(driver, "k", FAIL))


def test_return_existing_answers_the_one_there_is(driver: Driver) -> None:
    """RETURN_EXISTING: answers the id of the execution with the same key; starts one if there is none."""
    started = start(driver, "k", RETURN)
    assert not started.existing
    assert start(driver, "k", RETURN) == Started(started.workflow_id, existing=True)
    driver.give("a", workflow_id=started.workflow_id)
    assert start(driver, "k", RETURN) == Started(started.workflow_id, existing=True)


def test_fail_on_running_starts_another_after_the_end(driver: Driver) -> None:
    """FAIL_ON_RUNNING: starts only if no execution with the same key is running or paused; ended ones don't matter."""
    workflow_id = first(driver)
    assert is_taken(start(driver, "k", ON_RUNNING))
    driver.ok(PauseWorkflow("default", workflow_id))
    assert is_taken(start(driver, "k", ON_RUNNING))
    driver.ok(TerminateWorkflow("default", workflow_id, "", TerminateCompensation.SKIP))
    again = start(driver, "k", ON_RUNNING)
    assert isinstance(again, Started)
    assert again.workflow_id != workflow_id
    assert is_taken(start(driver, "k", ON_RUNNING))
    assert start(driver, "k", RETURN) == Started(again.workflow_id, existing=True)


def test_one_that_runs_again_is_running(driver: Driver) -> None:
    """An ended execution that an operator retries runs again: its key is that of a running one."""
    workflow_id = first(driver)
    driver.fail("a", workflow_id=workflow_id)
    assert driver.header(workflow_id).status is WorkflowStatus.FAILED
    driver.ok(RetryWorkflow("default", workflow_id))
    assert is_taken(start(driver, "k", ON_RUNNING))


def test_a_key_belongs_to_a_workflows_name(driver: Driver) -> None:
    """The key is scoped to a workflow's name: all its versions, and no other workflow or namespace."""
    first(driver)
    assert is_taken(start(driver, "k", FAIL, version=2))
    assert isinstance(start(driver, "k", FAIL, name="other", version=0), Started)
    assert isinstance(start(driver, "K", FAIL), Started)


def test_a_definition_that_travels_along_has_a_name_too(driver: Driver) -> None:
    """The name is the definition's, also of one that is not registered."""
    first(driver)
    document = msgspec.json.encode(workflow("flow", simple("a")))
    assert is_taken(start(driver, "k", FAIL, name="", document=document))
    refused = start(driver, "k", FAIL, name="", document=b"[]")
    assert isinstance(refused, Rejected)
    assert refused.reason == "DEFINITION_INVALID"


def test_the_key_is_looked_at_before_the_id(driver: Driver) -> None:
    """Beside a workflow id: a known key answers, whatever the id; a new key does not free an id that is taken."""
    assert start(driver, "k", RETURN, "mine") == Started("mine", existing=False)
    assert start(driver, "k", RETURN, "mine") == Started("mine", existing=True)
    assert start(driver, "k", RETURN, "another") == Started("mine", existing=True)
    assert is_taken(start(driver, "k", FAIL, "another"))
    refused = start(driver, "new", RETURN, "mine")
    assert isinstance(refused, Rejected)
    assert refused.reason == "WORKFLOW_ALREADY_EXISTS"
    assert isinstance(start(driver, "new", RETURN), Started)


def test_what_was_refused_takes_no_key(driver: Driver) -> None:
    """Only an execution has a key: a start that was refused leaves it free."""
    assert isinstance(start(driver, "k", FAIL, name="nothing", version=0), Rejected)
    assert isinstance(start(driver, "k", FAIL, priority=100), Rejected)
    first(driver)


def test_a_key_may_be_so_long(driver: Driver) -> None:
    """At most 200 characters."""
    assert isinstance(start(driver, "k" * 200, FAIL), Started)
    refused = start(driver, "k" * 201, FAIL)
    assert isinstance(refused, Rejected)
    assert refused.reason == "IDEMPOTENCY_KEY_TOO_LONG"


def test_keys_are_replicated(driver: Driver) -> None:
    """Keys are rows: a replica that was restored knows them, and that their executions have ended, cold ones too."""
    workflow_id = first(driver)
    start(driver, "l", FAIL, "open")
    driver.give("a", workflow_id=workflow_id)
    again = driver.restart(cold=True)
    assert is_taken(start(again, "k", FAIL))
    assert is_taken(start(again, "l", ON_RUNNING))
    assert isinstance(start(again, "k", ON_RUNNING), Started)


def test_without_a_key_nothing_is_kept(driver: Driver) -> None:
    """Who gives no key pays nothing for it."""
    start(driver, "", FAIL)
    start(driver, "", FAIL)
    assert not driver.state.resident[Table.IDEMPOTENCY]
