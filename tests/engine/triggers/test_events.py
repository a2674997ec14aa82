"""Events: every action of every handler takes effect once, and what came of each is recorded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits, machine
from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import (
    Continue,
    DecideEvent,
    DeleteEventHandler,
    PauseWorkflow,
    PublishEvent,
    RetryWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.definitions.sinks import event_of_sink
from orchestrator.engine.model import Table, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Code, Done, EventPublished, Rejected
from orchestrator.engine.triggers import events
from orchestrator.engine.triggers.rows import EventRun, EventRunState
from tests.engine.driver import Driver, workflow
from tests.engine.triggers.making import action, busy_driver, event_runs, input_of, put_handler

START = action("start_workflow", name="report", input={"order": "${order.id}"})


@pytest.fixture
def driver() -> Driver:
    driver = busy_driver()
    waits = {"name": "pay", "taskReferenceName": "pay", "type": "WAIT", "inputParameters": {"signal": "never"}}
    driver.register(workflow("waiter", waits, outputParameters={"by": "${pay.output.by}"}, variables={"n": 1}))
    return driver


def publish(driver: Driver, payload: Any = None, message_id: str = "", event: str = "paid") -> Any:
    given = msgspec.json.encode({} if payload is None else payload)
    return driver.do(PublishEvent("default", event, message_id, given))


def undecided(driver: Driver) -> list[tuple[int, tuple[str, ...]]]:
    return [(row.number, row.undecided) for row in driver.state.resident[Table.EVENT].values()]


def outcomes(driver: Driver) -> list[tuple[str, str, str, str]]:
    return [(run.handler, run.action, run.state.name, run.reason) for run in event_runs(driver)]


def only(driver: Driver) -> EventRun:
    [run] = event_runs(driver)
    return run


# --- publishing


def test_an_event_without_a_handler_is_nothing(driver: Driver) -> None:
    put_handler(driver, START, name="elsewhere", event="other")
    put_handler(driver, START, name="asleep", active=False)
    assert publish(driver) == EventPublished(0, 0)
    assert (driver.state.resident[Table.EVENT], event_runs(driver)) == ({}, [])


def test_each_handler_does_each_of_its_actions(driver: Driver) -> None:
    put_handler(driver, START, START, name="two")
    put_handler(driver, START, name="one")
    assert publish(driver, {"order": {"id": 7}}) == EventPublished(1, 2)
    assert [(run.handler, run.position) for run in event_runs(driver)] == [("one", 0), ("two", 0), ("two", 1)]
    ids = {run.workflow_id for run in event_runs(driver)}
    assert len(ids) == 3 and all(input_of(driver, each)["order"] == 7 for each in ids)
    assert driver.state.resident[Table.EVENT] == {}


def test_the_same_message_id_takes_effect_once(driver: Driver) -> None:
    put_handler(driver, START)
    assert publish(driver, message_id="m") == EventPublished(1, 1)
    assert publish(driver, message_id="m") == EventPublished(1, 0, repeated=True)
    assert publish(driver, message_id="m2") == EventPublished(2, 1)
    assert publish(driver, message_id="m", event="other") == EventPublished(0, 0)
    assert len(event_runs(driver)) == 2


def test_one_that_nobody_handled_is_not_handled_later(driver: Driver) -> None:
    publish(driver, message_id="m")
    put_handler(driver, START)
    assert publish(driver, message_id="m") == EventPublished(0, 0, repeated=True)


def test_message_ids_are_remembered_for_a_day_and_not_more_than_so_many(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "EVENTS_SEEN", 3)
    for number in range(5):
        publish(driver, message_id=f"m{number}")
        driver.wait(1)
    seen = [row.message_id for row in driver.state.resident[Table.EVENT_SEEN].values()]
    assert seen == ["m2", "m3", "m4"]
    driver.wait(limits.EVENT_SEEN_MS)
    publish(driver, message_id="m5")
    assert [row.message_id for row in driver.state.resident[Table.EVENT_SEEN].values()] == ["m4", "m5"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (PublishEvent("default", "", "", b"{}"), "EVENT_NAME_INVALID"),
        (PublishEvent("default", "x" * 201, "", b"{}"), "EVENT_NAME_INVALID"),
        (PublishEvent("default", "e", "x" * 201, b"{}"), "MESSAGE_ID_TOO_LONG"),
        (PublishEvent("default", "e", "", b"[]"), "PAYLOAD_INVALID"),
        (PublishEvent("default", "e", "", b'{"x":"' + b"x" * 300_000 + b'"}'), "PAYLOAD_INVALID"),
    ],
)
def test_what_breaks_a_rule_is_refused(driver: Driver, command: Any, reason: str) -> None:
    result = driver.do(command)
    assert isinstance(result, Rejected) and result.reason == reason


@pytest.mark.parametrize(("limit", "value"), [("EVENTS", 2), ("EVENT_BYTES", 5)])
def test_events_that_wait_are_bounded(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    put_handler(driver, START, condition="true")
    monkeypatch.setattr(limits, limit, value)
    for _ in range(2):
        assert isinstance(publish(driver), EventPublished)
    result = publish(driver, message_id="m")
    assert isinstance(result, Rejected) and (result.code, result.reason) == (Code.RESOURCE_EXHAUSTED, "EVENTS_FULL")
    driver.ok(DecideEvent(1, "h", 1, False))
    assert publish(driver, message_id="m") == EventPublished(3, 1)


def test_an_execution_publishes_in_its_own_step(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an EVENT task does; the namespace is the execution's."""
    put_handler(driver, START, event="conductor:waiter:told")
    driver.start("waiter")

    def told(step: Any, command: Any) -> Any:
        step.open("default", "w")
        return events.publish(step, "conductor:waiter:told", "task-1", b'{"order":{"id":3}}')

    monkeypatch.setitem(machine.COMMANDS, Continue, told)
    assert driver.entry(Continue())[0] == EventPublished(1, 1)
    assert input_of(driver, only(driver).workflow_id)["order"] == 3


@pytest.mark.parametrize(
    ("sink", "event"),
    [
        ("conductor", "conductor:order:paid"), ("conductor:other", "conductor:order:other"), ("conductor:", ""),
        ("kafka:topic", ""), ("", ""), ("conductors", ""), ("conductor:a:b", "conductor:order:a:b"),
    ],
)
def test_the_internal_sinks_name_events_of_the_workflow(sink: str, event: str) -> None:
    """CONDUCTOR 1.5, EVENT: `conductor` = conductor:<workflow>:<ref>; `conductor:x` = conductor:<workflow>:x."""
    assert event_of_sink(sink, "order", "paid") == event


# --- conditions


def test_a_condition_is_waited_for(driver: Driver) -> None:
    put_handler(driver, START, condition="$.n > 1")
    put_handler(driver, START, name="always")
    publish(driver)
    assert undecided(driver) == [(1, ("h",))]
    assert [run.handler for run in event_runs(driver)] == ["always"]
    assert driver.ok(DecideEvent(1, "h", 1, True)) == Done()
    assert [run.handler for run in event_runs(driver)] == ["always", "h"]
    assert driver.state.resident[Table.EVENT] == {}


@pytest.mark.parametrize(
    ("verdict", "state", "reason"),
    [
        ({"holds": False}, EventRunState.SKIPPED, events.IS_FALSE),
        ({"holds": False, "error": "x is not defined"}, EventRunState.FAILED, "x is not defined"),
    ],
)
def test_a_condition_that_does_not_hold_is_recorded(
    driver: Driver, verdict: Any, state: EventRunState, reason: str
) -> None:
    """CONDUCTOR 1.7: false is recorded as SKIPPED."""
    put_handler(driver, START, condition="$.n > 1")
    publish(driver, message_id="m")
    driver.ok(DecideEvent(1, "h", 1, **verdict))
    run = only(driver)
    assert (run.state, run.reason, run.action, run.message_id) == (state, reason, "", "m")
    assert driver.state.resident[Table.EVENT] == {}


def test_a_second_verdict_means_nothing(driver: Driver) -> None:
    """Two leaders may have evaluated the condition."""
    put_handler(driver, START, condition="true")
    put_handler(driver, START, condition="true", name="other")
    publish(driver)
    for _ in range(2):
        driver.ok(DecideEvent(1, "h", 1, True))
    assert len(event_runs(driver)) == 1 and undecided(driver) == [(1, ("other",))]
    driver.ok(DecideEvent(9, "h", 1, True))


def test_a_verdict_on_another_condition_means_nothing(driver: Driver) -> None:
    put_handler(driver, START, condition="true")
    publish(driver)
    put_handler(driver, START, condition="false")
    driver.ok(DecideEvent(1, "h", 1, True))
    assert undecided(driver) == [(1, ("h",))]
    driver.ok(DecideEvent(1, "h", 2, False))
    assert only(driver).state is EventRunState.SKIPPED


@pytest.mark.parametrize("how", ["deleted", "inactive", "of another event"])
def test_a_handler_that_has_gone_by_then_is_recorded_as_skipped(driver: Driver, how: str) -> None:
    put_handler(driver, START, condition="true")
    publish(driver)
    if how == "deleted":
        driver.ok(DeleteEventHandler("default", "h"))
    else:
        put_handler(driver, START, condition="true", **({"active": False} if how == "inactive" else {"event": "x"}))
    driver.ok(DecideEvent(1, "h", 0, True))
    assert (only(driver).state, only(driver).reason) == (EventRunState.SKIPPED, events.GONE)
    assert driver.state.resident[Table.EVENT] == {}


def test_a_handler_that_is_given_a_condition_before_it_begins_has_to_be_decided_on(driver: Driver) -> None:
    put_handler(driver, START)
    driver.messages_per_entry = 0
    driver.index += 1
    driver.machine.begin_entry(driver.index, 1, driver.now_ms)
    driver.machine.apply(PublishEvent("default", "paid", "", b"{}"))
    driver.machine.end_entry(b"1")
    driver.messages_per_entry = 1000
    put_handler(driver, START, condition="$.n")
    assert undecided(driver) == [(1, ("h",))] and event_runs(driver) == []
    driver.ok(DecideEvent(1, "h", 2, True))
    assert only(driver).state is EventRunState.COMPLETED


# --- actions


def test_a_started_workflow_knows_its_event(driver: Driver) -> None:
    """CONDUCTOR 1.7 and its action processor: message id and name of the event are added to the input."""
    given = {
        "name": "${which}", "version": 1, "correlationId": "c-${order.id}", "priority": 3,
        "taskToDomain": {"a": "${where}"},
        "input": {"id": "${order.id}", "text": "no ${order.id}", "all": "${$.order}"},
    }
    put_handler(driver, action("start_workflow", **given))
    publish(driver, {"which": "report", "where": "eu", "order": {"id": 7}}, message_id="m")
    run = only(driver)
    assert (run.state, run.action) == (EventRunState.COMPLETED, "start_workflow")
    assert (run.event, run.event_number) == ("paid", 1)
    header = driver.header(run.workflow_id)
    assert (header.name, header.version, header.correlation_id, header.priority) == ("report", 1, "c-7", 3)
    assert (header.task_to_domain, header.created_by) == ((("a", "eu"),), "h")
    assert input_of(driver, run.workflow_id) == {
        "id": 7, "text": "no 7", "all": {"id": 7},
        "conductor.event.messageId": "m", "conductor.event.name": "paid",
    }


@pytest.mark.parametrize(("own", "chosen"), [({}, (("a", "eu"),)), ({"taskToDomain": {"a": "us"}}, (("a", "us"),))])
def test_domains_are_those_of_the_event_if_the_action_names_none(driver: Driver, own: Any, chosen: Any) -> None:
    """taskToDomain of the payload, as an EVENT task publishes it, is that of the workflow that it starts."""
    put_handler(driver, action("start_workflow", name="report", **own))
    publish(driver, {"taskToDomain": {"a": "eu", "b": 7}})
    assert driver.header(only(driver).workflow_id).task_to_domain == chosen


def test_a_task_is_completed_from_outside(driver: Driver) -> None:
    driver.start("waiter")
    put_handler(driver, action("complete_task", workflowId="${id}", taskRefName="pay", output={"by": "${by}"}))
    publish(driver, {"id": "w", "by": "card"}, message_id="m")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert driver.header().output == b'{"by":"card"}'
    output = driver.latest("pay").output
    assert isinstance(output, bytes) and msgspec.json.decode(output) == {
        "workflowId": "w", "taskId": None, "taskRefName": "pay", "reasonForIncompletion": None, "by": "card",
        "conductor.event.messageId": "m", "conductor.event.name": "paid",
    }
    assert (only(driver).workflow_id, only(driver).state) == ("w", EventRunState.COMPLETED)


def test_a_task_is_found_by_its_id_too_and_may_be_failed(driver: Driver) -> None:
    driver.start("waiter")
    put_handler(driver, action("fail_task", workflowId="w", taskId="${id}", reasonForIncompletion="no ${what}"))
    publish(driver, {"id": driver.latest("pay").task_id, "what": "money"})
    assert (driver.latest("pay").status, driver.latest("pay").reason) == (TaskStatus.FAILED, "no money")
    assert driver.header().status is WorkflowStatus.FAILED


def test_a_task_that_a_worker_has_is_taken_from_it(driver: Driver) -> None:
    driver.worker("s", "a", slots=1)
    driver.start("report")
    leased = driver.latest("a")
    put_handler(driver, action("complete_task", workflowId="w", taskRefName="a"))
    publish(driver)
    assert driver.latest("a").status is TaskStatus.COMPLETED
    assert driver.give(leased).verdict.name == "FENCED"
    assert driver.latest("b").status is TaskStatus.SCHEDULED


def test_a_failed_attempt_is_tried_again_like_any_other(driver: Driver) -> None:
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=0)
    driver.start("report")
    put_handler(driver, action("fail_task", workflowId="w", taskRefName="a"))
    publish(driver)
    assert (driver.latest("a").status, driver.latest("a").retry_count) == (TaskStatus.SCHEDULED, 1)


def test_a_task_of_a_paused_workflow_may_end(driver: Driver) -> None:
    driver.start("waiter")
    driver.ok(PauseWorkflow("default", "w"))
    put_handler(driver, action("complete_task", workflowId="w", taskRefName="pay"))
    publish(driver)
    assert driver.latest("pay").status is TaskStatus.COMPLETED
    assert driver.header().status is WorkflowStatus.PAUSED


def test_a_workflow_is_terminated_and_what_it_owes_is_undone(driver: Driver) -> None:
    driver.worker("s", "a", "undo_a")
    driver.start("report")
    driver.give("a")
    put_handler(driver, action("terminate_workflow", workflowId="w", terminationReason="stop ${n}"))
    publish(driver, {"n": 1})
    assert driver.header().status is WorkflowStatus.COMPENSATING
    driver.give(driver.undoing("a"))
    assert (driver.header().status, driver.header().reason) == (WorkflowStatus.TERMINATED, "stop 1")


def test_variables_are_updated_and_lists_may_grow(driver: Driver) -> None:
    driver.start("waiter")
    updates = action("update_workflow_variables", workflowId="w", variables={"n": 2, "l": ["${x}"]}, appendArray=True)
    put_handler(driver, updates)
    for each in (1, 2):
        publish(driver, {"x": each})
    assert driver.header().variables == b'{"n":2,"l":[1,2]}'
    put_handler(driver, action("update_workflow_variables", workflowId="w", variables={"l": []}))
    publish(driver)
    assert driver.header().variables == b'{"n":2,"l":[]}'


def test_strings_that_are_json_are_expanded_if_asked(driver: Driver) -> None:
    payload = {"inner": '{"a": {"b": [1, 2]}}', "text": "no json", "number": "17"}
    for expand in (False, True):
        put_handler(driver, action("start_workflow", expand, name="report", input={"b": "${inner.a.b}", "p": "${$}"}))
        publish(driver, payload)
    plain, expanded = (input_of(driver, run.workflow_id) for run in event_runs(driver))
    assert (plain["b"], plain["p"]) == (None, payload)
    assert expanded["b"] == [1, 2]
    assert expanded["p"] == {"inner": {"a": {"b": [1, 2]}}, "text": "no json", "number": "17"}


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (action("start_workflow", name="nothing"), "no workflow definition is called nothing"),
        (action("start_workflow", name="${no}"), "no workflow definition is called "),
        (action("start_workflow", name="report", version=9), "no workflow definition is called report version 9"),
        (action("complete_task", workflowId="gone", taskRefName="pay"), "no workflow has the id 'gone'"),
        (action("complete_task", workflowId="${no}", taskRefName="pay"), "workflowId is empty"),
        (action("complete_task", workflowId="w", taskRefName="other"),
         "no task with the reference 'other' has been made"),
        (action("complete_task", workflowId="w", taskId="other"), "there is no task 'other'"),
        (action("complete_task", workflowId="ended", taskRefName="pay"), "the workflow has ended: TERMINATED"),
        (action("terminate_workflow", workflowId="ended"), "the workflow has ended: TERMINATED"),
        (action("update_workflow_variables", workflowId="ended", variables={}), "the workflow has ended: TERMINATED"),
        (action("complete_task", workflowId="half", taskRefName="a"), "the task 'a' has ended: COMPLETED"),
        (action("start_workflow", name="report", input={"x": ["${$}"] * 200}), "the result exceeds the limit"),
    ],
)
def test_an_action_that_can_not_be_done_is_recorded_and_the_others_are_done(
    driver: Driver, wanted: Any, reason: str
) -> None:
    driver.start("waiter")
    driver.start("waiter", "ended")
    driver.ok(TerminateWorkflow("default", "ended", "", TerminateCompensation.SKIP))
    driver.worker("s", "a")
    driver.start("report", "half")
    driver.give("a", workflow_id="half")
    put_handler(driver, wanted, action("update_workflow_variables", workflowId="w", variables={"n": 2}))
    publish(driver, {"big": "x" * 3000})
    failed = next(run for run in event_runs(driver) if run.position == 0)
    assert failed.state is EventRunState.FAILED and failed.reason.startswith(reason)
    assert failed.action == wanted["action"]
    assert driver.header().variables == b'{"n":2}'
    assert driver.state.resident[Table.EVENT] == {}


def test_a_workflow_that_is_being_undone_is_out_of_reach(driver: Driver) -> None:
    driver.worker("s", "a")
    driver.start("report")
    driver.give("a")
    driver.ok(TerminateWorkflow("default", "w", "", TerminateCompensation.RUN))
    put_handler(driver, action("update_workflow_variables", workflowId="w", variables={"n": 2}))
    publish(driver)
    assert only(driver).reason == "the workflow is compensating: nothing of it goes forward any more"


def test_payloads_beyond_the_executions_limit_are_refused(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.start("waiter")
    monkeypatch.setattr(limits, "EXECUTION_BYTES", 100)
    put_handler(
        driver,
        action("complete_task", workflowId="w", taskRefName="pay", output={"x": "${x}"}),
        action("update_workflow_variables", workflowId="w", variables={"x": "${x}"}),
    )
    publish(driver, {"x": "x" * 200})
    assert {run.state for run in event_runs(driver)} == {EventRunState.FAILED}
    assert driver.latest("pay").status is TaskStatus.IN_PROGRESS


def test_only_the_newest_records_are_kept(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENT_RUNS_KEPT", 3)
    put_handler(driver, START)
    for _ in range(5):
        publish(driver)
    assert [run.number for run in event_runs(driver)] == [3, 4, 5]


# --- once, whatever breaks


@pytest.mark.patches_engine
def test_an_action_whose_step_breaks_is_recorded_and_nothing_waits_for_it(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.engine import walk

    driver.check = False
    put_handler(driver, START)
    with monkeypatch.context() as patched:
        patched.setattr(walk, "drain", lambda step: 1 // 0)
        publish(driver)
    assert only(driver).state is EventRunState.FAILED and "ZeroDivisionError" in only(driver).reason
    assert driver.state.resident[Table.EVENT] == {}


@pytest.mark.patches_engine
def test_a_handler_that_breaks_as_it_begins_is_recorded(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.check = False
    put_handler(driver, START)
    with monkeypatch.context() as patched:
        patched.setattr(events, "message_of", lambda *_: 1 // 0)
        publish(driver)
    assert outcomes(driver) == [("h", "", "FAILED", only(driver).reason)]
    assert driver.state.resident[Table.EVENT] == {}


def test_a_replica_that_restored_its_rows_goes_on_alike(driver: Driver) -> None:
    put_handler(driver, START, condition="true")
    put_handler(driver, START, START, name="always")
    publish(driver, {"order": {"id": 1}}, message_id="m")
    twin = driver.restart()
    for each in (driver, twin):
        assert publish(each, message_id="m").repeated
        each.ok(DecideEvent(1, "h", 1, True))
        publish(each, message_id="m2")
    assert twin.machine.chain == driver.machine.chain
    assert twin.rows() == driver.rows()
    assert twin.state.triggers.undecided == driver.state.triggers.undecided == {2: None}


def test_an_execution_that_went_cold_is_reached_too(driver: Driver) -> None:
    driver.check = False
    driver.evict = True
    driver.start("waiter")
    put_handler(driver, action("complete_task", workflowId="w", taskRefName="pay"))
    publish(driver)
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- handlers


def test_a_handler_that_is_deleted_or_changed_is_not_asked_any_more(driver: Driver) -> None:
    put_handler(driver, START)
    put_handler(driver, START, event="other")
    assert publish(driver).handlers == 0 and publish(driver, event="other").handlers == 1
    assert driver.do(DeleteEventHandler("default", "h")) == Done()
    assert publish(driver, event="other").handlers == 0
    result = driver.do(DeleteEventHandler("default", "h"))
    assert isinstance(result, Rejected) and result.reason == "EVENT_HANDLER_NOT_FOUND"


@pytest.mark.parametrize("limit", ["EVENT_HANDLERS", "EVENT_HANDLERS_OF_ONE"])
def test_there_may_be_so_many_handlers(driver: Driver, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(limits, limit, 1)
    put_handler(driver, START)
    assert put_handler(driver, START) == Done()
    result = put_handler(driver, START, name="other")
    assert isinstance(result, Rejected) and result.reason == "EVENT_HANDLERS_FULL"


def test_events_stay_in_their_namespace(driver: Driver) -> None:
    put_handler(driver, START)
    assert driver.do(PublishEvent("other", "paid", "", b"{}")) == EventPublished(0, 0)


def test_a_retried_workflow_is_reached_again(driver: Driver) -> None:
    driver.start("waiter")
    put_handler(driver, action("fail_task", workflowId="w", taskRefName="pay"))
    publish(driver)
    assert driver.header().status is WorkflowStatus.FAILED
    driver.ok(RetryWorkflow("default", "w"))
    put_handler(driver, action("complete_task", workflowId="w", taskRefName="pay"))
    publish(driver)
    assert driver.header().status is WorkflowStatus.COMPLETED
