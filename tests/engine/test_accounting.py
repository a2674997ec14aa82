"""Where the time of an execution went: for each kind of waiting, and without remainder."""

from __future__ import annotations

import random
from typing import Any

import pytest

from orchestrator.engine.accounting import ATTEMPTS_SHOWN, KINDS, AttemptTiming, Timing, account, divide
from orchestrator.engine.accounting import TimeKind as K
from orchestrator.engine.commands import (
    ExpireSession,
    OpenSession,
    PauseWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
    SignalWorkflow,
)
from orchestrator.engine.model import SessionKind
from tests.engine.driver import Driver, simple, workflow


@pytest.fixture
def driver() -> Driver:
    return Driver()


def timing(driver: Driver, workflow_id: str = "w") -> Timing:
    running = account(driver.state, driver.hot(workflow_id), driver.now_ms)
    while True:
        try:
            next(running)
        except StopIteration as end:
            found: Timing = end.value
            assert sum(found.shares.values()) == found.until_ms - found.began_ms
            return found


def spent(one: AttemptTiming) -> list[tuple[K, int]]:
    return [(kind, until - since) for kind, since, until in one.spans]


def begin(driver: Driver, *tasks: dict[str, Any]) -> None:
    driver.register(workflow("flow", *tasks))
    driver.start("flow")


def element(kind: str, reference: str, given: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {"name": reference, "taskReferenceName": reference, "type": kind, "inputParameters": given or {}, **fields}


def test_a_task_waits_is_executed_and_is_tried_again(driver: Driver) -> None:
    definition = {"name": "a", "retryCount": 2, "retryDelaySeconds": 4, "retryLogic": "EXPONENTIAL_BACKOFF"}
    begin(driver, simple("a", taskDefinition=definition))
    driver.wait(1_000)
    driver.worker("s", "a")
    driver.wait(2_000)
    driver.fail("a")
    driver.wait(4_000)
    driver.wait(500)
    driver.fail("a")
    driver.wait(8_000)
    driver.wait(3_000)
    driver.give("a")
    driver.wait(60_000)
    found = timing(driver)
    assert [spent(one) for one in found.attempts] == [
        [(K.QUEUE, 1_000), (K.WORKER, 2_000)],
        [(K.DELAY, 4_000), (K.WORKER, 500)],
        [(K.DELAY, 8_000), (K.WORKER, 3_000)],
    ]
    assert found.shares == {K.WORKER: 5_500, K.QUEUE: 1_000, K.DELAY: 12_000}
    assert found.left_out == 0


def test_what_is_open_is_accounted_for_until_now(driver: Driver) -> None:
    begin(driver, simple("a", startDelay=10))
    driver.wait(4_000)
    [one] = timing(driver).attempts
    assert spent(one) == [(K.DELAY, 4_000)]
    driver.wait(9_000)
    [one] = timing(driver).attempts
    assert spent(one) == [(K.DELAY, 10_000), (K.QUEUE, 3_000)]
    driver.worker("s", "a")
    driver.wait(1_000)
    [one] = timing(driver).attempts
    assert spent(one) == [(K.DELAY, 10_000), (K.QUEUE, 3_000), (K.WORKER, 1_000)]


def test_a_worker_that_is_lost_costs_its_time_and_no_delay(driver: Driver) -> None:
    driver.worker("s", "a")
    begin(driver, simple("a", taskDefinition={"name": "a", "retryCount": 1, "retryDelaySeconds": 4}))
    driver.wait(3_000)
    driver.do(ExpireSession("s"))
    driver.wait(1_000)
    driver.worker("t", "a")
    driver.give("a")
    assert [spent(one) for one in timing(driver).attempts] == [[(K.WORKER, 3_000)], [(K.QUEUE, 1_000)]]


def test_each_kind_of_waiting_is_told_from_the_others(driver: Driver) -> None:
    driver.register(workflow("child", simple("c")))
    driver.worker("s", "c")
    begin(
        driver,
        element("WAIT", "timer", {"duration": "2 seconds"}),
        element("WAIT", "signal", {"signal": "go"}),
        element("HUMAN", "person"),
        element("SUB_WORKFLOW", "sub", subWorkflowParam={"name": "child"}),
        element("HTTP", "call", {"http_request": {"uri": "http://a.example", "method": "GET"}}),
    )
    driver.wait(2_000)
    driver.wait(3_000)
    driver.ok(SignalWorkflow("default", "w", "go", b"{}"))
    driver.wait(4_000)
    driver.ok(SignalWorkflow("default", "w", "person", b"{}"))
    driver.wait(5_000)
    driver.give("c", workflow_id=driver.latest("sub").child)
    driver.wait(6_000)
    driver.ok(OpenSession("n", SessionKind.STREAM, "$system", "", "n", ("system/http",), 5, 10_000))
    driver.wait(7_000)
    driver.give("call", b'{"response":{}}')
    assert timing(driver).shares == {
        K.TIMER: 2_000, K.SIGNAL: 3_000, K.PERSON: 4_000, K.SUB_WORKFLOW: 5_000, K.QUEUE: 6_000, K.NODE: 7_000}


def test_of_what_goes_on_side_by_side_work_counts_first(driver: Driver) -> None:
    driver.worker("s", "a")
    tasks = [[simple("a")], [element("WAIT", "w1", {"duration": "5 seconds"})]]
    fork = element("FORK_JOIN", "f", forkTasks=tasks)
    begin(driver, fork, element("JOIN", "j", joinOn=["a", "w1"]))
    driver.wait(2_000)
    driver.give("a")
    driver.wait(3_000)
    found = timing(driver)
    assert found.shares == {K.WORKER: 2_000, K.TIMER: 3_000}
    assert [one.attempt.reference for one in found.attempts if not one.spans] == ["f", "j"]


def test_a_pause_and_the_time_before_a_retry_are_something_else(driver: Driver) -> None:
    driver.worker("s", "a", "b", slots=2)
    begin(driver, simple("a"), simple("b", retryCount=0))
    driver.wait(1_000)
    driver.do(PauseWorkflow("default", "w"))
    driver.give("a")
    driver.wait(10_000)
    driver.do(ResumeWorkflow("default", "w"))
    driver.wait(500)
    driver.fail("b")
    driver.wait(20_000)
    driver.ok(RetryWorkflow("default", "w"))
    driver.wait(300)
    driver.give("b")
    assert timing(driver).shares == {K.WORKER: 1_800, K.OTHER: 30_000}


def test_what_undoes_a_step_is_accounted_for_like_any_other(driver: Driver) -> None:
    driver.worker("s", "a", "b", "undo", slots=5)
    begin(driver, simple("a", undo="undo"), simple("b", retryCount=0))
    driver.give("a")
    driver.wait(1_000)
    driver.fail("b")
    driver.wait(2_000)
    driver.give(driver.undoing("a"))
    found = timing(driver)
    assert found.shares == {K.WORKER: 3_000}
    assert [(one.attempt.compensates > 0, spent(one)) for one in found.attempts][1:] == [
        (False, [(K.WORKER, 1_000)]), (True, [(K.WORKER, 2_000)])]


def test_of_very_many_those_are_told_that_took_longest(driver: Driver) -> None:
    count = ATTEMPTS_SHOWN + 20
    names = [f"a{number}" for number in range(count)]
    driver.check = False
    driver.worker("s", *names, slots=count)
    fork = element("FORK_JOIN", "f", forkTasks=[[simple(name)] for name in names])
    begin(driver, fork, element("JOIN", "j", joinOn=names))
    for number, name in enumerate(reversed(names)):
        driver.now_ms += 10 if number else 0
        driver.give(name)
    found = timing(driver)
    assert len(found.attempts) == ATTEMPTS_SHOWN and found.left_out == 22
    # The fork and its join are busy with nothing; then come those that were given first, which were scheduled last.
    assert [one.attempt.reference for one in found.attempts] == names[:ATTEMPTS_SHOWN]


@pytest.mark.parametrize("seed", range(20))
def test_no_moment_is_counted_twice_or_left_out(seed: int) -> None:
    """Against a second way to say the same, moment by moment."""
    rng = random.Random(seed)
    spans = []
    for _ in range(rng.randint(0, 12)):
        since = rng.randint(-10, 110)
        spans.append((rng.choice(KINDS[:-1]), since, since + rng.randint(0, 40)))
    expected: dict[K, int] = {}
    for moment in range(100):
        kind = min((kind for kind, since, until in spans if since <= moment < until), default=K.OTHER)
        expected[kind] = expected.get(kind, 0) + 1
    assert divide(0, 100, spans) == expected
