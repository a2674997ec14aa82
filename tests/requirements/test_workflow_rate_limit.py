"""One test per rule of a workflow's rateLimitConfig; the rule is its docstring."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import (
    MigrateWorkflow,
    PauseWorkflow,
    RestartWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
    SignalWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.definitions.parse import validate_workflow
from orchestrator.engine.model import CompensationState, Table, TaskStatus, WorkflowStatus
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from orchestrator.rpc import views
from tests.engine.driver import Driver, simple, workflow


def limited(driver: Driver, at_once: int, key: str = "", name: str = "flow", **fields: Any) -> None:
    config = {"rateLimitKey": key, "concurrentExecLimit": at_once}
    driver.register(workflow(name, simple("a", retryCount=0), rateLimitConfig=config, **fields))


def start(driver: Driver, *ids: str, name: str = "flow", given: bytes = b"{}", **fields: Any) -> None:
    for workflow_id in ids:
        assert type(driver.start(name, workflow_id, given, **fields)).__name__ == "Started"


def inside(driver: Driver) -> list[str]:
    """Those that have begun and have not ended."""
    hot = driver.state.hot_executions()
    return [key[1] for key, held in hot if held.tasks and held.execution.status not in WORKFLOW_TERMINAL]


def end(driver: Driver, workflow_id: str) -> None:
    driver.ok(TerminateWorkflow("default", workflow_id, "", TerminateCompensation.SKIP))


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "undo", slots=50)
    return driver


def test_so_many_run_and_the_rest_wait_in_order(driver: Driver) -> None:
    """At most concurrentExecLimit executions run under a key; the others are let in in the order of their start."""
    limited(driver, 2)
    start(driver, "e", "d", "c", "b")
    assert inside(driver) == ["d", "e"]
    driver.give("a", workflow_id="d")
    assert inside(driver) == ["c", "e"]
    driver.give("a", workflow_id="e")
    assert inside(driver) == ["b", "c"]
    driver.give("a", workflow_id="b")
    driver.give("a", workflow_id="c")
    assert not driver.state.resident[Table.WORKFLOW_GROUP]


def test_who_waits_is_running_has_nothing_scheduled_and_says_why(driver: Driver) -> None:
    """A waiting execution is RUNNING, nothing of it is scheduled, and a field says what it waits for."""
    limited(driver, 1, "eu")
    start(driver, "one", "two")
    assert driver.header("two").status is WorkflowStatus.RUNNING
    assert not driver.hot("two").tasks
    shown = views.summary(driver.header("two"))
    assert shown.waiting_for == "a place under the rate limit key 'eu'"
    assert views.summary(driver.header("one")).waiting_for == ""
    driver.give("a", workflow_id="one")
    assert views.summary(driver.header("two")).waiting_for == ""


def test_the_key_is_resolved_from_input_and_correlation_id(driver: Driver) -> None:
    """The key may be an expression over workflow.input and workflow.correlationId: each value has its own places."""
    limited(driver, 1, "${workflow.input.region}-${workflow.correlationId}")
    start(driver, "a1", "a2", given=b'{"region":"eu"}', correlation_id="x")
    start(driver, "b1", given=b'{"region":"us"}', correlation_id="x")
    start(driver, "c1", given=b'{"region":"eu"}', correlation_id="y")
    assert inside(driver) == ["a1", "b1", "c1"]
    assert driver.header("a2").group_key == "eu-x"


def test_a_key_need_not_be_a_text(driver: Driver) -> None:
    """What is no string counts by its JSON text; what is missing is null, one key like any other."""
    limited(driver, 1, "${workflow.input.n}")
    start(driver, "a1", "a2", given=b'{"n":5}')
    start(driver, "b1", "b2")
    assert inside(driver) == ["a1", "b1"]
    assert [driver.header(name).group_key for name in ("a2", "b2")] == ["5", "null"]


def test_a_key_belongs_to_a_workflows_name(driver: Driver) -> None:
    """The same key in another workflow is another one; all versions of a workflow share theirs."""
    limited(driver, 1, "k")
    limited(driver, 1, "k", name="other")
    start(driver, "one")
    start(driver, "two", name="other")
    driver.register({**workflow("flow", simple("a"), rateLimitConfig={"concurrentExecLimit": 1, "rateLimitKey": "k"}),
                     "version": 2})
    start(driver, "three")
    assert inside(driver) == ["one", "two"]


def test_a_limit_of_zero_is_none(driver: Driver) -> None:
    """concurrentExecLimit 0, or no rateLimitConfig: everything runs."""
    limited(driver, 0, "k")
    start(driver, "one", "two", "three")
    assert len(inside(driver)) == 3


def test_the_key_knows_no_tasks() -> None:
    """It is resolved before any task is made: a reference to one is refused at its path."""
    config = {"rateLimitKey": "${a.output.x}", "concurrentExecLimit": 1}
    with pytest.raises(DefinitionInvalid) as refused:
        validate_workflow(msgspec.json.encode(workflow("flow", simple("a"), rateLimitConfig=config)))
    assert refused.value.path == "rateLimitConfig.rateLimitKey"
    with pytest.raises(DefinitionInvalid) as unknown:
        validate_workflow(msgspec.json.encode(workflow("flow", simple("a"), rateLimitConfig={"x": 1})))
    assert unknown.value.path == "rateLimitConfig.x"


def test_every_end_hands_the_place_on(driver: Driver) -> None:
    """Completed, failed, terminated, timed out: the next one is let in by the same entry."""
    limited(driver, 1, timeoutSeconds=10, timeoutPolicy="TIME_OUT_WF")
    start(driver, "a1", "a2", "a3")
    driver.fail("a", workflow_id="a1")
    assert inside(driver) == ["a2"]
    end(driver, "a2")
    assert inside(driver) == ["a3"]
    start(driver, "a4")
    driver.wait(5_000)
    start(driver, "a5")
    driver.wait(5_000)
    assert [driver.header(name).status.name for name in ("a3", "a4", "a5")] == ["TIMED_OUT", "TIMED_OUT", "RUNNING"]
    assert inside(driver) == ["a5"]


def test_who_leaves_the_queue_takes_no_place(driver: Driver) -> None:
    """An execution that ends while it waits is passed over."""
    limited(driver, 1)
    start(driver, "a1", "a2", "a3")
    end(driver, "a2")
    assert driver.header("a2").status is WorkflowStatus.TERMINATED
    assert inside(driver) == ["a1"]
    end(driver, "a1")
    assert inside(driver) == ["a3"]


def test_a_paused_execution_keeps_its_place_or_its_turn(driver: Driver) -> None:
    """Paused is not ended; one that is paused while it waits is let in in its turn, and begins when resumed."""
    limited(driver, 1)
    start(driver, "a1", "a2", "a3")
    for name in ("a1", "a2"):
        driver.ok(PauseWorkflow("default", name))
    assert inside(driver) == ["a1"]
    end(driver, "a1")
    assert inside(driver) == []
    assert driver.header("a2").has_place
    driver.ok(ResumeWorkflow("default", "a2"))
    assert inside(driver) == ["a2"]


def test_one_that_is_resumed_before_its_turn_still_waits(driver: Driver) -> None:
    """Resuming gives no place."""
    limited(driver, 1)
    start(driver, "a1", "a2")
    driver.ok(PauseWorkflow("default", "a2"))
    driver.ok(ResumeWorkflow("default", "a2"))
    driver.ok(SignalWorkflow("default", "a2", "go", b"{}"))
    assert inside(driver) == ["a1"]


def test_a_retry_queues_up_again(driver: Driver) -> None:
    """Who has ended has given its place away: tried again, it waits for another one."""
    limited(driver, 1)
    start(driver, "a1", "a2")
    driver.fail("a", workflow_id="a1")
    driver.ok(RetryWorkflow("default", "a1"))
    assert driver.header("a1").status is WorkflowStatus.RUNNING
    assert inside(driver) == ["a1", "a2"]  # with the attempt that failed, and none since
    assert driver.latest("a", "a1").retry_count == 0
    assert not driver.hot("a1").open
    driver.give("a", workflow_id="a2")
    driver.give("a", workflow_id="a1")
    assert driver.header("a1").status is WorkflowStatus.COMPLETED


def test_a_restart_queues_up_again(driver: Driver) -> None:
    """So does who is restarted, under the limit and key of the definition that it has then."""
    limited(driver, 1)
    start(driver, "a1", "a2")
    end(driver, "a1")
    driver.ok(RestartWorkflow("default", "a1", use_latest_definitions=False))
    assert inside(driver) == ["a2"]
    end(driver, "a1")
    limited(driver, 2)
    driver.ok(RestartWorkflow("default", "a1", use_latest_definitions=True))
    assert inside(driver) == ["a1", "a2"]


def test_an_execution_keeps_its_group_until_it_runs_again(driver: Driver) -> None:
    """Moved to another definition it keeps its place; tried again, what that definition says holds."""
    limited(driver, 1)
    start(driver, "a1", "a2")
    driver.register({**workflow("flow", simple("a", retryCount=0)), "version": 2})
    driver.ok(MigrateWorkflow("default", "a1", 2))
    assert driver.header("a2").waits
    driver.fail("a", workflow_id="a1")
    assert inside(driver) == ["a2"]
    driver.ok(RetryWorkflow("default", "a1"))
    assert driver.latest("a", "a1").status is TaskStatus.IN_PROGRESS
    assert driver.latest("a", "a2").status is TaskStatus.IN_PROGRESS


def test_a_compensation_keeps_the_place_and_waits_for_none(driver: Driver) -> None:
    """Undoing is running: the place is free when it is over. What is to be undone is not kept waiting for a place."""
    config = {"rateLimitKey": "k", "concurrentExecLimit": 1}
    driver.register(workflow("flow", simple("a", "undo"), simple("nobody"), rateLimitConfig=config))
    start(driver, "a1", "a2")
    driver.give("a", workflow_id="a1")
    driver.ok(TerminateWorkflow("default", "a1", "", TerminateCompensation.RUN))
    assert driver.header("a1").compensation is CompensationState.RUNNING
    assert not driver.hot("a2").tasks
    driver.give(driver.undoing("a", "a1"), workflow_id="a1")
    assert inside(driver) == ["a2"]
    driver.give("a", workflow_id="a2")
    end(driver, "a2")
    start(driver, "a3")
    driver.ok(RetryWorkflow("default", "a2"))
    assert driver.header("a2").waits
    driver.ok(TerminateWorkflow("default", "a2", "", TerminateCompensation.RUN))
    driver.give(driver.undoing("a", "a2"), workflow_id="a2")
    assert driver.header("a2").status is WorkflowStatus.TERMINATED
    assert inside(driver) == ["a3"]


def play(seed: int, restart_every: int) -> Driver:
    """Random work; checked after every step: never more than the limit, and nobody waits while there is a place."""
    rng = random.Random(seed)
    driver = Driver()
    at_once = rng.randint(1, 3)
    limited(driver, at_once, "${workflow.input.k}")
    driver.worker("s", "a", slots=20)
    ids: list[str] = []
    for number in range(50):
        roll, one = rng.random(), ("default", rng.choice(ids or ["none"]))
        if roll < 0.4:
            ids.append(f"w{number}")
            start(driver, ids[-1], given=b'{"k":%d}' % rng.randint(0, 1))
        elif roll < 0.7:
            for _, lease in sorted(driver.state.leases.items()):
                if lease.workflow_id == one[1] and not lease.fenced:
                    rng.choice((driver.give, driver.fail))("a", workflow_id=one[1])
        else:
            orders = (PauseWorkflow(*one), ResumeWorkflow(*one), RetryWorkflow(*one), SignalWorkflow(*one, "x", b"{}"))
            driver.do(rng.choice((*orders, TerminateWorkflow(*one, "", TerminateCompensation.SKIP))))
        for _, group in sorted(driver.state.resident[Table.WORKFLOW_GROUP].items()):
            assert group.running <= at_once
        if restart_every and number % restart_every == 0:
            driver = driver.restart()
    return driver


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), every=st.integers(1, 5))
def test_the_limit_holds_across_a_failover_and_nobody_is_stuck(seed: int, every: int) -> None:
    """Exact on a replica that was restored at any point, which goes on alike; at last everybody has had a turn."""
    plain, driver = play(seed, 0), play(seed, every)
    assert driver.machine.chain == plain.machine.chain
    for _ in range(200):
        for (token,) in sorted(driver.state.leases):
            lease = driver.state.leases[token,]
            driver.give("a", workflow_id=lease.workflow_id, token=token)
        for key, hot in driver.state.hot_executions():
            if hot.execution.status is WorkflowStatus.PAUSED:
                driver.ok(ResumeWorkflow(*key))
    assert all(hot.execution.status in WORKFLOW_TERMINAL for _, hot in driver.state.hot_executions())
    assert not driver.state.resident[Table.WORKFLOW_GROUP]
    assert not driver.state.waiting
