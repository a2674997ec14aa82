"""Trails: under a correlation id, which events there were, who published them, and what they led to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import behaviour, limits
from orchestrator.engine.commands import PublishEvent, RaiseBehaviour, StartWorkflow
from orchestrator.engine.model import Table
from orchestrator.engine.results import EventPublished, Rejected
from orchestrator.engine.stream_commands import ReceiveEvents, StreamEntry
from orchestrator.engine.triggers import queries
from orchestrator.engine.triggers.events import BELONGS_TO_NOTHING, KEPT
from orchestrator.engine.triggers.rows import TrailEntry, TrailKind
from tests.engine.driver import START_MS, Driver, workflow
from tests.engine.triggers.making import action, busy_driver, event_runs, put_handler

START = action("start_workflow", name="report")
WAITS = {"name": "pay", "taskReferenceName": "pay", "type": "WAIT", "inputParameters": {"signal": "never"}}
TELLS = {"name": "tell", "taskReferenceName": "tell", "type": "EVENT", "sink": "conductor:told"}


@pytest.fixture
def driver() -> Driver:
    driver = busy_driver()
    driver.register(workflow("waiter", WAITS), workflow("teller", TELLS))
    driver.ok(RaiseBehaviour(behaviour.STREAMS))
    return driver


def publish(driver: Driver, payload: Any = None, message_id: str = "", event: str = "paid", **fields: Any) -> Any:
    given = msgspec.json.encode({} if payload is None else payload)
    return driver.do(PublishEvent("default", event, message_id, given, **fields))


def start(driver: Driver, name: str, correlation_id: str = "c", workflow_id: str = "w") -> None:
    command = StartWorkflow("default", name, 0, workflow_id, 0, b"{}", correlation_id=correlation_id)  # type: ignore[arg-type]
    driver.ok(command)


def trail(driver: Driver, correlation_id: str = "c") -> list[TrailEntry]:
    return queries.trail(driver.state, "default", correlation_id)


def kinds(driver: Driver, correlation_id: str = "c") -> list[str]:
    return [entry.kind.name for entry in trail(driver, correlation_id)]


# --- what comes in


def test_an_event_from_elsewhere_and_what_it_has_started_are_told(driver: Driver) -> None:
    put_handler(driver, START)
    publish(driver, message_id="m", correlation_id="c", source="shop")
    [came, done] = trail(driver)
    assert came == TrailEntry(1, "default", "c", driver.now_ms, TrailKind.IN, "paid", "m", "shop")
    started = event_runs(driver)[0].workflow_id
    assert done == TrailEntry(
        2, "default", "c", driver.now_ms, TrailKind.DONE, "paid", "m", "h", "report", started, 1, "start_workflow"
    )
    assert driver.header(started).correlation_id == "c"


@pytest.mark.parametrize(
    ("payload", "correlation_id"),
    [
        ({"correlationId": "c"}, "c"),
        ({"correlation_id": "c"}, "c"),
        ({"correlation_id": "d", "correlationId": "c"}, "c"),
        ({"correlationId": 7, "correlation_id": "c"}, "c"),
        ({"correlationId": ""}, ""),
        ({"correlationId": "x" * 201}, ""),
        ({"correlationId": "a\nb"}, ""),
        ({"inner": {"correlationId": "c"}}, ""),
        ({}, ""),
    ],
)
def test_the_payload_may_name_it(driver: Driver, payload: Any, correlation_id: str) -> None:
    put_handler(driver, START)
    publish(driver, payload)
    assert kinds(driver) == (["IN", "DONE"] if correlation_id else [])
    assert driver.header(event_runs(driver)[0].workflow_id).correlation_id == correlation_id
    assert len(driver.state.resident[Table.TRAIL]) == 2 * bool(correlation_id)


def test_what_the_publisher_says_comes_before_what_the_payload_says(driver: Driver) -> None:
    publish(driver, {"correlationId": "d"}, correlation_id="c")
    assert (kinds(driver), kinds(driver, "d")) == (["IN"], [])


@pytest.mark.parametrize(("named", "has"), [("other", "other"), ("", ""), (None, ""), ("${$.gone}", "")])
def test_a_correlation_id_that_the_action_names_wins(driver: Driver, named: Any, has: str) -> None:
    put_handler(driver, action("start_workflow", name="report", correlationId=named))
    publish(driver, correlation_id="c")
    assert driver.header(event_runs(driver)[0].workflow_id).correlation_id == has
    assert kinds(driver) == ["IN", "DONE"]
    assert kinds(driver, "other") == (["DONE"] if has else [])


def test_an_event_that_nobody_handles_is_told_and_a_repeated_one_is_not(driver: Driver) -> None:
    for _ in range(2):
        publish(driver, message_id="m", correlation_id="c")
    assert kinds(driver) == ["IN"] and not driver.state.resident[Table.EVENT]


def test_a_refused_event_is_not_told(driver: Driver) -> None:
    assert isinstance(publish(driver, correlation_id="c", event=""), Rejected)
    assert trail(driver) == []


def test_a_payload_that_is_none_names_nothing(driver: Driver) -> None:
    refused = driver.do(PublishEvent("default", "paid", "", b'{"correlationId":'))
    assert isinstance(refused, Rejected) and refused.reason == "PAYLOAD_INVALID"


def test_an_entry_that_is_no_event_is_told_with_the_reason(driver: Driver) -> None:
    put_handler(driver, START, event="redis:s")
    entries = [
        StreamEntry(f"{driver.now_ms}-1", "", b'{"correlationId":', "shop", "c"),
        StreamEntry(f"{driver.now_ms}-2", "", b"{}", "shop", "c", invalid="no JSON"),
    ]
    driver.ok(ReceiveEvents("default", "redis:s", tuple(entries)))
    assert [(each.kind, each.failed, each.source) for each in trail(driver)] == [(TrailKind.IN, True, "shop")] * 2
    letters = driver.state.triggers.owed.of("s:dead-letters", 9)
    assert [each.reason for each in trail(driver)] == [letter.reason for letter in letters]


@pytest.mark.parametrize("field", ["correlation_id", "source"])
def test_what_is_too_long_is_refused(driver: Driver, field: str) -> None:
    refused = publish(driver, **{field: "x" * 201})
    assert isinstance(refused, Rejected)
    assert (refused.reason, refused.metadata) == ("NAME_TOO_LONG", (("field", field),))


# --- what goes out, and what is done


def test_a_chain_of_workflows_is_one_trail(driver: Driver) -> None:
    """An event starts a workflow, whose own event starts another one."""
    put_handler(driver, action("start_workflow", name="teller"))
    put_handler(driver, START, name="g", event="conductor:teller:told")
    publish(driver, message_id="m", correlation_id="c", source="shop")
    came, began, out, last = trail(driver)
    assert [each.kind.name for each in (came, began, out, last)] == ["IN", "DONE", "OUT", "DONE"]
    assert (out.source, out.workflow, out.workflow_id) == ("task/tell", "teller", began.workflow_id)
    assert (out.event, last.follows, last.workflow) == ("conductor:teller:told", out.number, "report")
    assert driver.header(last.workflow_id).correlation_id == "c"


def test_statuses_and_changes_of_tasks_are_told_where_somebody_hears_them(driver: Driver) -> None:
    announced = {**WAITS, "onStateChange": {"onScheduled": [{"type": "waits", "payload": {}}]}}
    heard = {"workflowStatusListenerEnabled": True, "workflowStatusListenerSink": "conductor"}
    driver.register(workflow("loud", announced, **heard))
    for number, event in enumerate(("conductor:loud:waits", "conductor:loud:status")):
        put_handler(driver, action("record"), name=f"h{number}", event=event)
    ends = action("complete_task", workflowId="w", taskRefName="pay")
    put_handler(driver, ends, name="ends", event="end")
    start(driver, "loud")
    publish(driver, event="end")
    assert [(each.kind.name, each.source, each.event) for each in trail(driver)] == [
        ("OUT", "task/pay", "conductor:loud:waits"),
        ("DONE", "ends", "end"),
        ("OUT", "workflow", "conductor:loud:status"),
    ]


def test_what_goes_to_streams_is_told_but_for_what_a_listener_hears_of_all_tasks(driver: Driver) -> None:
    heard = {"workflowStatusListenerEnabled": True, "workflowStatusListenerSink": "redis:s"}
    driver.register(workflow("streams", {**TELLS, "sink": "redis:s"}, **heard, taskStatusListenerSink="redis:s"))
    start(driver, "streams")
    owed = [row for row in driver.state.triggers.owed.of("s", 100) if row.event != "task"]
    told = trail(driver)
    assert [(each.event_id, each.name, each.source) for each in told] == [
        (row.event_id, row.event, row.source) for row in owed
    ]
    assert [(each.event, each.name) for each in told] == [("redis:s", "tell"), ("redis:s", "status")]


def test_what_is_done_to_a_workflow_is_told_under_its_own_correlation_id_too(driver: Driver) -> None:
    start(driver, "waiter", "mine")
    put_handler(driver, action("complete_task", workflowId="w", taskRefName="pay"))
    publish(driver, correlation_id="c")
    [done] = trail(driver, "mine")
    assert (done.event, done.workflow, done.workflow_id, done.follows) == ("paid", "waiter", "w", 0)
    assert kinds(driver) == ["IN", "DONE"]


def test_an_event_that_comes_before_who_waits_for_it_is_told_when_it_is_taken(driver: Driver) -> None:
    awaits = {**WAITS, "inputParameters": {"event": "paid", "correlationKey": "k"}}
    driver.register(workflow("awaits", awaits))
    put_handler(driver, action("correlate", correlationKey="k"))
    start(driver, "awaits", workflow_id="first")
    for message_id in ("m", "n"):
        publish(driver, message_id=message_id, correlation_id="c")
    start(driver, "awaits", workflow_id="later")
    told = [(line.entry.event_id, line.entry.workflow_id, line.follows, line.entry.source, line.entry.reason)
            for line in queries.trail_lines(trail(driver), []) if line.entry and line.entry.kind is TrailKind.DONE]
    assert told == [("m", "first", 1, "h", ""), ("n", "", 3, "h", KEPT), ("n", "later", 3, "", "")]


def test_what_could_not_be_done_is_told_with_the_reason(driver: Driver) -> None:
    gone = action("complete_task", workflowId="gone", taskRefName="x")
    put_handler(driver, gone, action("start_workflow", name="nothing", correlationId="d"))
    publish(driver, correlation_id="c")
    reasons = {each.action: each.reason for each in trail(driver) if each.failed}
    assert reasons == {
        "complete_task": "no workflow has the id 'gone'", "start_workflow": "no workflow definition is called nothing",
    }
    assert [each.reason for each in trail(driver, "d")] == [reasons["start_workflow"]]


def test_a_long_reason_is_cut(driver: Driver) -> None:
    put_handler(driver, action("start_workflow", name="${name}"))
    publish(driver, {"name": "n" * 1_000}, correlation_id="c")
    assert len(trail(driver)[1].reason) == limits.TRAIL_REASON_CHARS


# --- the action `record`


def test_services_that_talk_among_themselves_are_followed(driver: Driver) -> None:
    put_handler(driver, action("record", correlationId="${order.id}", service="${by}", event="${what}"))
    for by, what in (("shop", "placed"), ("billing", "paid")):
        publish(driver, {"order": {"id": "c"}, "by": by, "what": what}, event="paid")
    assert [(each.kind.name, each.source, each.name, each.event) for each in trail(driver)] == [
        ("IN", "shop", "placed", "paid"), ("IN", "billing", "paid", "paid"),
    ]
    assert {(run.action, run.state.name) for run in event_runs(driver)} == {("record", "COMPLETED")}


def test_an_event_is_told_once(driver: Driver) -> None:
    put_handler(driver, action("record", service="${by}", correlationId="c"))
    publish(driver, {"by": "shop"}, correlation_id="c")
    [came] = trail(driver)
    assert (came.source, came.number) == ("shop", 1)


def test_who_published_it_is_known_of_a_workflow(driver: Driver) -> None:
    put_handler(driver, action("record", service="liar", event="label"), event="conductor:teller:told")
    start(driver, "teller")
    [out] = trail(driver)
    assert (out.kind, out.source, out.name) == (TrailKind.OUT, "task/tell", "label")


def test_what_an_event_is_recorded_under_is_its_own_for_what_follows(driver: Driver) -> None:
    put_handler(driver, action("record", correlationId="${id}"), START)
    publish(driver, {"id": "c"})
    came, done = trail(driver)
    assert (done.follows, driver.header(done.workflow_id).correlation_id) == (came.number, "c")


def test_one_of_another_id_keeps_its_own(driver: Driver) -> None:
    put_handler(driver, action("record", correlationId="d"), START)
    publish(driver, correlation_id="c")
    assert (kinds(driver), kinds(driver, "d")) == (["IN", "DONE"], ["IN"])


@pytest.mark.parametrize(
    ("parameters", "state", "reason"),
    [
        ({}, "SKIPPED", BELONGS_TO_NOTHING),
        ({"correlationId": "${gone}"}, "SKIPPED", BELONGS_TO_NOTHING),
        ({"correlationId": "${long}"}, "FAILED", "correlationId has more than 200 characters"),
        ({"service": "${long}"}, "FAILED", "service has more than 200 characters"),
    ],
)
def test_what_cannot_be_recorded_is_said(driver: Driver, parameters: Any, state: str, reason: str) -> None:
    put_handler(driver, action("record", **parameters))
    publish(driver, {"long": "x" * 201})
    [run] = event_runs(driver)
    assert (run.state.name, run.reason, run.action) == (state, reason, "record")
    assert not driver.state.resident[Table.TRAIL]


@pytest.mark.parametrize("parameters", [{"service": 7}, {"workflowId": "w"}, {"correlationId": "${"}])
def test_a_record_that_breaks_a_rule_is_refused(driver: Driver, parameters: Any) -> None:
    refused = put_handler(driver, action("record", **parameters))
    assert isinstance(refused, Rejected) and "actions[0].record" in refused.message


# --- bounds and levels


def test_the_oldest_goes(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRAIL_KEPT", 3)
    for number in range(5):
        publish(driver, correlation_id="c", source=f"s{number}")
    assert [each.source for each in trail(driver)] == ["s2", "s3", "s4"]
    publish(driver, correlation_id="other")
    assert [each.source for each in trail(driver)] == ["s3", "s4"]
    assert queries.trail(driver.restart().state, "default", "c") == trail(driver)


def test_a_record_comes_too_late_for_an_entry_that_is_gone(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRAIL_KEPT", 1)
    put_handler(driver, action("record", correlationId="d"), action("record", service="s"))
    publish(driver, correlation_id="c")
    [came] = trail(driver)
    assert (came.source, came.number) == ("s", 3)


def test_without_a_correlation_id_nothing_is_kept(driver: Driver) -> None:
    put_handler(driver, START)
    start(driver, "teller", "")
    publish(driver, {"id": 1}, source="shop")
    assert driver.state.resident[Table.TRAIL] == {} and driver.state.meta.next_trail == 1


def test_below_the_level_all_is_as_it_was() -> None:
    driver = busy_driver()
    driver.register(workflow("teller", TELLS))
    put_handler(driver, START)
    put_handler(driver, START, name="g", event="conductor:teller:told")
    start(driver, "teller")
    assert publish(driver, {"correlationId": "c"}) == EventPublished(2, 1)
    assert driver.state.resident[Table.TRAIL] == {} and driver.state.meta.next_trail == 1
    assert {driver.header(run.workflow_id).correlation_id for run in event_runs(driver)} == {""}
    refused = put_handler(driver, action("record"))
    assert isinstance(refused, Rejected) and "'record' is none of start_workflow, complete_task" in refused.message
    named = [PublishEvent("default", "e", "", b"{}", **{field: "x"}) for field in ("correlation_id", "source")]
    assert [behaviour.level_needed(each) for each in named] == [behaviour.STREAMS] * 2
    assert behaviour.level_needed(PublishEvent("default", "e", "", b"{}")) == behaviour.LOWEST


# --- together with workflows


def test_a_workflow_ends_before_it_tells_so(driver: Driver) -> None:
    heard = {"workflowStatusListenerEnabled": True, "workflowStatusListenerSink": "redis:s"}
    driver.register(workflow("loud", TELLS, **heard))
    start(driver, "loud")
    lines = queries.trail_lines(trail(driver), [driver.header()])
    assert [(line.entry.source if line.entry else "", line.is_end) for line in lines] == [
        ("", False), ("task/tell", False), ("", True), ("workflow", False),
    ]


def test_what_a_stream_brings_back_was_caused_by_who_has_published_it(driver: Driver) -> None:
    driver.register(workflow("streams", {**TELLS, "sink": "redis:s"}))
    put_handler(driver, action("record"), event="redis:s")
    start(driver, "streams")
    [owed] = driver.state.triggers.owed.of("s", 10)
    entries = [
        StreamEntry(f"{driver.now_ms}-{number}", event_id, b"{}", source, owed.correlation_id)
        for number, (event_id, source) in enumerate(((owed.event_id, owed.source), ("e", "billing")))
    ]
    driver.ok(ReceiveEvents("default", "redis:s", tuple(entries)))
    lines = queries.trail_lines(trail(driver), [])
    assert [(line.entry and line.entry.source, line.follows) for line in lines] == [
        ("task/tell", 0), ("task/tell", 1), ("billing", 0),
    ]


def test_workflows_stand_between_what_has_started_them_and_what_they_tell(driver: Driver) -> None:
    put_handler(driver, action("start_workflow", name="teller"))
    publish(driver, correlation_id="c")
    entries = trail(driver)
    told = entries[1].workflow_id
    start(driver, "waiter", "c", "early")
    found = [driver.header("early"), driver.header(told)]
    lines = queries.trail_lines(entries, found)
    shown = [
        (line.entry.kind.name if line.entry else line.execution and line.execution.name, line.is_end, line.follows)
        for line in lines
    ]
    assert shown == [
        ("waiter", False, 0), ("IN", False, 0), ("DONE", False, 1), ("teller", False, 2), ("OUT", False, 0),
        ("teller", True, 0),
    ]
    assert len({line.key for line in lines}) == len(lines)
    for most in (1, 2, 4):
        paged: list[Any] = []
        while more := queries.trail_lines(entries, found, after=paged[-1].key if paged else "", most=most):
            paged += more
        assert paged == lines
    assert {line.time_ms for line in lines} == {START_MS}
