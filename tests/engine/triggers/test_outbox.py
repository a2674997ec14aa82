"""What is told to streams outside is owed from the step in which it happens, in order, until it is acknowledged."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits
from orchestrator.engine.behaviour import HIGHEST
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import (
    PauseWorkflow,
    RaiseBehaviour,
    RegisterWorkflows,
    ResumeWorkflow,
    StartWorkflow,
)
from orchestrator.engine.model import Table, WorkflowStatus
from orchestrator.engine.outbox_commands import AcknowledgeEvents
from orchestrator.engine.results import Code, Done, Rejected
from orchestrator.engine.triggers.rows import OwedEvent
from tests.engine.driver import Driver, simple, workflow

LISTENED = {"workflowStatusListenerEnabled": True, "workflowStatusListenerSink": "redis:status"}


def event(reference: str, sink: str, **fields: Any) -> dict[str, Any]:
    given = {"said": reference}
    return {"name": reference, "taskReferenceName": reference, "type": "EVENT", "sink": sink,
            "inputParameters": given, **fields}


@pytest.fixture
def driver() -> Driver:
    return Driver(level=HIGHEST)


def owed(driver: Driver) -> list[OwedEvent]:
    found = driver.state.resident[Table.OUTBOX]
    return [found[key] for key in sorted(found)]


def start(driver: Driver, name: str, workflow_id: str = "w", **fields: Any) -> Any:
    command = StartWorkflow("default", name, 0, workflow_id, IfExists.FAIL, b"{}", **fields)
    return driver.do(command)


# --- EVENT tasks


def test_an_event_for_a_stream_is_owed_and_its_task_completes(driver: Driver) -> None:
    driver.register(workflow("sells", event("sold", "redis:orders")))
    start(driver, "sells", correlation_id="c-1", trace="00-trace")
    [one] = owed(driver)
    attempt = driver.latest("sold")
    assert driver.header("w").status is WorkflowStatus.COMPLETED
    assert (one.stream, one.event, one.event_id, one.source) == ("orders", "sold", attempt.task_id, "task/sold")
    assert (one.workflow, one.workflow_id, one.correlation_id, one.trace) == ("sells", "w", "c-1", "00-trace")
    assert one.time_ms == driver.now_ms
    payload = msgspec.json.decode(one.payload)
    assert (payload["said"], payload["workflowInstanceId"]) == ("sold", "w")


def test_the_sink_may_be_an_expression(driver: Driver) -> None:
    driver.register(workflow("sells", event("sold", "redis:${workflow.input.region}")))
    driver.do(StartWorkflow("default", "sells", 0, "w", IfExists.FAIL, b'{"region":"eu"}'))
    assert [one.stream for one in owed(driver)] == ["eu"]


def test_a_stream_without_a_name_fails_the_task(driver: Driver) -> None:
    driver.register(workflow("sells", event("sold", "${workflow.input.sink}")))
    driver.do(StartWorkflow("default", "sells", 0, "w", IfExists.FAIL, b'{"sink":"redis:"}'))
    assert driver.header("w").status is WorkflowStatus.FAILED
    assert "redis:NAME" in driver.latest("sold").reason
    assert owed(driver) == []


def test_events_of_one_step_are_owed_in_the_order_in_which_they_happened(driver: Driver) -> None:
    told = {"onScheduled": [{"type": "begins", "sink": "redis:orders"}],
            "onSuccess": [{"type": "over", "sink": "redis:orders"}]}
    driver.register(workflow("sells", event("a", "redis:orders"), event("b", "redis:orders", onStateChange=told),
                             **{**LISTENED, "workflowStatusListenerSink": "redis:orders"}))
    start(driver, "sells")
    assert [one.event for one in owed(driver)] == ["a", "begins", "b", "over", "status"]
    assert len({one.event_id for one in owed(driver)}) == 5


# --- what tasks and workflows tell of themselves


def test_the_listener_of_tasks_is_told_of_each_change_of_each_task(driver: Driver) -> None:
    driver.register(workflow("w", simple("a"), event("b", "conductor"), taskStatusListenerSink="redis:tasks"))
    driver.worker("s", "a")
    start(driver, "w")
    driver.give("a", b"{}")
    said = [msgspec.json.decode(one.payload) for one in owed(driver)]
    assert [(one["referenceTaskName"], one["taskStatus"]) for one in said] == [
        ("a", "SCHEDULED"), ("a", "IN_PROGRESS"), ("a", "COMPLETED"), ("b", "SCHEDULED"), ("b", "COMPLETED")]
    assert {one.event for one in owed(driver)} == {"task"}
    assert said[0]["workflowType"] == "w"


def test_the_listener_of_a_workflow_is_told_of_each_status(driver: Driver) -> None:
    driver.register(workflow("w", simple("a"), **LISTENED))
    start(driver, "w")
    driver.ok(PauseWorkflow("default", "w"))
    driver.ok(ResumeWorkflow("default", "w"))
    said = [(one.stream, one.source, msgspec.json.decode(one.payload)["status"]) for one in owed(driver)]
    assert said == [("status", "workflow", "PAUSED"), ("status", "workflow", "RUNNING")]


def test_a_change_is_told_without_its_payload_when_there_is_no_room(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"onScheduled": [{"type": "begins", "sink": "redis:orders", "payload": {"long": "x" * 2000}}]}
    driver.register(workflow("w", simple("a", onStateChange=told)))
    monkeypatch.setattr(limits, "OUTBOX_BYTES", 1000)
    start(driver, "w")
    [one] = owed(driver)
    said = msgspec.json.decode(one.payload)
    assert "long" not in said
    assert (said["payloadOmitted"], said["referenceTaskName"]) == (True, "a")


# --- acknowledging


def test_what_is_acknowledged_is_owed_no_more_and_again_is_nothing(driver: Driver) -> None:
    driver.register(workflow("sells", event("a", "redis:x"), event("b", "redis:y"), event("c", "redis:x")))
    start(driver, "sells")
    first, second, third = (one.number for one in owed(driver))
    index = driver.state.triggers.owed
    assert (index.streams(), index.count, index.count_of("x")) == (["x", "y"], 3, 2)
    assert [one.number for one in index.of("x", 1)] == [first]
    assert driver.do(AcknowledgeEvents((third, second))) == Done()
    assert driver.do(AcknowledgeEvents((third, 999))) == Done()
    assert [one.number for one in owed(driver)] == [first]
    oldest = index.oldest("x")
    assert oldest is not None and oldest.number == first and index.oldest("y") is None
    driver.ok(AcknowledgeEvents((first,)))
    assert (index.streams(), index.count, index.bytes) == ([], 0, 0)
    start(driver, "sells", "again")
    assert owed(driver)[0].number == third + 1


# --- limits


def test_a_full_outbox_keeps_starts_away_then_events_and_nothing_else(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OUTBOX_EVENTS", 2)
    driver.register(workflow("sells", event("a", "redis:x")), workflow("listened", simple("s"), **LISTENED),
                    workflow("plain", simple("t")), workflow("hidden", event("e", "${workflow.input.sink}")))
    for number in range(2):
        assert not isinstance(start(driver, "sells", f"w{number}"), Rejected)
    refused = start(driver, "sells", "w2")
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.reason) == (Code.RESOURCE_EXHAUSTED, "OUTBOX_FULL")
    assert isinstance(start(driver, "listened", "w3"), Rejected)
    assert not isinstance(start(driver, "plain", "w4"), Rejected)
    # What it will publish is not known before, and twice as much is left for what has begun.
    for number in range(3):
        command = StartWorkflow("default", "hidden", 0, f"h{number}", IfExists.FAIL, b'{"sink":"redis:z"}')
        assert not isinstance(driver.do(command), Rejected)
    statuses = [driver.header(f"h{number}").status for number in range(3)]
    assert statuses == [WorkflowStatus.COMPLETED, WorkflowStatus.COMPLETED, WorkflowStatus.FAILED]
    assert driver.latest("e", workflow_id="h2").error_code == "OUTBOX_FULL"
    driver.ok(AcknowledgeEvents(tuple(one.number for one in owed(driver))))
    assert not isinstance(start(driver, "sells", "w2"), Rejected)


# --- before the level


def test_below_its_level_everything_is_as_it_was() -> None:
    driver = Driver()
    for document, path in (
        (workflow("w", event("a", "redis:x")), "tasks[0].sink"),
        (workflow("w", simple("a"), **LISTENED), "workflowStatusListenerSink"),
        (workflow("w", simple("a"), taskStatusListenerSink="redis:x"), "taskStatusListenerSink"),
        (workflow("w", simple("a", onStateChange={"onStart": [{"type": "t", "sink": "redis:x"}]})),
         "tasks[0].onStateChange.onStart[0].sink"),
    ):
        command = RegisterWorkflows("default", (msgspec.json.encode(document),), True)
        refused = driver.do(command)
        assert isinstance(refused, Rejected)
        assert dict(refused.metadata)["path"] == path
        raised = Driver(level=HIGHEST)
        assert raised.do(command) == Done(), document
    driver.register(workflow("w", event("a", "${workflow.input.sink}")))
    driver.do(StartWorkflow("default", "w", 0, "w", IfExists.FAIL, b'{"sink":"redis:x"}'))
    assert driver.latest("a").reason == "the sink 'redis:x' is not supported, conductor and conductor:NAME are"
    driver.ok(RaiseBehaviour(HIGHEST))
    driver.do(StartWorkflow("default", "w", 0, "w2", IfExists.FAIL, b'{"sink":"redis:x"}'))
    assert [one.workflow_id for one in owed(driver)] == ["w2"]
