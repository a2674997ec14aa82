"""A worker that is not done may say so, let go of its task, and be asked again: CONDUCTOR.md 2.5."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engine import queries
from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import (
    CloseSession,
    CompleteTask,
    OpenSession,
    PauseWorkflow,
    ResumeWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.explain import explain
from orchestrator.engine.model import SessionKind, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Rejected, Verdict
from tests.engine.driver import Driver, simple
from tests.requirements.elements import ONE, begin, busy_driver, element


@pytest.fixture
def driver() -> Driver:
    return busy_driver()


def later(driver: Driver, after_ms: int = 5_000, said: bytes = b'{"page":1}', reference: str = "a") -> Any:
    attempt = driver.latest(reference)
    token, status = attempt.fencing_token, TaskStatus.IN_PROGRESS
    driver.held.pop(token, None)
    return driver.do(
        CompleteTask("default", "w", attempt.task_id, token, status, said, "", "", callback_ms=after_ms)
    )


def handed_out(driver: Driver) -> list[bytes]:
    """What the worker is told of what it or another has said before."""
    found = [queries.assignment_view(driver.state, driver.hot(), token) for token in driver.held]
    return [one.heartbeat_details for one in found if one is not None]


def test_it_is_handed_out_again_after_a_while(driver: Driver) -> None:
    """Update with IN_PROGRESS from a worker: stored as SCHEDULED, invisible for callbackAfterSeconds, then polled
    again."""
    begin(driver, simple("a"))
    first = driver.latest("a")
    assert later(driver).verdict is Verdict.ACCEPTED
    assert driver.latest("a").status is TaskStatus.SCHEDULED
    assert not driver.state.leases
    driver.wait(4_999)
    assert driver.latest("a").status is TaskStatus.SCHEDULED
    driver.wait(1)
    again = driver.latest("a")
    assert (again.status, again.task_id, again.retry_count) == (TaskStatus.IN_PROGRESS, first.task_id, 0)
    assert again.idempotency_key == first.idempotency_key
    assert again.fencing_token > first.fencing_token
    assert again.started_ms == first.started_ms
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_what_it_said_is_handed_out_with_it(driver: Driver) -> None:
    """outputData REPLACES the old; who says nothing leaves what was said."""
    begin(driver, simple("a"))
    assert handed_out(driver) == [b""]
    for said, kept in ((b'{"page":1}', b'{"page":1}'), (b'{"page":2}', b'{"page":2}'), (b"", b'{"page":2}')):
        later(driver, 0, said)
        assert handed_out(driver) == [kept]
    driver.give("a", b'{"pages":3}')
    assert driver.hot().load(driver.latest("a").output) == b'{"pages":3}'


def test_another_worker_may_go_on(driver: Driver) -> None:
    """Whoever polls it next; the lease of the first has ended, and nothing it says counts."""
    driver = Driver()
    driver.worker("s", "a")
    begin(driver, simple("a"))
    old = driver.latest("a").fencing_token
    later(driver)
    driver.ok(CloseSession("s"))
    driver.worker("t", "a")
    driver.wait(5_000)
    assert driver.latest("a").worker_id == "worker-t"
    assert driver.give("a", token=old).verdict is Verdict.FENCED
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_who_says_it_again_is_answered_as_before(driver: Driver) -> None:
    """The acknowledgement may be lost: said again, it counts once, be the task waiting or with somebody by then."""
    begin(driver, simple("a"))
    attempt = driver.latest("a")
    again = CompleteTask(
        "default", "w", attempt.task_id, attempt.fencing_token, TaskStatus.IN_PROGRESS, b"{}", "", "", callback_ms=5_000
    )
    assert driver.do(again).verdict is Verdict.ACCEPTED
    before = driver.rows()
    assert driver.do(again).verdict is Verdict.ACCEPTED
    assert driver.rows() == before
    driver.wait(5_000)
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS
    before = driver.rows()
    assert driver.do(again).verdict is Verdict.ACCEPTED
    assert driver.rows() == before
    driver.give("a")
    assert driver.do(again).verdict is Verdict.FENCED
    assert driver.latest("a").fencing_token > attempt.fencing_token


def test_a_call_that_is_reported_again_is_answered_as_before(driver: Driver) -> None:
    """So it is with a node that has called what goes on elsewhere: asyncComplete."""
    driver.ok(OpenSession("n", SessionKind.STREAM, "$system", "", "n", ("system/http",), 1, 10_000))
    begin(driver, element("HTTP", "h", {"uri": "http://x", "method": "GET"}, asyncComplete=True))
    token = driver.latest("h").fencing_token
    for _ in range(2):
        assert driver.give("h", token=token).verdict is Verdict.ACCEPTED
        assert driver.latest("h").status is TaskStatus.IN_PROGRESS


def test_its_timeout_goes_on(driver: Driver) -> None:
    """Task: now - startTime >= timeoutSeconds, whoever has it, and how often it was handed out."""
    task = {"name": "a", "timeoutSeconds": 10, "timeoutPolicy": "TIME_OUT_WF"}
    begin(driver, simple("a", taskDefinition=task))
    later(driver, 3_000)
    driver.wait(3_000)
    later(driver, 60_000)
    driver.wait(6_999)
    assert driver.latest("a").status is TaskStatus.SCHEDULED
    driver.wait(1)
    assert driver.latest("a").status is TaskStatus.TIMED_OUT
    assert driver.header().status is WorkflowStatus.TIMED_OUT
    assert not driver.state.timers


def test_while_paused_nobody_is_asked(driver: Driver) -> None:
    """PAUSED: nothing new is scheduled; task updates are still accepted and stored."""
    begin(driver, simple("a"))
    driver.ok(PauseWorkflow(*ONE))
    later(driver)
    driver.wait(60_000)
    assert driver.latest("a").status is TaskStatus.SCHEDULED
    driver = driver.restart()
    driver.ok(ResumeWorkflow(*ONE))
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS


def test_it_says_what_it_waits_for(driver: Driver) -> None:
    begin(driver, simple("a"))
    later(driver)
    [one] = explain(driver.state, driver.hot())
    assert (one.reference, one.until_ms) == ("a", driver.now_ms + 5_000)


def test_what_was_begun_and_not_finished_may_have_taken_effect(driver: Driver) -> None:
    """A step with `compensateWith` whose outcome is unknown is compensated, with `outcome: UNKNOWN`."""
    begin(driver, simple("a", "b"))
    later(driver)
    driver.ok(TerminateWorkflow(*ONE, "stop", TerminateCompensation.RUN))
    assert driver.latest("a").status is TaskStatus.CANCELED
    driver.give(driver.undoing("a"))
    assert driver.header().status is WorkflowStatus.TERMINATED


def test_what_failed_at_last_is_known_to_have_done_nothing(driver: Driver) -> None:
    """A step whose every attempt reported FAILED is not."""
    begin(driver, simple("a", "b", retryCount=0))
    later(driver, 0)
    driver.fail("a")
    assert driver.header().status is WorkflowStatus.FAILED
    assert not driver.hot().records


def test_nobody_is_asked_again_once_the_workflow_turns_round(driver: Driver) -> None:
    """Leased ones get a cancel message and are awaited until they answer: this is an answer."""
    begin(driver, simple("a", "b"))
    attempt = driver.latest("a")
    driver.ok(TerminateWorkflow(*ONE, "stop", TerminateCompensation.RUN))
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS
    assert later(driver).verdict is Verdict.ACCEPTED
    assert driver.latest("a").sequence == attempt.sequence
    assert driver.latest("a").status is TaskStatus.CANCELED
    driver.give(driver.undoing("a"))
    assert driver.header().status is WorkflowStatus.TERMINATED


def test_a_compensation_may_be_asked_again(driver: Driver) -> None:
    """It is a task like others."""
    begin(driver, simple("a", "b"), simple("c", retryCount=0))
    driver.give("a")
    driver.fail("c")
    undoing = driver.undoing("a")
    told = (undoing.task_id, undoing.fencing_token, TaskStatus.IN_PROGRESS, b"", "", "")
    driver.ok(CompleteTask("default", "w", *told, callback_ms=1_000))
    driver.wait(1_000)
    assert driver.undoing("a").status is TaskStatus.IN_PROGRESS
    driver.give(driver.undoing("a"))
    assert driver.header().status is WorkflowStatus.FAILED


def test_nodes_are_not_asked_again(driver: Driver) -> None:
    """Only a worker says so."""
    driver.ok(OpenSession("node", SessionKind.STREAM, "$system", "", "node", ("system/script",), 2, 10_000))
    begin(driver, element("INLINE", "a", {"expression": "1"}))
    refused = later(driver)
    assert isinstance(refused, Rejected) and refused.reason == "STATUS_INVALID"


def test_a_replica_goes_on_from_the_rows(driver: Driver) -> None:
    """It is rows, like all."""
    begin(driver, simple("a"))
    later(driver)
    driver = driver.restart()
    driver.wait(5_000)
    assert handed_out(driver) == [b'{"page":1}']
    driver = driver.restart()
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED
