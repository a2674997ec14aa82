"""Executions go away whole: nobody sees half of one, and what was there before does not touch what comes after."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine import limits, machine, step
from orchestrator.engine.choices import DeleteEffects, IfExists, PurgeRule, TerminateCompensation
from orchestrator.engine.commands import (
    UNCHANGED,
    AbandonCompensation,
    DeleteWorkflow,
    OpenSession,
    PauseWorkflow,
    PurgeExecutions,
    PurgeItem,
    ReleaseTask,
    RetryWorkflow,
    SetRetention,
    SignalWorkflow,
    StartWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.effects import ExecutionDeleted
from orchestrator.engine.model import EXECUTION_TABLES, CompensationState, SessionKind, Table, WorkflowStatus
from orchestrator.engine.purging import retention
from orchestrator.engine.resident import Retention
from orchestrator.engine.results import Code, Rejected
from tests.engine.driver import Driver, simple, workflow

ONE = ("default", "w")
KEEP = DeleteWorkflow(*ONE, DeleteEffects.KEEP)
STOP = TerminateWorkflow(*ONE, "stop", TerminateCompensation.SKIP)
AGAIN = StartWorkflow("default", "saga", 0, "w", IfExists.FAIL, b"{}")
BIG = b'{"v":"' + b"x" * 5000 + b'"}'


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", "undo", slots=9)
    driver.register(workflow("saga", simple("a", "undo"), simple("b", retryCount=0)))
    return driver


def run(driver: Driver, workflow_id: str = "w", name: str = "saga") -> None:
    """To its end, with a record and rows of every kind."""
    assert not isinstance(driver.start(name, workflow_id, BIG), Rejected)
    driver.wait(5)
    driver.ok(SignalWorkflow("default", workflow_id, "go", BIG))
    driver.give("a", BIG, workflow_id=workflow_id)
    driver.give("b", BIG, workflow_id=workflow_id)
    driver.wait(5)


def rows_of(driver: Driver, workflow_id: str = "w") -> list[Any]:
    return [mark for mark in driver.rows() if mark[0] in EXECUTION_TABLES and mark[1][1] == workflow_id]


def purge(driver: Driver, *ids: str, rule: PurgeRule = PurgeRule.AGE, observed: int = 0) -> None:
    items = [PurgeItem("default", one, driver.header(one).ended_ms, rule, observed) for one in ids]
    driver.ok(PurgeExecutions(tuple(items)))


def exists(driver: Driver, workflow_id: str = "w") -> bool:
    return driver.state.execution(("default", workflow_id)) is not None


# --- what goes


def test_nothing_is_left_of_a_deleted_execution(driver: Driver) -> None:
    before = driver.rows()
    run(driver)
    assert {mark[0] for mark in rows_of(driver)} >= {Table.TASK, Table.RECORD, Table.SIGNAL, Table.PAYLOAD}
    driver.ok(KEEP)
    assert set(driver.rows()) == set(before)
    assert ExecutionDeleted(*ONE) in driver.effects


def test_a_definition_is_forgotten_with_the_last_execution_of_it(driver: Driver) -> None:
    run(driver, "w")
    run(driver, "w2")
    driver.ok(KEEP)
    [bundle] = driver.state.resident[Table.BUNDLE].values()
    assert bundle.executions == 1
    driver.ok(DeleteWorkflow("default", "w2", DeleteEffects.KEEP))
    assert not driver.state.resident[Table.BUNDLE]
    assert not driver.state.plans


def test_its_id_may_be_used_again_and_its_keys_are_others(driver: Driver) -> None:
    run(driver)
    key = driver.latest("a").idempotency_key
    driver.ok(KEEP)
    run(driver)
    assert driver.latest("a").idempotency_key != key


@pytest.mark.parametrize("rows", [1, 1000])
def test_its_idempotency_key_may_be_used_again(driver: Driver, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROWS_REMOVED_PER_STEP", rows)
    assert not isinstance(driver.start("saga", idempotency_key="k"), Rejected)
    driver.ok(STOP)
    driver.wait(1)
    driver.ok(KEEP)
    assert not driver.state.resident[Table.IDEMPOTENCY]


def test_one_that_was_started_in_this_millisecond_is_not_deleted(driver: Driver) -> None:
    """Another one with its id would have its idempotency keys."""
    driver.ok(AGAIN)
    driver.ok(STOP)
    refused = driver.do(KEEP)
    assert (refused.code, refused.reason) == (Code.RESOURCE_EXHAUSTED, "WORKFLOW_JUST_STARTED")
    driver.wait(1)
    driver.ok(KEEP)


@pytest.mark.parametrize("flushed", [True, False])
def test_it_is_not_read_again_from_a_database_that_does_not_know_yet(driver: Driver, flushed: bool) -> None:
    run(driver)
    driver.flush()
    assert driver.state.evict(ONE)
    driver.ok(KEEP)
    if flushed:
        driver.flush()
    assert driver.state.is_known(ONE) is not flushed
    assert driver.do(PauseWorkflow(*ONE)).reason == "WORKFLOW_NOT_FOUND"
    run(driver)
    assert rows_of(driver.restart()) == rows_of(driver)


# --- step by step


def test_many_rows_go_step_by_step_and_nobody_sees_a_part(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROWS_REMOVED_PER_STEP", 2)
    seen: list[int] = []
    taken = machine.Machine.apply_message

    def looked_at(self: machine.Machine) -> Any:
        outcome = taken(self)
        if (hot := self.state.execution(ONE)) is not None:
            assert hot.execution.deleted
            seen.append(len(hot.tasks) + len(hot.payloads) + len(hot.records) + len(hot.signals))
            result = self.apply(PauseWorkflow(*ONE)).result
            assert isinstance(result, Rejected)
            assert result.reason == "WORKFLOW_NOT_FOUND"
        return outcome

    run(driver)
    total = len(rows_of(driver)) - 1
    monkeypatch.setattr(machine.Machine, "apply_message", looked_at)
    _, refused = driver.entry(KEEP, AGAIN)
    assert (refused.code, refused.reason) == (Code.RESOURCE_EXHAUSTED, "WORKFLOW_DELETING")
    assert seen == list(range(total - 2, -1, -2))
    assert not rows_of(driver)
    driver.ok(AGAIN)


def test_it_goes_on_after_a_restart(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROWS_REMOVED_PER_STEP", 2)
    run(driver)
    driver.index += 1
    driver.machine.begin_entry(driver.index, 1, driver.now_ms)
    driver.machine.apply(KEEP)
    driver.machine.apply_message()
    driver.machine.end_entry(b"")
    other = driver.restart()
    other.wait(0)
    other.entry()
    assert not rows_of(other)
    assert not other.state.messages


@pytest.mark.patches_engine
def test_a_removal_that_breaks_leaves_every_row_and_their_order(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(driver)
    driver.ok(SetRetention(1, 0, 0))
    write = step.Step.write
    for allowed in range(30):
        left = [allowed]

        def failing(one: step.Step, table: Table, key: Any, row: Any, left: list[int] = left) -> None:
            if table is not Table.MESSAGE:
                if left[0] == 0:
                    raise KeyError("broken")
                left[0] -= 1
            write(one, table, key, row)

        other = driver.restart()
        other.check = False
        before = {mark: row for mark, row in other.rows().items() if mark[0] is not Table.META}
        with monkeypatch.context() as patched:
            patched.setattr(step.Step, "write", failing)
            purge(other, "w")
        if not exists(other):
            assert allowed == len(rows_of(driver)) + 1  # and the bundle's
            return
        assert {mark: row for mark, row in other.rows().items() if mark[0] is not Table.META} == before
        hot, as_read = other.hot(), other.restart().hot()
        assert list(hot.tasks) == list(as_read.tasks)
        assert (list(hot.payloads), hot.attempts_of) == (list(as_read.payloads), as_read.attempts_of)
        assert other.state.evict(ONE)
        other.heat(ONE)
        purge(other, "w")
        assert not exists(other)
    raise AssertionError("more writes than were tried")


def test_what_was_on_its_way_to_it_does_not_reach_what_comes_after(driver: Driver) -> None:
    """A lease that it has not taken up yet, when it is deleted and its id is used again in the same entry."""
    driver.register(workflow("saga", simple("nobody")))
    driver.ok(AGAIN)
    driver.wait(5)
    worker = OpenSession("t", SessionKind.STREAM, "default", "", "t", ("nobody",), 1, 10_000)
    results = driver.entry(worker, STOP, KEEP, AGAIN)
    assert isinstance(results[-1], Rejected)
    assert not driver.state.leases
    driver.ok(AGAIN)
    assert driver.latest("nobody").worker_id == "t"
    driver.give("nobody")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_worker_that_still_works_on_it_gives_its_slot_back(driver: Driver) -> None:
    driver.ok(AGAIN)
    driver.wait(5)
    token = driver.latest("a").fencing_token
    driver.ok(STOP)
    driver.ok(KEEP)
    assert driver.state.sessions["s",].used == 1
    driver.ok(ReleaseTask("s", token))
    assert driver.state.sessions["s",].used == 0


# --- what would be left undone


def test_what_was_not_undone_must_be_decided_about(driver: Driver) -> None:
    """Any operation that would drop a completed, uncompensated step with compensateWith is refused and names it."""
    driver.ok(AGAIN)
    driver.give("a")
    driver.wait(1)
    driver.ok(STOP)
    refused = driver.do(DeleteWorkflow(*ONE, DeleteEffects.UNSET))
    assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "STEPS_NOT_UNDONE")
    assert dict(refused.metadata) == {"steps": "a"}
    assert exists(driver)
    driver.ok(KEEP)
    assert not exists(driver)


def test_a_step_of_unknown_outcome_is_named_too(driver: Driver) -> None:
    driver.ok(AGAIN)
    driver.wait(1)
    driver.ok(STOP)
    assert driver.latest("a").outcome_unknown
    assert dict(driver.do(DeleteWorkflow(*ONE, DeleteEffects.UNSET)).metadata) == {"steps": "a"}


@pytest.mark.parametrize("abandoned", [True, False])
def test_it_is_deleted_once_it_is_compensated(driver: Driver, abandoned: bool) -> None:
    """`compensate_first`: also for one whose compensation was skipped, or given up, before."""
    undo = {"name": "undo", "type": "SIMPLE", "retryCount": 0}
    driver.register(workflow("saga", {**simple("a"), "compensateWith": undo}, simple("b", retryCount=0)))
    driver.ok(AGAIN)
    driver.give("a")
    driver.wait(1)
    if abandoned:
        driver.fail("b")
        driver.fail(driver.undoing("a"))
        driver.ok(AbandonCompensation(*ONE, "enough"))
    else:
        driver.ok(STOP)
    before = driver.header()
    driver.ok(DeleteWorkflow(*ONE, DeleteEffects.COMPENSATE_FIRST))
    assert driver.header().status is WorkflowStatus.COMPENSATING
    assert driver.header().outcome is before.status
    assert driver.state.meta.live_executions == 1
    driver.give(driver.undoing("a"))
    assert not exists(driver)
    assert driver.state.meta.live_executions == 0
    assert not rows_of(driver)


def test_it_stays_if_its_compensation_is_given_up(driver: Driver) -> None:
    undo = {"name": "undo", "type": "SIMPLE", "retryCount": 0}
    driver.register(workflow("saga", {**simple("a"), "compensateWith": undo}, simple("b", retryCount=0)))
    driver.ok(AGAIN)
    driver.give("a")
    driver.fail("b")
    driver.wait(1)
    driver.ok(DeleteWorkflow(*ONE, DeleteEffects.COMPENSATE_FIRST))
    driver.fail(driver.undoing("a"))
    driver.ok(AbandonCompensation(*ONE, "enough"))
    header = driver.header()
    assert (header.status, header.compensation) == (WorkflowStatus.FAILED, CompensationState.INCOMPLETE)
    assert not header.delete_when_ended


# --- what is kept, and for how long


def test_the_policy_is_a_week_and_ten_gibibytes_until_somebody_says_otherwise(driver: Driver) -> None:
    run(driver)
    driver.wait(7 * 24 * 3_600_000 - 6)
    purge(driver, "w")
    assert exists(driver)
    purge(driver, "w", rule=PurgeRule.COUNT, observed=10**6)
    purge(driver, "w", rule=PurgeRule.BYTES, observed=10 << 30)
    assert exists(driver)
    driver.wait(1)
    purge(driver, "w")
    assert not exists(driver)


@pytest.mark.parametrize(
    ("own", "policy", "item", "goes"),
    [
        ({}, (0, 0, 0), (PurgeRule.AGE, 0), False),
        ({"retentionSeconds": 3600}, (1, 0, 0), (PurgeRule.AGE, 0), False),
        ({"retentionSeconds": 0.001}, (0, 0, 0), (PurgeRule.AGE, 0), True),
        ({}, (0, 3, 0), (PurgeRule.COUNT, 3), True),
        ({}, (0, 3, 0), (PurgeRule.COUNT, 2), False),
        ({}, (1, 0, 0), (PurgeRule.COUNT, 9), False),
        ({"retentionCount": 5}, (0, 3, 0), (PurgeRule.COUNT, 4), False),
        ({"retentionCount": 1}, (0, 3, 0), (PurgeRule.COUNT, 1), True),
        ({"retentionSeconds": 3600}, (0, 0, 100), (PurgeRule.BYTES, 101), True),
        ({}, (0, 0, 0), (PurgeRule.BYTES, 2**50), False),
    ],
)
def test_the_policy_in_force_decides_when_it_is_applied(
    driver: Driver, own: dict[str, Any], policy: Any, item: Any, goes: bool
) -> None:
    driver.register(workflow("kept", simple("a"), simple("b"), **own))
    driver.ok(SetRetention(*policy))
    run(driver, name="kept")
    purge(driver, "w", rule=item[0], observed=item[1])
    assert exists(driver) is not goes


def test_only_the_end_that_the_leader_saw_counts(driver: Driver) -> None:
    driver.ok(SetRetention(1, 0, 0))
    driver.ok(AGAIN)
    driver.give("a")
    driver.ok(STOP)
    seen = driver.header().ended_ms
    driver.wait(10)
    item = PurgeItem(*ONE, seen, PurgeRule.AGE)
    driver.entry(RetryWorkflow(*ONE), PurgeExecutions((item,)))
    assert driver.header().status is WorkflowStatus.RUNNING
    driver.ok(STOP)
    driver.wait(10)
    driver.ok(PurgeExecutions((item,)))
    assert exists(driver)


def test_what_has_just_ended_stays(driver: Driver) -> None:
    driver.ok(SetRetention(1, 1, 1))
    run(driver)
    ended = driver.header().ended_ms
    driver.now_ms = ended
    item = PurgeItem(*ONE, ended, PurgeRule.COUNT, 9)
    other = Driver()
    other.worker("s", "a", "b", slots=9)
    other.register(workflow("saga", simple("a"), simple("b")))
    other.ok(SetRetention(1, 1, 1))
    other.ok(AGAIN)
    other.give("a")
    other.give("b")
    other.ok(PurgeExecutions((PurgeItem(*ONE, other.now_ms, PurgeRule.COUNT, 9), item)))
    assert exists(other)


def test_many_go_with_one_command_each_in_a_step_of_its_own(driver: Driver) -> None:
    ids = [f"w{number}" for number in range(20)]
    for workflow_id in ids:
        run(driver, workflow_id)
    driver.ok(SetRetention(1, 0, 0))
    purge(driver, *ids)
    assert driver.state.hot_count == 0
    assert sum(isinstance(effect, ExecutionDeleted) for effect in driver.effects) == 20


def test_a_policy_is_changed_in_parts(driver: Driver) -> None:
    driver.ok(SetRetention(UNCHANGED, 5, UNCHANGED))
    assert retention(driver.state) == Retention(count=5)
    driver.ok(SetRetention(9, UNCHANGED, 0))
    assert retention(driver.restart().state) == Retention(9, 5, 0)


@pytest.mark.parametrize("values", [(-2, 0, 0), (0, 2**54, 0)])
def test_a_policy_out_of_range_is_refused(driver: Driver, values: Any) -> None:
    assert driver.do(SetRetention(*values)).reason == "RETENTION_INVALID"


# --- with what belongs to it


def parent_of_a_completed_child(driver: Driver) -> str:
    driver.register(workflow("child", simple("a", "undo")))
    part = {"name": "part", "taskReferenceName": "part", "type": "SUB_WORKFLOW"}
    driver.register(workflow("whole", {**part, "subWorkflowParam": {"name": "child"}}, simple("b")))
    driver.start("whole")
    child = driver.latest("part").child
    driver.give("a", workflow_id=child)
    driver.wait(10)
    return child


def test_a_part_is_kept_as_long_as_the_whole(driver: Driver) -> None:
    """Retention keeps children as long as their root: neither a delete nor a purge takes one away."""
    child = parent_of_a_completed_child(driver)
    refused = driver.do(DeleteWorkflow("default", child, DeleteEffects.KEEP))
    assert (refused.code, refused.reason) == (Code.FAILED_PRECONDITION, "WORKFLOW_IS_A_PART")
    assert dict(refused.metadata) == {"root": "w"}
    driver.ok(SetRetention(1, 1, 1))
    purge(driver, child, rule=PurgeRule.BYTES, observed=9)
    assert exists(driver, child)
    driver.give("b")
    driver.wait(10)
    purge(driver, child, "w")
    assert driver.state.hot_count == 0
    assert not driver.state.resident[Table.BUNDLE]


def test_a_part_that_was_not_undone_is_undone_first(driver: Driver) -> None:
    child = parent_of_a_completed_child(driver)
    driver.ok(STOP)
    driver.wait(1)
    assert dict(driver.do(DeleteWorkflow(*ONE, DeleteEffects.UNSET)).metadata) == {"steps": "part"}
    driver.ok(DeleteWorkflow(*ONE, DeleteEffects.COMPENSATE_FIRST))
    assert driver.header(child).status is WorkflowStatus.COMPENSATING
    driver.give(driver.undoing("a", child), workflow_id=child)
    assert driver.state.hot_count == 0
    assert not driver.state.messages


def test_a_whole_of_many_parts_goes_step_by_step(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ROWS_REMOVED_PER_STEP", 2)
    parent_of_a_completed_child(driver)
    driver.give("b")
    driver.wait(1)
    driver.ok(KEEP)
    assert driver.state.hot_count == 0
    assert not driver.state.messages
    assert {mark[0] for mark in driver.rows()}.isdisjoint(EXECUTION_TABLES)


def test_a_part_that_was_ended_without_undoing_is_named(driver: Driver) -> None:
    """Deleting what would drop a completed, uncompensated step is refused: also one of a part that was told to SKIP."""
    driver.register(workflow("child", simple("a", "undo"), simple("nobody")))
    part = {"name": "part", "taskReferenceName": "part", "type": "SUB_WORKFLOW"}
    driver.register(workflow("whole", {**part, "subWorkflowParam": {"name": "child"}}))
    driver.start("whole")
    child = driver.latest("part").child
    driver.give("a", workflow_id=child)
    driver.ok(STOP)
    assert driver.header(child).status is WorkflowStatus.TERMINATED
    driver.wait(1)
    for effects in (DeleteEffects.UNSET, DeleteEffects.COMPENSATE_FIRST):
        refused = driver.do(DeleteWorkflow(*ONE, effects))
        assert (refused.reason, dict(refused.metadata)) == ("STEPS_NOT_UNDONE", {"steps": "part"})
    driver.ok(KEEP)
    assert driver.state.hot_count == 0
