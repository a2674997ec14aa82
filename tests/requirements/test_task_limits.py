"""One test per rule of the limits of tasks; the rule is its docstring."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.engine.choices import IfExists, TerminateCompensation
from orchestrator.engine.commands import (
    CloseSession,
    CompleteTask,
    ExpireSession,
    FireTimers,
    OpenSession,
    PollTasks,
    RegisterTasks,
    ReleaseTask,
    StartWorkflow,
    TerminateWorkflow,
    UpdateSession,
)
from orchestrator.engine.effects import Deliver, QueueOpened
from orchestrator.engine.invariants import breaches
from orchestrator.engine.model import SessionKind, TaskStatus, TimerKind, WorkflowStatus
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from tests.engine.driver import Driver, simple, workflow


def limited(driver: Driver, **fields: Any) -> None:
    driver.register_task(name="a", **fields)
    driver.register(workflow("flow", simple("a")))


def start(driver: Driver, count: int, first: int = 0, **fields: Any) -> None:
    for number in range(first, first + count):
        assert type(driver.start("flow", f"w{number}", **fields)).__name__ == "Started"


def leased(driver: Driver, name: str = "a") -> list[str]:
    """The executions whose attempt is leased, by token."""
    return [lease.workflow_id for _, lease in sorted(driver.state.leases.items()) if lease.name == name]


def waiting(driver: Driver) -> list[str]:
    return [ready.workflow_id for _, ready in sorted(driver.state.ready.items())]


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", "undo_a", slots=100)
    return driver


# --- at once


def test_at_most_so_many_are_in_progress_in_the_cluster(driver: Driver) -> None:
    """concurrentExecLimit: max IN_PROGRESS of this task type in the cluster, whatever the sessions and domains."""
    driver.worker("t", "a", slots=100, domain="far")
    limited(driver, concurrentExecLimit=3)
    start(driver, 3)
    start(driver, 3, first=3, task_to_domain=(("a", "far"),))
    assert leased(driver) == ["w0", "w1", "w2"]
    assert waiting(driver) == ["w3", "w4", "w5"]


def test_the_next_goes_on_in_the_step_that_ends_a_lease(driver: Driver) -> None:
    """What is held back is leased by the very entry that makes room, in its order, also in another domain."""
    driver.worker("t", "a", slots=100, domain="far")
    limited(driver, concurrentExecLimit=1)
    start(driver, 1)
    start(driver, 1, first=1, task_to_domain=(("a", "far"),))
    start(driver, 1, first=2)
    driver.give("a", workflow_id="w0")
    assert leased(driver) == ["w1"]
    assert [effect.workflow_id for effect in driver.effects if isinstance(effect, Deliver)] == ["w1"]
    driver.give("a", workflow_id="w1")
    assert leased(driver) == ["w2"]


def test_what_is_held_back_goes_by_priority(driver: Driver) -> None:
    """A limit changes nothing about the order: priority first, then who waits longest."""
    limited(driver, concurrentExecLimit=1)
    start(driver, 2)
    start(driver, 1, first=2, priority=9)
    driver.give("a", workflow_id="w0")
    assert leased(driver) == ["w2"]


def test_a_task_that_is_held_back_holds_back_no_other(driver: Driver) -> None:
    """A queue that is at its limit is passed over: its workers take other tasks."""
    limited(driver, concurrentExecLimit=1)
    start(driver, 2, priority=5)
    driver.register(workflow("other", simple("b")))
    driver.start("other", "o")
    assert leased(driver, "b") == ["o"]


@pytest.mark.parametrize("fields", [{}, {"concurrentExecLimit": 1}])
def test_a_slot_goes_to_the_highest_priority_of_all_tasks(fields: dict[str, Any]) -> None:
    """A worker that has a slot free again gets what ranks first of all its tasks, and not more of the same."""
    driver = Driver()
    driver.worker("s", "a", "b")
    limited(driver, **fields)
    driver.register(workflow("other", simple("b")))
    start(driver, 2)
    driver.start("other", "urgent", priority=9)
    driver.give("a", workflow_id="w0")
    assert leased(driver, "b") == ["urgent"]
    driver.give("b", workflow_id="urgent")
    assert leased(driver) == ["w1"]


def test_a_fenced_lease_counts_until_it_is_released(driver: Driver) -> None:
    """The worker of an attempt that was ended may still be at it: its lease counts until the worker releases it."""
    limited(driver, concurrentExecLimit=1)
    start(driver, 2)
    token = driver.latest("a", "w0").fencing_token
    driver.ok(TerminateWorkflow("default", "w0", "stop", TerminateCompensation.SKIP))
    assert driver.state.leases[token,].fenced
    assert waiting(driver) == ["w1"]
    driver.ok(ReleaseTask("s", token))
    assert leased(driver) == ["w1"]


def test_a_lost_worker_makes_room(driver: Driver) -> None:
    """With a session its leases end, and what they held back goes on at once."""
    limited(driver, concurrentExecLimit=1)
    start(driver, 2)
    driver.worker("t", "a")
    driver.ok(ExpireSession("s"))
    assert leased(driver) == ["w1"]
    assert waiting(driver) == ["w0"]


def test_other_namespaces_have_limits_of_their_own(driver: Driver) -> None:
    """The limit is that of a task name in a namespace."""
    limited(driver, concurrentExecLimit=1)
    start(driver, 1)
    document = msgspec.json.encode({"name": "a", "concurrentExecLimit": 1})
    driver.ok(RegisterTasks("other", (document,)))
    driver.ok(OpenSession("o", SessionKind.STREAM, "other", "", "w", ("a",), 5, 10_000))
    definition = msgspec.json.encode(workflow("flow", simple("a")))
    for name in ("x", "y"):
        driver.ok(StartWorkflow("other", "", 0, name, IfExists.FAIL, b"{}", document=definition))
    assert leased(driver) == ["w0", "x"]


def test_compensations_count(driver: Driver) -> None:
    """A compensation is a task: the limit of its name holds for it, and it is not lost by it."""
    driver.register_task(name="undo_a", concurrentExecLimit=1)
    driver.register(workflow("flow", simple("a", "undo_a"), simple("b", retryCount=0)))
    start(driver, 2)
    for number in range(2):
        driver.give("a", workflow_id=f"w{number}")
        driver.fail("b", workflow_id=f"w{number}")
    assert leased(driver, "undo_a") == ["w0"]
    driver.give(driver.undoing("a", "w0"), workflow_id="w0")
    assert driver.header("w0").status is WorkflowStatus.FAILED
    driver.give(driver.undoing("a", "w1"), workflow_id="w1")
    assert driver.header("w1").status is WorkflowStatus.FAILED


# --- whose limits


def test_an_operator_changes_the_limit_of_what_runs(driver: Driver) -> None:
    """The limits of the registered definition hold as they are now, not as they were at the start."""
    limited(driver, concurrentExecLimit=1)
    start(driver, 5)
    driver.register_task(name="a", concurrentExecLimit=3)
    assert leased(driver) == ["w0", "w1", "w2"]
    driver.register_task(name="a", concurrentExecLimit=2)
    driver.give("a", workflow_id="w0")
    assert waiting(driver) == ["w3", "w4"]
    driver.give("a", workflow_id="w1")
    assert leased(driver) == ["w2", "w3"]
    driver.register_task(name="a")
    assert leased(driver) == ["w2", "w3", "w4"]


def test_inline_limits_hold_where_none_are_registered(driver: Driver) -> None:
    """An inline taskDefinition's limits hold as long as no definition of that name is registered, and no longer."""
    inline = {"name": "a", "concurrentExecLimit": 1}
    driver.register(workflow("flow", simple("a", taskDefinition=inline)))
    start(driver, 3)
    assert leased(driver) == ["w0"]
    driver.register_task(name="a", concurrentExecLimit=2)
    assert leased(driver) == ["w0", "w1"]


def test_inline_limits_are_those_of_the_first_that_waits(driver: Driver) -> None:
    """Inline limits differ between workflows: those of the head hold for its queue, and go with it."""
    inline = {"name": "a", "concurrentExecLimit": 1}
    driver.register(workflow("flow", simple("a", taskDefinition=inline)), workflow("free", simple("a")))
    start(driver, 2)
    driver.start("free", "x")
    assert leased(driver) == ["w0"]
    driver.ok(TerminateWorkflow("default", "w1", "stop", TerminateCompensation.SKIP))
    assert leased(driver) == ["w0", "x"]


# --- in a window


def test_at_most_so_many_are_handed_out_in_a_window(driver: Driver) -> None:
    """rateLimitPerFrequency: max hand-outs per window; what waits goes on when the window turns, by a timer."""
    limited(driver, rateLimitPerFrequency=2, rateLimitFrequencyInSeconds=10)
    start(driver, 5)
    assert leased(driver) == ["w0", "w1"]
    for number in range(2):
        driver.give("a", workflow_id=f"w{number}")
    assert leased(driver) == []
    driver.wait(9_999)
    assert leased(driver) == []
    driver.wait(400)  # hand-outs are counted together in spans of a thirty-second of the window
    assert leased(driver) == ["w2", "w3"]
    driver.wait(10_400)
    assert leased(driver) == ["w2", "w3", "w4"]


def test_whoever_comes_to_the_front_waits_for_the_window_and_no_longer() -> None:
    """Inline limits are those of the first that waits, also when the one before it, which had none, is taken away."""
    driver = Driver()
    driver.worker("s", "a", "b", slots=1)
    inline = {"name": "a", "rateLimitPerFrequency": 3, "rateLimitFrequencyInSeconds": 10}
    flow = workflow("flow", simple("a", taskDefinition=inline))
    driver.register(flow, workflow("free", simple("a")), workflow("busy", simple("b")))
    for number, then_ms in enumerate((3_000, 3_000, 5_000, 0)):
        start(driver, 1, first=number)
        driver.give("a", workflow_id=f"w{number}")
        driver.wait(then_ms)
    driver.start("busy", "busy")
    driver.start("free", "x")
    start(driver, 1, first=4)
    driver.ok(TerminateWorkflow("default", "x", "stop", TerminateCompensation.SKIP))
    assert breaches(driver.state) == []
    driver.give("b", workflow_id="busy")
    assert leased(driver) == []
    driver.wait(2_400)
    assert leased(driver) == ["w4"]


def test_no_window_has_more_wherever_it_begins(driver: Driver) -> None:
    """Hand-outs at the end of one window and at the beginning of the next are in one, too."""
    limited(driver, rateLimitPerFrequency=2, rateLimitFrequencyInSeconds=10)
    start(driver, 1)
    driver.wait(9_000)
    start(driver, 3, first=1)
    assert leased(driver) == ["w0", "w1"]
    driver.wait(1_400)
    assert leased(driver) == ["w0", "w1", "w2"]
    driver.wait(8_500)
    assert leased(driver) == ["w0", "w1", "w2"]
    driver.wait(500)
    assert leased(driver) == ["w0", "w1", "w2", "w3"]


def test_nothing_is_left_of_a_window_that_nobody_waits_for(driver: Driver) -> None:
    """The row of a window is dropped when nothing in it counts any more; there is no timer then."""
    limited(driver, rateLimitPerFrequency=5, rateLimitFrequencyInSeconds=10)
    start(driver, 3)
    assert [timer.kind for timer in driver.state.timers.values()] == [TimerKind.TASK_RATE]
    driver.wait(10_400)
    assert not driver.state.task_rates
    assert not driver.state.timers


def test_no_window_is_no_limit(driver: Driver) -> None:
    """rateLimitFrequencyInSeconds 0, or no rateLimitPerFrequency: as many as there are slots."""
    limited(driver, rateLimitPerFrequency=1, rateLimitFrequencyInSeconds=0)
    start(driver, 3)
    assert leased(driver) == ["w0", "w1", "w2"]


# --- pollers


def poll(driver: Driver, most: int = 10) -> int:
    return len(driver.ok(PollTasks("p", "default", "", "poller", ("a", "b"), most)).tokens)


def test_a_poll_gets_no_more_than_the_limits_leave() -> None:
    """PollTasks respects both limits, and takes other tasks instead."""
    driver = Driver()
    limited(driver, concurrentExecLimit=2)
    driver.register(workflow("other", simple("b")))
    start(driver, 3)
    driver.start("other", "o")
    assert poll(driver) == 3
    assert leased(driver) == ["w0", "w1"]
    assert leased(driver, "b") == ["o"]
    assert poll(driver) == 0


def test_pollers_are_woken_when_there_is_room_again() -> None:
    """A lease that ends, and a window that turns, are told to pollers: they need not ask again and again."""
    driver = Driver()
    limited(driver, concurrentExecLimit=1, rateLimitPerFrequency=2, rateLimitFrequencyInSeconds=10)
    start(driver, 3)
    assert poll(driver) == 1
    driver.give("a", workflow_id="w0")
    assert QueueOpened("default", "", "a") in driver.effects
    assert poll(driver) == 1
    driver.give("a", workflow_id="w1")
    assert QueueOpened("default", "", "a") not in driver.effects
    assert poll(driver) == 0
    timer = driver.state.next_timer()
    assert timer is not None
    driver.now_ms = timer.fire_ms
    driver.ok(FireTimers())
    assert QueueOpened("default", "", "a") in driver.effects
    assert poll(driver) == 1


# --- whatever happens


def play(seed: int, restart_every: int) -> tuple[Driver, list[int]]:
    """Random work under both limits; answers when each hand-out was. The limits are checked after every entry."""
    rng = random.Random(seed)
    driver = Driver()
    at_once, in_window, window_ms = rng.randint(1, 3), rng.randint(1, 4), 1_000 * rng.randint(1, 3)
    limited(
        driver,
        concurrentExecLimit=at_once,
        rateLimitPerFrequency=in_window,
        rateLimitFrequencyInSeconds=window_ms // 1_000,
        retryCount=1_000,
        retryDelaySeconds=0,
    )
    handed_out: dict[int, int] = {}
    sessions = 0
    for number in range(60):
        leases = sorted(driver.state.leases)
        roll = rng.random()
        if roll < 0.3:
            start(driver, 1, first=number, task_to_domain=(("a", rng.choice(("", "far"))),))
        elif roll < 0.4 or not driver.state.sessions:
            sessions += 1
            driver.worker(f"s{sessions}", "a", slots=rng.randint(1, 4), domain=rng.choice(("", "far")))
        elif roll < 0.5:
            driver.ok(PollTasks("p", "default", rng.choice(("", "far")), "p", ("a",), rng.randint(1, 3)))
        elif roll < 0.7 and leases:
            lease = driver.state.leases[rng.choice(leases)[0],]
            status = rng.choice((TaskStatus.COMPLETED, TaskStatus.FAILED))
            driver.ok(CompleteTask("default", lease.workflow_id, lease.task_id, lease.token, status, b"", "", ""))
        elif roll < 0.75:
            (session,) = rng.choice(sorted(driver.state.sessions))
            driver.ok(rng.choice((CloseSession, ExpireSession))(session))
        else:
            driver.wait(rng.choice((1, 50, 700, 2_000)))
        assert len(driver.state.leases) <= at_once
        handed_out.update({token: lease.leased_ms for (token,), lease in driver.state.leases.items()})
        # Nothing is handed out and ended in one entry here: each lease is seen.
        assert len(handed_out) == driver.state.meta.next_token - 1
        if restart_every and number % restart_every == 0:
            driver = driver.restart()
    times = sorted(handed_out.values())
    for first in times:
        assert sum(first <= time_ms < first + window_ms for time_ms in times) <= in_window
    return driver, times


def settle(driver: Driver) -> None:
    """Good workers come: everything has to come to an end, by timers and results alone."""
    for (session,) in sorted(driver.state.sessions):
        driver.do(CloseSession(session))
    driver.worker("good", "a", slots=50)
    driver.worker("good-far", "a", slots=50, domain="far")
    for _ in range(400):
        for (token,) in sorted(driver.state.leases):
            lease = driver.state.leases[token,]
            done = TaskStatus.COMPLETED
            driver.ok(CompleteTask("default", lease.workflow_id, lease.task_id, token, done, b"", "", ""))
        if not driver.state.leases and driver.state.next_timer() is None:
            break
        driver.wait(1_000)
    for _, hot in driver.state.hot_executions():
        assert hot.execution.status in WORKFLOW_TERMINAL


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_the_limits_hold_whatever_happens_and_nothing_is_stuck(seed: int) -> None:
    """Never above a limit, at any moment and in any window; and when all behave, everything is done at last."""
    driver, _ = play(seed, 0)
    settle(driver)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), every=st.integers(1, 5))
def test_a_replica_restored_in_between_holds_the_same_limits(seed: int, every: int) -> None:
    """Limits are exact across a failover: what a new leader has are rows, and it goes on from them alike."""
    plain, times = play(seed, 0)
    restored, times_too = play(seed, every)
    assert times_too == times
    assert restored.machine.chain == plain.machine.chain
    settle(restored)


def test_slots_and_limits_together(driver: Driver) -> None:
    """Neither slots nor limits alone: what is leased is the least of both."""
    limited(driver, concurrentExecLimit=2)
    driver.ok(UpdateSession("s", (), 1))
    start(driver, 3)
    assert leased(driver) == ["w0"]
    driver.ok(UpdateSession("s", (), 5))
    assert leased(driver) == ["w0", "w1"]
