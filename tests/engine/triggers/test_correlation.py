"""Events for whoever waits for them: each goes to one task, whichever of the two comes first."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from orchestrator.engine import limits
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.choices import DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import (
    Continue,
    DeleteWorkflow,
    MigrateWorkflow,
    PauseWorkflow,
    PublishEvent,
    PutEventHandler,
    RaiseBehaviour,
    RegisterWorkflows,
    RerunWorkflow,
    RestartWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
    SignalWorkflow,
    TerminateWorkflow,
    UpdateTask,
)
from orchestrator.engine.explain import explain
from orchestrator.engine.messages import GiveEvent
from orchestrator.engine.model import Table, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Rejected
from orchestrator.engine.triggers import events
from orchestrator.engine.triggers.rows import AwaitingTask, EventRun, EventRunState, KeptEvent
from tests.engine.driver import Driver, simple, workflow
from tests.engine.triggers.making import action, busy_driver, event_runs, handler, put_handler

ONE = ("default", "w")
PAID = {"event": "paid", "correlationKey": "${workflow.input.order}"}
CORRELATE = action("correlate", correlationKey="${order}")


def waiting(given: Any = None, **fields: Any) -> dict[str, Any]:
    inputs = PAID if given is None else given
    return {"name": "pay", "taskReferenceName": "pay", "type": "WAIT", "inputParameters": inputs, **fields}


@pytest.fixture
def driver() -> Driver:
    driver = busy_driver(STREAMS)
    driver.register(workflow("waiter", waiting(), outputParameters={"got": "${pay.output}"}))
    put_handler(driver, CORRELATE)
    return driver


def start(driver: Driver, workflow_id: str = "w", order: Any = "o-1", name: str = "waiter") -> None:
    driver.start(name, workflow_id, msgspec.json.encode({"order": order}))


def publish(driver: Driver, order: Any = "o-1", message_id: str = "", event: str = "paid", **more: Any) -> Any:
    given = msgspec.json.encode({"order": order, **more})
    return driver.ok(PublishEvent("default", event, message_id, given))


def got(driver: Driver, workflow_id: str = "w") -> Any:
    """What the WAIT has come to; None while it waits."""
    attempt = driver.latest("pay", workflow_id)
    return msgspec.json.decode(driver.hot(workflow_id).load(attempt.output)) if attempt.output else None


def awaiting(driver: Driver) -> list[tuple[str, str, str]]:
    rows = cast(dict[Any, AwaitingTask], driver.state.resident[Table.AWAITING])
    return [(row.event, row.key, row.workflow_id) for _, row in sorted(rows.items())]


def kept(driver: Driver) -> list[KeptEvent]:
    rows = cast(dict[Any, KeptEvent], driver.state.resident[Table.KEPT_EVENT])
    return [row for _, row in sorted(rows.items())]


def last(driver: Driver) -> EventRun:
    return event_runs(driver)[-1]


def on_its_way(driver: Driver, workflow_id: str = "w") -> None:
    """The event has found its task, which is that of this execution, and has not arrived: from here on, the driver
    lags."""
    driver.lags, driver.messages_per_entry = True, 1
    publish(driver)
    expect_on_its_way(driver, workflow_id)


def expect_on_its_way(driver: Driver, workflow_id: str) -> None:
    [message] = driver.state.messages.values()
    assert isinstance(message, GiveEvent) and message.workflow_id == workflow_id
    driver.messages_per_entry = 0


def arrive(driver: Driver) -> None:
    driver.lags, driver.messages_per_entry = False, 1000
    driver.entry(Continue())


# --- whichever comes first


@pytest.mark.parametrize("first", ["event", "task"])
def test_an_event_and_the_task_that_waits_for_it_meet(driver: Driver, first: str) -> None:
    if first == "task":
        start(driver)
        assert (got(driver), awaiting(driver)) == (None, [("paid", "o-1", "w")])
    publish(driver, message_id="m", amount=7)
    if first == "event":
        assert (last(driver).state, last(driver).workflow_id) == (EventRunState.COMPLETED, "")
        assert last(driver).reason == events.KEPT
        start(driver)
    else:
        assert (last(driver).state, last(driver).workflow_id, last(driver).reason) == (EventRunState.COMPLETED, "w", "")
    assert last(driver).action == "correlate"
    assert got(driver) == {
        "order": "o-1", "amount": 7, "conductor.event.messageId": "m", "conductor.event.name": "paid",
    }
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert (awaiting(driver), kept(driver)) == ([], [])
    assert driver.state.resident[Table.EVENT] == {}


def test_only_what_is_waited_for_is_given(driver: Driver) -> None:
    start(driver)
    put_handler(driver, CORRELATE, name="h2", event="other")
    publish(driver, "o-2")
    publish(driver, event="other")
    assert (got(driver), len(kept(driver))) == (None, 2)
    publish(driver)
    assert got(driver) is not None and len(kept(driver)) == 2


def test_each_event_is_given_to_one_task_the_one_that_has_waited_longest(driver: Driver) -> None:
    for workflow_id in ("c", "a", "b"):
        start(driver, workflow_id)
    for number, workflow_id in enumerate(("c", "a", "b")):
        publish(driver, n=number)
        assert got(driver, workflow_id)["n"] == number
        assert [one for one in ("a", "b", "c") if got(driver, one) is not None].count(workflow_id) == 1
    assert [run.workflow_id for run in event_runs(driver)] == ["c", "a", "b"]


def test_the_oldest_event_is_taken_first(driver: Driver) -> None:
    for number in range(3):
        publish(driver, n=number)
    for number in range(3):
        start(driver, f"w{number}")
        assert got(driver, f"w{number}")["n"] == number


def test_an_execution_may_wait_for_several(driver: Driver) -> None:
    second = {**waiting({"event": "paid", "correlationKey": "k"}), "taskReferenceName": "second"}
    fork = {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": [[waiting()], [second]]}
    join = {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["pay", "second"]}
    driver.register(workflow("two", fork, join))
    start(driver, order="k", name="two")
    publish(driver, "k", n=1)
    assert (got(driver)["n"], driver.latest("second").status) == (1, TaskStatus.IN_PROGRESS)
    publish(driver, "k", n=2)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_the_same_message_id_is_given_once(driver: Driver) -> None:
    start(driver, "a")
    start(driver, "b")
    publish(driver, message_id="m")
    assert publish(driver, message_id="m").repeated
    assert got(driver, "a") is not None and got(driver, "b") is None


# --- what is given, and to whom


def test_the_action_says_which_event_it_is_and_what_is_given(driver: Driver) -> None:
    given = {"event": "${kind}", "correlationKey": "o-${order.id}", "output": {"cents": "${order.cents}"}}
    put_handler(driver, action("correlate", True, **given), event="raw")
    start(driver)
    publish(driver, '{"id":1,"cents":5}', "m", "raw", kind="paid")
    assert got(driver) == {"cents": 5, "conductor.event.messageId": "m", "conductor.event.name": "raw"}


@pytest.mark.parametrize(("order", "key"), [(17, "17"), ("17", "17"), (True, "true")])
def test_a_key_is_compared_as_text(driver: Driver, order: Any, key: str) -> None:
    start(driver, order=order)
    assert awaiting(driver) == [("paid", key, "w")]
    publish(driver, "17" if key == "17" else order)
    assert got(driver) is not None


BAD_KEYS = [
    ("", "correlationKey is empty"),
    (None, "correlationKey is empty"),
    ("x" * 201, "correlationKey has more than 200 characters"),
    ([1], "correlationKey is a list or an object, it must be a text or a number"),
]


@pytest.mark.parametrize(("order", "reason"), BAD_KEYS)
def test_what_can_be_no_key_fails_the_task(driver: Driver, order: Any, reason: str) -> None:
    start(driver, order=order)
    attempt = driver.latest("pay")
    assert (attempt.status, attempt.reason) == (TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason)
    assert awaiting(driver) == []


@pytest.mark.parametrize(("order", "reason"), BAD_KEYS)
def test_what_can_be_no_key_fails_the_action(driver: Driver, order: Any, reason: str) -> None:
    publish(driver, order)
    assert (last(driver).state, last(driver).reason, kept(driver)) == (EventRunState.FAILED, reason, [])


def test_an_event_that_comes_to_nothing_fails_the_action(driver: Driver) -> None:
    put_handler(driver, action("correlate", event="${kind}", correlationKey="k"))
    publish(driver)
    assert (last(driver).state, last(driver).reason) == (EventRunState.FAILED, "event is empty")


HALF = [
    ({"event": "paid"}, "correlationKey: it is missing"),
    ({"correlationKey": "k"}, "event: it is missing"),
    ({"event": "", "correlationKey": "k"}, "event: it has 1 to 200 characters"),
    ({"event": "paid", "correlationKey": "x" * 201}, "correlationKey: it has 1 to 200 characters"),
    ({"event": "paid", "correlationKey": [1]}, "correlationKey: it must be a text or a number"),
    *(
        ({**PAID, **more}, f"{key}: a WAIT for an event has none")
        for more in ({"duration": "1 s"}, {"until": "2030-01-01 00:00"}, {"signal": "s"})
        for key in more
    ),
]


@pytest.mark.parametrize(("given", "reason"), HALF)
def test_a_new_definition_says_all_of_it_and_nothing_else(driver: Driver, given: Any, reason: str) -> None:
    fork = {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": [[waiting(given)]]}
    document = msgspec.json.encode(workflow("wrong", fork, {**simple("j"), "type": "JOIN", "joinOn": ["pay"]}))
    refused = driver.do(RegisterWorkflows("default", (document,), True))
    assert isinstance(refused, Rejected) and refused.reason == "DEFINITION_INVALID"
    assert refused.message.startswith(f"tasks[0].forkTasks[0][0].inputParameters.{reason}")
    assert driver.start("wrong", document=document) == refused
    before = busy_driver()
    before.ok(RegisterWorkflows("default", (document,), True))


@pytest.mark.parametrize("given", [one for one, _ in HALF])
def test_what_was_registered_before_runs_on(given: Any) -> None:
    """With half of it, it is a WAIT for a signal; with all of it, one for an event, which says why it fails."""
    driver = busy_driver()
    driver.register(workflow("before", waiting(given)))
    driver.ok(RaiseBehaviour(STREAMS))
    start(driver, name="before")
    attempt = driver.latest("pay")
    is_half = len(given) == 1
    assert (attempt.status is TaskStatus.IN_PROGRESS) is is_half
    assert bool(attempt.reason) is not is_half
    if is_half:
        driver.ok(SignalWorkflow(*ONE, "pay", b"{}"))
        assert driver.header().status is WorkflowStatus.COMPLETED


def test_what_is_forked_at_run_time_may_wait_for_an_event(driver: Driver) -> None:
    fork = {
        "name": "f", "taskReferenceName": "f", "type": "FORK_JOIN_DYNAMIC", "dynamicForkTasksParam": "tasks",
        "dynamicForkTasksInputParamName": "inputs",
        "inputParameters": {"tasks": [waiting({})], "inputs": {"pay": {"event": "paid", "correlationKey": "k"}}},
    }
    driver.register(workflow("forked", fork, {**simple("j"), "type": "JOIN"}))
    start(driver, name="forked")
    publish(driver, "k")
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- a task that has gone


def test_an_event_whose_task_has_gone_meanwhile_goes_to_the_next(driver: Driver) -> None:
    start(driver, "a")
    start(driver, "b")
    on_its_way(driver, "a")
    driver.ok(TerminateWorkflow("default", "a", "", TerminateCompensation.SKIP))
    arrive(driver)
    assert (got(driver, "b")["order"], last(driver).workflow_id) == ("o-1", "b")
    assert (awaiting(driver), kept(driver)) == ([], [])


ENDS: dict[str, Any] = {
    "terminated": TerminateWorkflow(*ONE, "", TerminateCompensation.SKIP),
    "undone": TerminateWorkflow(*ONE, "", TerminateCompensation.RUN),
    "completed": UpdateTask(*ONE, "pay", TaskStatus.COMPLETED, b"{}"),
    "failed": UpdateTask(*ONE, "pay", TaskStatus.FAILED, b"{}"),
}


@pytest.mark.parametrize("how", ENDS)
def test_an_event_whose_task_ends_while_it_is_on_its_way_is_kept_in_its_place(driver: Driver, how: str) -> None:
    driver.worker("s", "a")
    driver.register(workflow("order", simple("a", undo="undo_a"), waiting(), simple("b")))
    start(driver, name="order")
    driver.give("a")
    driver.lags, driver.messages_per_entry = True, 0
    publish(driver, n=1)
    publish(driver, n=2)
    driver.messages_per_entry = 2
    driver.entry(Continue())
    # The first has found the task, and the second was kept.
    expect_on_its_way(driver, "w")
    assert (got(driver), len(kept(driver))) == (None, 1)
    assert waits_for(driver) == "an event that is on its way to it, or an update of the task"
    driver.ok(ENDS[how])
    arrive(driver)
    assert got(driver) in (None, {})
    assert [(run.state, run.workflow_id, run.reason) for run in event_runs(driver)] == [
        (EventRunState.COMPLETED, "", events.KEPT)
    ] * 2
    for number in (1, 2):
        start(driver, f"w{number}")
        assert got(driver, f"w{number}")["n"] == number


def test_an_event_on_its_way_to_an_execution_that_is_deleted_is_not_lost(driver: Driver) -> None:
    start(driver)
    driver.wait(1)
    on_its_way(driver)
    driver.ok(TerminateWorkflow(*ONE, "", TerminateCompensation.SKIP))
    driver.ok(DeleteWorkflow(*ONE, DeleteEffects.UNSET))
    arrive(driver)
    assert driver.is_gone("w") and len(kept(driver)) == 1
    start(driver)
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize("how", ENDS)
def test_who_has_ended_waits_no_more(driver: Driver, how: str) -> None:
    driver.worker("s", "a")
    driver.register(workflow("order", simple("a", undo="undo_a"), waiting(), simple("b")))
    start(driver, name="order")
    driver.give("a")
    assert awaiting(driver) == [("paid", "o-1", "w")]
    driver.ok(ENDS[how])
    assert awaiting(driver) == []
    publish(driver)
    assert len(kept(driver)) == 1


def test_a_wait_whose_time_is_over_waits_no_more_and_its_next_attempt_does(driver: Driver) -> None:
    limited = {"name": "pay", "timeoutSeconds": 60, "retryCount": 1, "retryDelaySeconds": 10, "timeoutPolicy": "RETRY"}
    driver.register(workflow("limited", waiting(taskDefinition=limited)))
    start(driver, name="limited")
    driver.wait(61_000)
    assert awaiting(driver) == []
    driver.wait(10_000)
    assert awaiting(driver) == [("paid", "o-1", "w")]
    publish(driver)
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize("again", ["retry", "restart", "rerun"])
def test_what_runs_again_waits_anew(driver: Driver, again: str) -> None:
    driver.worker("s", "b")
    driver.register(workflow("order", waiting(), simple("b", retryCount=0)))
    start(driver, name="order")
    publish(driver, n=1)
    if again == "retry":
        driver.ok(TerminateWorkflow(*ONE, "", TerminateCompensation.SKIP))
        driver.ok(RetryWorkflow(*ONE))
        assert (got(driver)["n"], awaiting(driver)) == (1, [])
        return
    driver.fail("b")
    attempt = driver.latest("pay")
    driver.ok(
        RestartWorkflow(*ONE, effects=DeleteEffects.UNSET) if again == "restart"
        else RerunWorkflow(*ONE, task_id=attempt.task_id)
    )
    assert (got(driver), awaiting(driver)) == (None, [("paid", "o-1", "w")])
    publish(driver, n=2)
    assert got(driver)["n"] == 2


def test_a_wait_that_was_cancelled_and_is_retried_waits_anew(driver: Driver) -> None:
    start(driver)
    driver.ok(TerminateWorkflow(*ONE, "", TerminateCompensation.SKIP))
    assert awaiting(driver) == []
    driver.ok(RetryWorkflow(*ONE))
    assert awaiting(driver) == [("paid", "o-1", "w")]
    publish(driver)
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_a_wait_that_is_moved_to_another_definition_waits_on(driver: Driver) -> None:
    start(driver)
    driver.register({**workflow("waiter", waiting({**PAID, "event": "other"}), simple("b")), "version": 2})
    driver.ok(MigrateWorkflow(*ONE, 2))
    assert awaiting(driver) == [("paid", "o-1", "w")]
    publish(driver)
    assert driver.latest("b").status is TaskStatus.SCHEDULED


def test_a_paused_workflow_gets_its_event(driver: Driver) -> None:
    start(driver)
    driver.ok(PauseWorkflow(*ONE))
    publish(driver)
    assert (driver.latest("pay").status, driver.header().status) == (TaskStatus.COMPLETED, WorkflowStatus.PAUSED)
    driver.ok(ResumeWorkflow(*ONE))
    assert driver.header().status is WorkflowStatus.COMPLETED


# --- bounds


def test_an_event_is_kept_for_a_day(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENTS_FORGOTTEN_PER_STEP", 2)
    for _ in range(4):
        publish(driver)
    driver.wait(limits.EVENT_KEPT_MS - 1)
    publish(driver, n=5)
    driver.wait(1)
    assert len(kept(driver)) == 5
    start(driver)
    # So many are forgotten by one step, and none that is too old is given.
    assert (got(driver)["n"], len(kept(driver))) == (5, 2)
    start(driver, "v")
    assert (got(driver, "v"), kept(driver)) == (None, [])


@pytest.mark.parametrize(("limit", "value"), [("EVENTS_KEPT", 2), ("EVENTS_KEPT_BYTES", 200)])
def test_what_is_kept_is_bounded(driver: Driver, monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    monkeypatch.setattr(limits, limit, value)
    for _ in range(3):
        publish(driver, message_id="")
    assert [run.state.name for run in event_runs(driver)] == ["COMPLETED", "COMPLETED", "FAILED"]
    assert last(driver).reason.startswith("nobody waits for it, and 2 events of ")
    assert (len(kept(driver)), driver.state.resident[Table.EVENT]) == (2, {})
    start(driver)
    publish(driver)
    assert last(driver).state is EventRunState.COMPLETED
    driver.wait(limits.EVENT_KEPT_MS)
    publish(driver)
    assert (last(driver).state, len(kept(driver))) == (EventRunState.COMPLETED, 1)


def test_an_event_whose_task_has_gone_may_find_no_room_either(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(driver)
    on_its_way(driver)
    monkeypatch.setattr(limits, "EVENTS_KEPT", 0)
    driver.ok(TerminateWorkflow(*ONE, "", TerminateCompensation.SKIP))
    arrive(driver)
    assert (last(driver).state, kept(driver)) == (EventRunState.FAILED, [])
    assert driver.state.resident[Table.EVENT] == {}


@pytest.mark.parametrize("first", ["event", "task"])
def test_an_event_for_which_an_execution_has_no_room_stays_for_another(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(limits, "EXECUTION_BYTES", 200)
    if first == "task":
        start(driver)
    publish(driver, text="x" * 200)
    if first == "event":
        start(driver)
    attempt = driver.latest("pay")
    assert (attempt.status, attempt.error_code) == (TaskStatus.FAILED_WITH_TERMINAL_ERROR, "LIMIT_EXCEEDED")
    assert len(kept(driver)) == 1
    monkeypatch.undo()
    start(driver, "v")
    assert got(driver, "v")["text"] == "x" * 200


# --- what is said of it


def waits_for(driver: Driver) -> str:
    return explain(driver.state, driver.hot())[0].waits_for


def test_it_is_said_what_is_waited_for(driver: Driver) -> None:
    start(driver)
    assert waits_for(driver) == "the event 'paid' with the key 'o-1', or an update of the task"


def test_a_key_that_readers_are_not_shown_is_not_said(driver: Driver) -> None:
    driver.register(workflow("masked", waiting(), maskedFields=["correlationKey"]))
    start(driver, name="masked")
    assert waits_for(driver) == "the event 'paid' with the key '***', or an update of the task"


def test_nobody_can_signal_a_wait_for_an_event(driver: Driver) -> None:
    start(driver)
    for name, refused in (("$event", True), ("pay", False)):
        assert isinstance(driver.do(SignalWorkflow(*ONE, name, b"{}")), Rejected) is refused
    assert got(driver) is None


# --- the action `signal`


def test_an_event_signals_a_workflow(driver: Driver) -> None:
    driver.register(workflow("signalled", waiting({"signal": "s-1"})))
    put_handler(driver, action("signal", workflowId="${order}", signal="s-${n}", payload={"n": "${n}"}))
    start(driver, name="signalled")
    publish(driver, "w", "m", n=1)
    assert got(driver) == {"n": 1, "conductor.event.messageId": "m", "conductor.event.name": "paid"}
    assert (last(driver).action, last(driver).workflow_id, last(driver).reason) == ("signal", "w", "")


def test_a_signal_by_an_event_is_kept_like_any_other(driver: Driver) -> None:
    driver.register(workflow("later", simple("a"), waiting({"signal": "go"})))
    put_handler(driver, action("signal", workflowId="w", signal="go"))
    driver.worker("s", "a")
    start(driver, name="later")
    publish(driver)
    assert driver.header().signals == 1
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"workflowId": "none", "signal": "s"}, "no workflow has the id 'none'"),
        ({"workflowId": "ended", "signal": "s"}, "the workflow has ended: TERMINATED"),
        ({"workflowId": "w", "signal": "$messages"}, "a signal's name can't begin with $"),
        ({"workflowId": "w", "signal": "${none}"}, "a signal's name has 1 to 200 characters"),
        ({"workflowId": "w", "signal": "s", "payload": {"x": ["${text}"] * 9}}, "the result exceeds the limit of"),
        ({"workflowId": "w", "signal": "full"}, "an execution keeps at most 1 signals and 1048576 bytes of them"),
    ],
)
def test_a_signal_that_is_refused_changes_nothing_but_its_record(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, parameters: Any, reason: str
) -> None:
    monkeypatch.setattr(limits, "SIGNALS", 1)
    start(driver)
    start(driver, "ended")
    driver.ok(TerminateWorkflow("default", "ended", "", TerminateCompensation.SKIP))
    driver.ok(SignalWorkflow(*ONE, "kept", b"{}"))
    put_handler(driver, action("signal", **parameters))
    before = driver.header()
    publish(driver, text="x" * 100_000)
    assert (last(driver).state, last(driver).action) == (EventRunState.FAILED, "signal")
    assert last(driver).reason.startswith(reason)
    assert driver.header() == before


# --- the level before


def test_below_its_level_none_of_this_is_known() -> None:
    driver = busy_driver()
    driver.register(workflow("waiter", waiting()))
    for made in (CORRELATE, action("signal", workflowId="w", signal="s")):
        refused = driver.do(PutEventHandler("default", msgspec.json.encode(handler(made))))
        assert isinstance(refused, Rejected) and refused.reason == "DEFINITION_INVALID"
    start(driver)
    assert (awaiting(driver), waits_for(driver)) == ([], "the signal 'pay', or an update of the task")
    driver.ok(RaiseBehaviour(STREAMS))
    driver.ok(SignalWorkflow(*ONE, "pay", b"{}"))
    assert driver.header().status is WorkflowStatus.COMPLETED
