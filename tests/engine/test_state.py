"""The hot set, what is unflushed, what is owed, and the views: everything that reads the state from outside."""

from __future__ import annotations

import pytest

from orchestrator.engine import pending, queries, state
from orchestrator.engine.choices import IfExists
from orchestrator.engine.choices import TerminateCompensation as Compensation
from orchestrator.engine.commands import Checkpoint, RaiseBehaviour, StartWorkflow, TerminateWorkflow
from orchestrator.engine.effects import Cancel, Deliver, TaskQueued
from orchestrator.engine.model import Table
from orchestrator.engine.results import Checkpointed, Done
from tests.engine.driver import Driver, simple, workflow


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    branches = [[simple("a", "undo")], [simple("b")]]
    fork = {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": branches}
    join = {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["a", "b"]}
    driver.register(workflow("one", simple("a")), workflow("two", fork, join))
    return driver


def test_changes_are_taken_once_and_only_what_the_database_needs(driver: Driver) -> None:
    driver.worker("s", "a")
    driver.start("one")
    changes = driver.state.take_changes()
    marks = [(table, key) for table, key, _, _ in changes]
    assert len(marks) == len(set(marks))
    assert [existed for table, _, _, existed in changes if table in (Table.EXECUTION, Table.LEASE)] == [False, False]
    # The READY row came and went.
    assert Table.READY not in [table for table, _, _, _ in changes]
    assert driver.state.take_changes() == []
    driver.give("a")
    leases = [(row, existed) for table, _, row, existed in driver.state.take_changes() if table is Table.LEASE]
    assert leases == [(None, True)]


def test_an_execution_with_unflushed_changes_stays_hot(driver: Driver) -> None:
    driver.start("one")
    key = ("default", "w")
    assert not driver.state.evict(key)
    assert driver.state.eviction_candidates(9) == []
    driver.flush()
    assert driver.state.hot_bytes > 0
    assert driver.state.evict(key)
    assert (driver.state.hot_count, driver.state.hot_bytes) == (0, 0)
    assert driver.state.execution(key) is None
    assert driver.state.evict(key)


def test_ended_executions_go_first_then_the_least_recently_touched(driver: Driver) -> None:
    driver.worker("s", "a", slots=9)
    for name in ("w1", "w2", "w3", "w4"):
        driver.start("one", name)
    driver.give("a", workflow_id="w3")
    driver.ok(TerminateWorkflow("default", "w1", "stop", Compensation.SKIP))
    driver.flush()
    driver.state.touch(("default", "w2"))
    names = [key[1] for key in driver.state.eviction_candidates(9)]
    assert names == ["w3", "w1", "w4", "w2"]
    assert len(driver.state.eviction_candidates(2)) == 2


def test_a_new_leader_derives_what_is_owed(driver: Driver) -> None:
    driver.worker("s", "a", "b", slots=9)
    driver.start("two")
    driver.start("one", "stopped")
    driver.ok(TerminateWorkflow("default", "stopped", "stop", Compensation.SKIP))
    driver.ok(TerminateWorkflow("default", "w", "stop", Compensation.RUN))
    driver.register(workflow("alone", simple("nobody")))
    driver.start("alone", "waiting")
    owed = pending.effects_owed(driver.restart(cold=True).state)
    delivered = [effect.token for effect in owed if isinstance(effect, Deliver)]
    cancelled = [(effect.token, effect.fenced) for effect in owed if isinstance(effect, Cancel)]
    assert (delivered, cancelled) == ([1, 2], [(1, False), (2, False), (3, True)])
    assert [effect.name for effect in owed if isinstance(effect, TaskQueued)] == ["nobody"]


def test_what_is_owed_is_what_the_effects_said(driver: Driver) -> None:
    driver.worker("s", "a", "b", slots=1)
    driver.start("two")
    said = [effect for effect in driver.effects if isinstance(effect, Deliver | TaskQueued)]
    assert sorted(map(repr, pending.effects_owed(driver.state))) == sorted(map(repr, said))


def test_heaps_do_not_keep_what_was_disarmed(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_STALE_SLACK", 8)
    driver.check = False
    driver.register(workflow("timed", simple("a"), timeoutSeconds=9_999, timeoutPolicy="TIME_OUT_WF"))
    for number in range(300):
        driver.start("timed", f"w{number}")
        driver.ok(TerminateWorkflow("default", f"w{number}", "stop", Compensation.SKIP))
    assert len(driver.state._due) <= 10
    assert sum(len(heap) for heap in driver.state.queues._queues.values()) <= 70


def test_definitions_can_be_read_back(driver: Driver) -> None:
    assert queries.workflow_definition(driver.state, "default", "one", 0) is not None
    assert queries.workflow_definition(driver.state, "default", "one", 2) is None
    assert queries.workflow_definition(driver.state, "other", "one", 0) is None
    assert [row.name for row in queries.workflow_definitions(driver.state, "default")] == ["one", "two"]
    driver.register_task(name="a", retryCount=1)
    assert [row.name for row in queries.task_definitions(driver.state, "default")] == ["a"]
    assert queries.task_definition(driver.state, "default", "b") is None
    driver.start("one")
    known = queries.workflow_definition(driver.state, "default", "one", 1)
    assert known is not None
    assert queries.execution_document(driver.state, driver.hot()) == known.document


def test_the_highest_version_is_started_unless_one_is_named(driver: Driver) -> None:
    for version in (10, 9):
        driver.register({**workflow("one", simple("a")), "version": version})
    driver.start("one", "latest")
    assert driver.header("latest").version == 10
    driver.ok(StartWorkflow("default", "one", 9, "nine", IfExists.FAIL, b"{}"))
    assert driver.header("nine").version == 9


def test_namespaces_are_apart(driver: Driver) -> None:
    missing = driver.do(StartWorkflow("other", "one", 0, "w", IfExists.FAIL, b"{}"))
    assert missing.reason == "WORKFLOW_DEFINITION_NOT_FOUND"


def test_a_checkpoint_answers_the_chain_so_far(driver: Driver) -> None:
    before = driver.machine.chain
    assert driver.do(Checkpoint()) == Checkpointed(driver.index, before)
    assert driver.state.meta.checkpoint_index == driver.index
    assert driver.machine.chain != before


def test_the_behaviour_level_only_rises(driver: Driver) -> None:
    assert driver.do(RaiseBehaviour(2)) == Done()
    assert driver.do(RaiseBehaviour(1)).reason == "BEHAVIOUR_LEVEL_LOWER"
    assert driver.state.meta.behaviour_level == 2


def test_one_session_is_told_what_it_is_owed(driver: Driver) -> None:
    driver.worker("s", "a")
    driver.worker("t", "b")
    driver.start("two")
    owed = [pending.effects_owed_to(driver.state, name) for name in ("s", "t", "nobody")]
    assert [[effect.token for effect in one] for one in owed] == [[1], [2], []]
