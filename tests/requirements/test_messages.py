"""The message queue of a workflow (CONDUCTOR.md 1.5, 1.7), its rules as docstrings."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits
from orchestrator.engine.commands import PushMessage, RestartWorkflow, SignalWorkflow
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.engine.results import MessagePushed, Rejected
from tests.engine.driver import Driver, simple
from tests.requirements.elements import begin, element, text

ONE = ("default", "w")


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.worker("s", "a", "b", slots=5)
    return driver


def pull(reference: str = "p", **given: Any) -> dict[str, Any]:
    return element("PULL_WORKFLOW_MESSAGES", reference, given)


def push(driver: Driver, payload: Any) -> Any:
    return driver.do(PushMessage(*ONE, msgspec.json.encode(payload)))


def payloads(driver: Driver, reference: str = "p") -> list[Any]:
    shown = text(driver, reference)
    assert shown["count"] == len(shown["messages"])
    return [message["payload"] for message in shown["messages"]]


def test_a_pull_waits_for_a_message(driver: Driver) -> None:
    """batchSize 1, blocking true; output.messages, output.count."""
    begin(driver, pull())
    assert driver.latest("p").status is TaskStatus.IN_PROGRESS
    pushed = push(driver, {"n": 1})
    assert isinstance(pushed, MessagePushed)
    [message] = text(driver, "p")["messages"]
    assert message == {"id": pushed.message_id, "workflowId": "w", "payload": {"n": 1}, "receivedAt": driver.now_ms}
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_messages_are_kept_in_their_order(driver: Driver) -> None:
    """A pull takes as many as there are, up to its batchSize, the oldest first."""
    begin(driver, simple("a"), pull(batchSize=2), pull("q", batchSize=5))
    for number in range(3):
        push(driver, {"n": number})
    driver.give("a")
    assert payloads(driver) == [{"n": 0}, {"n": 1}]
    assert payloads(driver, "q") == [{"n": 2}]
    assert (driver.header().signals, driver.header().messages, driver.header().signal_bytes) == (0, 0, 0)


def test_a_pull_may_not_wait(driver: Driver) -> None:
    """blocking false: no messages are an empty list."""
    begin(driver, pull(blocking=False))
    assert payloads(driver) == []


def test_the_queue_is_bounded(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full: RESOURCE_EXHAUSTED, and nothing changes."""
    monkeypatch.setattr(limits, "MESSAGES", 2)
    begin(driver, simple("a"))
    push(driver, {})
    push(driver, {})
    refused = push(driver, {})
    assert isinstance(refused, Rejected)
    assert refused.reason == "MESSAGES_FULL"
    assert driver.header().messages == 2


def test_only_what_runs_takes_messages(driver: Driver) -> None:
    """Unknown: not found; not running: a wrong state."""
    assert push(driver, {}).reason == "WORKFLOW_NOT_FOUND"
    begin(driver, simple("a"))
    driver.give("a")
    assert push(driver, {}).reason == "WORKFLOW_ENDED"


def test_no_signal_has_the_name_of_the_queue(driver: Driver) -> None:
    begin(driver, pull())
    refused = driver.do(SignalWorkflow(*ONE, "$messages", b"{}"))
    assert isinstance(refused, Rejected)
    assert refused.reason == "SIGNAL_NAME_INVALID"


def test_a_restart_forgets_messages(driver: Driver) -> None:
    begin(driver, simple("a", retryCount=0))
    push(driver, {})
    driver.fail("a")
    driver.ok(RestartWorkflow(*ONE))
    assert driver.header().messages == 0
