"""Entries of streams outside: each takes effect once, and what can't be handled is owed to another stream."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from orchestrator.engine import behaviour, limits
from orchestrator.engine.commands import DecideEvent, DeleteEventHandler, PublishEvent, RaiseBehaviour
from orchestrator.engine.model import Table
from orchestrator.engine.outbox_commands import AcknowledgeEvents
from orchestrator.engine.results import Code, EventPublished, EventsReceived, Rejected
from orchestrator.engine.stream_commands import ReceiveEvents, StreamEntry
from orchestrator.engine.triggers import streams
from orchestrator.engine.triggers.rows import EventRow, EventRunState, OwedEvent, StreamRow
from tests.engine.driver import START_MS, Driver
from tests.engine.triggers.making import action, busy_driver, event_runs, input_of, put_handler

ORDERS = "redis:orders"
START = action("start_workflow", name="report", input={"order": "${order.id}"})
HOPELESS = action("terminate_workflow", workflowId="gone")


@pytest.fixture
def driver() -> Driver:
    return busy_driver(behaviour.HIGHEST)


def row(driver: Driver, event: str = ORDERS, namespace: str = "default") -> StreamRow | None:
    return streams.row(driver.state, namespace, event)


def kept(driver: Driver) -> StreamRow:
    found = row(driver)
    assert found is not None
    return found


def at(after: int) -> str:
    """The id of an entry that was written so long after the handler was put."""
    return f"{START_MS + after}-0"


def entry(after: int, event_id: str = "", payload: Any = None, **fields: str) -> StreamEntry:
    given = {"order": {"id": after}} if payload is None else payload
    return StreamEntry(at(after), event_id, given if isinstance(given, bytes) else msgspec.json.encode(given), **fields)


def receive(driver: Driver, *entries: StreamEntry, restarted: bool = False, namespace: str = "default") -> Any:
    return driver.do(ReceiveEvents(namespace, ORDERS, entries, restarted))


def counts(driver: Driver) -> tuple[int, int, int]:
    """(received, repeated, dead)"""
    return kept(driver).received, kept(driver).repeated, kept(driver).dead


def dead_letters(driver: Driver) -> list[OwedEvent]:
    return cast(list[OwedEvent], list(driver.state.resident[Table.OUTBOX].values()))


def orders(driver: Driver) -> list[int]:
    """Of the executions that were started, in their order."""
    started = [run for run in event_runs(driver) if run.action == "start_workflow"]
    return [input_of(driver, run.workflow_id)["order"] for run in started]


def waiting(driver: Driver) -> list[EventRow]:
    return list(driver.state.resident[Table.EVENT].values())


# --- which streams are read


def test_a_stream_is_read_from_its_first_active_handler_on(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS, active=False)
    assert row(driver) is None and driver.state.triggers.streams == {}
    driver.now_ms += 5_000
    put_handler(driver, START, event=ORDERS, name="other")
    assert row(driver) == StreamRow("default", ORDERS, at(4_000))
    assert driver.state.triggers.streams == {("default", ORDERS): None}
    put_handler(driver, START, event="conductor:orders", name="inside")
    assert len(driver.state.resident[Table.STREAM]) == 1


def test_its_place_is_kept_while_there_is_a_handler(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    receive(driver, entry(1))
    driver.now_ms += 60_000
    put_handler(driver, START, event=ORDERS, active=False)
    assert kept(driver).cursor == at(1) and driver.state.triggers.streams == {}
    put_handler(driver, START, event=ORDERS)
    assert kept(driver).cursor == at(1) and driver.state.triggers.streams
    put_handler(driver, START, event=ORDERS, name="other")
    driver.ok(DeleteEventHandler("default", "h"))
    assert kept(driver).cursor == at(1)
    driver.ok(DeleteEventHandler("default", "other"))
    assert driver.state.resident[Table.STREAM] == {} == driver.state.triggers.streams
    put_handler(driver, START, event=ORDERS)
    assert kept(driver).cursor == at(59_000)


def test_a_handler_of_another_event_leaves_its_stream(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    put_handler(driver, START, event="redis:bills")
    assert row(driver) is None and row(driver, "redis:bills") is not None


def test_each_namespace_reads_by_itself(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    receive(driver, entry(1))
    refused = receive(driver, entry(1), namespace="other")
    assert isinstance(refused, Rejected) and refused.reason == "STREAM_NOT_HANDLED"
    assert row(driver, namespace="other") is None and orders(driver) == [1]


def test_at_the_first_level_a_stream_is_an_event_like_any_other() -> None:
    driver = busy_driver()
    put_handler(driver, START, HOPELESS, event=ORDERS)
    put_handler(driver, START, event="redis:", name="nameless")
    result = receive(driver, entry(1))
    assert isinstance(result, Rejected) and (result.code, result.reason) == (
        Code.FAILED_PRECONDITION, "STREAM_NOT_HANDLED",
    )
    assert driver.ok(PublishEvent("default", ORDERS, "", b'{"order":{"id":1}}')) == EventPublished(1, 1)
    assert [run.state for run in event_runs(driver)] == [EventRunState.COMPLETED, EventRunState.FAILED]
    assert (driver.state.resident[Table.STREAM], driver.state.triggers.streams, dead_letters(driver)) == ({}, {}, [])


def test_its_handlers_are_those_of_a_stream_once_the_level_is_raised() -> None:
    driver = busy_driver()
    for name, event, active in (("a", ORDERS, True), ("b", "redis:bills", False), ("c", "redis:", True)):
        put_handler(driver, START, name=name, event=event, active=active)
    driver.now_ms += 5_000
    driver.ok(RaiseBehaviour(behaviour.STREAMS))
    assert driver.state.resident[Table.STREAM] == {("default", ORDERS): StreamRow("default", ORDERS, at(4_000))}
    receive(driver, entry(4_001))
    assert orders(driver) == [4_001]
    driver.ok(RaiseBehaviour(behaviour.STREAMS))
    assert kept(driver).cursor == at(4_001)


def test_a_stream_has_a_name(driver: Driver) -> None:
    result = put_handler(driver, START, event="redis:")
    assert isinstance(result, Rejected) and (result.code, dict(result.metadata)) == (
        Code.INVALID_ARGUMENT, {"path": "event"},
    )
    assert driver.state.resident[Table.EVENT_HANDLER] == {}
    assert not isinstance(put_handler(driver, START, event="redis:" + "x" * 194), Rejected)
    assert isinstance(put_handler(driver, START, event="redis:" + "x" * 195), Rejected)


# --- once each


def test_entries_take_effect_in_their_order(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    assert receive(driver, entry(1), entry(2), entry(5)) == EventsReceived(3)
    assert orders(driver) == [1, 2, 5]
    assert (kept(driver).cursor, counts(driver)) == (at(5), (3, 0, 0))
    assert waiting(driver) == [] == dead_letters(driver)


def test_what_stands_before_the_cursor_has_been_taken_up(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    receive(driver, entry(1), entry(2))
    assert receive(driver, entry(1), entry(2), entry(2), entry(3)) == EventsReceived(4)
    assert receive(driver, entry(-1_000), entry(2), entry(3)) == EventsReceived(3)
    assert (orders(driver), counts(driver)) == ([1, 2, 3], (3, 6, 0))


@pytest.mark.parametrize(
    ("first", "second"), [("9-0", "10-0"), ("5-9", "5-10"), ("5-99", "6-0"), ("0-1", "18446744073709551615-0")]
)
def test_ids_are_two_numbers(driver: Driver, first: str, second: str) -> None:
    put_handler(driver, START, event=ORDERS)
    entries = [StreamEntry(each, "", b'{"order":{"id":1}}') for each in (first, second)]
    receive(driver, *entries, restarted=True)
    assert kept(driver).cursor == second and len(orders(driver)) == 2
    receive(driver, entries[0])
    assert kept(driver).cursor == second and len(orders(driver)) == 2


def test_an_event_that_comes_again_in_another_entry_is_known_by_its_id(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    assert receive(driver, entry(1, "e"), entry(2, "e"), entry(3, "f")) == EventsReceived(3)
    assert receive(driver, entry(4, "e")) == EventsReceived(1)
    assert (orders(driver), counts(driver), kept(driver).cursor) == ([1, 3], (2, 2, 0), at(4))
    # Whoever publishes it by hand, too.
    assert driver.ok(PublishEvent("default", ORDERS, "f", b"{}")).repeated


def test_an_entry_without_an_event_id_is_known_by_its_own(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    receive(driver, entry(1))
    assert [run.message_id for run in event_runs(driver)] == [at(1)]


def test_the_cursor_knows_what_the_event_ids_have_forgotten(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENTS_SEEN", 2)
    put_handler(driver, START, event=ORDERS)
    entries = [entry(number, f"e{number}") for number in range(1, 6)]
    receive(driver, *entries)
    driver.wait(2 * limits.EVENT_SEEN_MS)
    assert receive(driver, *entries) == EventsReceived(5)
    assert (orders(driver), counts(driver)) == ([1, 2, 3, 4, 5], (5, 5, 0))


def test_a_stream_that_has_lost_its_entries_begins_anew(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    receive(driver, entry(10, "a"), entry(11, "b"))
    again = [StreamEntry("3-0", "b", b'{"order":{"id":11}}'), StreamEntry("4-0", "c", b'{"order":{"id":12}}')]
    assert receive(driver, *again, restarted=True) == EventsReceived(2)
    assert (orders(driver), kept(driver).cursor) == ([10, 11, 12], "4-0")
    # The same command once more, as from a leader that has not heard of the answer.
    assert receive(driver, *again, restarted=True) == EventsReceived(2)
    assert (orders(driver), counts(driver)) == ([10, 11, 12], (3, 3, 0))
    assert receive(driver, restarted=True) == EventsReceived(0) and kept(driver).cursor == streams.START


def test_a_replica_that_restored_its_rows_goes_on_alike(driver: Driver) -> None:
    put_handler(driver, START, HOPELESS, event=ORDERS)
    put_handler(driver, START, event="redis:bills", name="off", active=False)
    receive(driver, entry(1, "a"))
    twin = driver.restart()
    for each in (driver, twin):
        assert receive(each, entry(1, "a"), entry(2, "a"), entry(3, "b")) == EventsReceived(3)
        each.ok(DeleteEventHandler("default", "off"))
    assert twin.machine.chain == driver.machine.chain and twin.rows() == driver.rows()
    assert twin.state.triggers.streams == driver.state.triggers.streams == {("default", ORDERS): None}


# --- what an event carries


def test_the_correlation_id_and_the_trace_go_with_the_event(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    put_handler(driver, action("start_workflow", name="report", correlationId="own"), event=ORDERS, name="named")
    receive(driver, entry(1, "e", correlation_id="o-1", trace="00-ab"))
    found = {run.handler: driver.header(run.workflow_id) for run in event_runs(driver)}
    assert {name: header.correlation_id for name, header in found.items()} == {"h": "o-1", "named": "own"}
    assert {header.trace for header in found.values()} == {"00-ab"}


# --- no room


@pytest.mark.parametrize(("limit", "value"), [("EVENTS_FROM_STREAMS", 2), ("EVENT_BYTES_FROM_STREAMS", 40)])
def test_entries_wait_in_their_stream_while_too_many_events_are_unhandled(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(limits, limit, value)
    put_handler(driver, START, event=ORDERS, condition="true")
    entries = [entry(number) for number in range(1, 5)]
    assert receive(driver, *entries) == EventsReceived(2, "EVENTS_FULL")
    assert kept(driver).cursor == at(2)
    assert receive(driver, *entries) == EventsReceived(2, "EVENTS_FULL")
    # There is room for events that have no stream to wait in.
    assert driver.ok(PublishEvent("default", "other", "", b"{}")) == EventPublished(0, 0)
    assert driver.ok(PublishEvent("default", ORDERS, "by hand", b'{"order":{"id":9}}')).handlers == 1
    for number in (1, 2, 3):
        driver.ok(DecideEvent(number, "h", 1, True))
    assert receive(driver, *entries) == EventsReceived(4)
    for number in (4, 5):
        driver.ok(DecideEvent(number, "h", 1, True))
    assert orders(driver) == [1, 2, 9, 3, 4]


def test_one_step_takes_up_so_many(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAM_WORK_PER_STEP", 5)
    for name in ("one", "two"):
        put_handler(driver, START, name=name, event=ORDERS)
    entries = [entry(number) for number in range(1, 4)]
    assert receive(driver, *entries) == EventsReceived(2, "STEP_FULL")
    assert receive(driver, *entries) == EventsReceived(3)
    assert orders(driver) == [1, 1, 2, 2, 3, 3]


def test_nothing_is_taken_up_whose_failure_there_would_be_no_room_for(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OUTBOX_EVENTS", 1)
    put_handler(driver, HOPELESS, event=ORDERS, condition="true")
    receive(driver, entry(1, "a"), entry(2, "b"))
    for number in (1, 2):
        # Both had been taken up.
        driver.ok(DecideEvent(number, "h", 1, True))
    assert [each.event_id for each in dead_letters(driver)] == ["a/default/h/0", "b/default/h/0"]
    for each in (entry(3), entry(3, invalid="no event")):
        assert receive(driver, entry(1), each) == EventsReceived(1, "OUTBOX_FULL")
    assert (kept(driver).cursor, len(dead_letters(driver))) == (at(2), 2)
    driver.ok(AcknowledgeEvents((1, 2)))
    assert receive(driver, entry(3, invalid="no event")) == EventsReceived(1)
    assert len(dead_letters(driver)) == 1


def test_many_failures_of_what_was_taken_up_are_told_without_payload(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OUTBOX_BYTES", 30)
    put_handler(driver, *[HOPELESS] * 3, event=ORDERS)
    receive(driver, entry(1, payload={"some": "twenty bytes and more"}))
    assert [each.payload for each in dead_letters(driver)] == [
        b'{"some":"twenty bytes and more"}', b'{"payloadOmitted":true}', b'{"payloadOmitted":true}',
    ]


# --- what can't be handled


@pytest.mark.parametrize(
    ("made", "reason", "payload"),
    [
        (entry(1, "e", {"found": "x"}, invalid="payload: it is not a JSON object"),
         "payload: it is not a JSON object", b'{"found":"x"}'),
        (entry(1, "e", b"[1]"), "payload: it is not a JSON object", b'{"payload":"[1]"}'),
        (entry(1, "e", b'\xff"'), "payload: it is not UTF-8", '{"payload":"\ufffd\\""}'.encode()),
        (entry(1, "e", b'{"a":{"$blob":{}}}'), "payload: the key $blob is reserved",
         b'{"payload":"{\\"a\\":{\\"$blob\\":{}}}"}'),
        (entry(1, "e", correlation_id="c" * 201), "correlation_id: it has 201 characters, the limit is 200",
         b'{"order":{"id":1}}'),
    ],
)
def test_an_entry_that_is_no_event_is_a_dead_letter(
    driver: Driver, made: StreamEntry, reason: str, payload: bytes
) -> None:
    put_handler(driver, START, event=ORDERS)
    assert receive(driver, msgspec.structs.replace(made, source="shop", trace="00-ab"), entry(2)) == EventsReceived(2)
    [letter] = dead_letters(driver)
    assert (letter.namespace, letter.stream, letter.event) == ("default", "orders:dead-letters", ORDERS)
    assert (letter.event_id, letter.payload, letter.source) == (f"e/default/{at(1)}", payload, "shop")
    assert (letter.reason, letter.trace) == (reason, "00-ab")
    assert (orders(driver), counts(driver)) == ([2], (2, 0, 1))


def test_an_event_id_has_so_many_characters(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    receive(driver, entry(1, "e" * 201))
    [letter] = dead_letters(driver)
    assert letter.reason == "event_id: it has 201 characters, the limit is 200"
    assert letter.event_id == f"{'e' * 200}/default/{at(1)}"


def test_an_event_whose_entry_was_invalid_may_come_in_another_one(driver: Driver) -> None:
    put_handler(driver, START, event=ORDERS)
    receive(driver, entry(1, "e", b"?"), entry(2, "e"))
    assert (orders(driver), len(dead_letters(driver))) == ([2], 1)


def test_each_action_that_fails_is_a_dead_letter(driver: Driver) -> None:
    put_handler(driver, HOPELESS, START, action("complete_task", workflowId="${no}", taskRefName="a"), event=ORDERS)
    receive(driver, entry(1, "e", correlation_id="c", trace="00-ab"))
    letters = {letter.event_id: letter for letter in dead_letters(driver)}
    assert set(letters) == {"e/default/h/0", "e/default/h/2"}
    letter = letters["e/default/h/0"]
    assert (letter.stream, letter.event, letter.source) == ("orders:dead-letters", ORDERS, "handler/h")
    assert (letter.payload, letter.reason) == (b'{"order":{"id":1}}', "no workflow has the id 'gone'")
    assert (letter.correlation_id, letter.trace, letter.time_ms) == ("c", "00-ab", driver.state.meta.log_time_ms)
    assert letters["e/default/h/2"].reason == "workflowId is empty"
    assert (orders(driver), counts(driver)) == ([1], (1, 0, 2))


@pytest.mark.parametrize(("error", "count"), [("x is not defined", 1), ("", 0)])
def test_a_condition_that_breaks_is_a_dead_letter_and_one_that_is_false_is_not(
    driver: Driver, error: str, count: int
) -> None:
    put_handler(driver, START, event=ORDERS, condition="x")
    receive(driver, entry(1, "e"))
    driver.ok(DecideEvent(1, "h", 1, False, error))
    assert [(each.event_id, each.reason) for each in dead_letters(driver)] == [("e/default/h/0", error)] * count
    assert waiting(driver) == []


def test_what_fails_for_an_event_of_the_cluster_is_only_recorded(driver: Driver) -> None:
    put_handler(driver, HOPELESS)
    driver.ok(PublishEvent("default", "paid", "e", b"{}"))
    assert [run.state for run in event_runs(driver)] == [EventRunState.FAILED] and dead_letters(driver) == []


def test_a_dead_letter_of_a_stream_that_is_handled_no_longer_is_owed_all_the_same(driver: Driver) -> None:
    put_handler(driver, HOPELESS, event=ORDERS)
    driver.messages_per_entry = 0
    driver.index += 1
    driver.machine.begin_entry(driver.index, 1, driver.now_ms)
    driver.machine.apply(ReceiveEvents("default", ORDERS, (entry(1, "e"),)))
    # The handler has begun, its action is under way.
    driver.machine.apply_message()
    driver.machine.end_entry(b"1")
    driver.messages_per_entry = 1000
    driver.ok(DeleteEventHandler("default", "h"))
    assert row(driver) is None and [each.source for each in dead_letters(driver)] == ["handler/h"]


# --- what is refused


@pytest.mark.parametrize(
    ("entry_id", "field"), [("5", 1), ("", 1), ("5-", 1), ("5-1x", 1), ("-1-0", 1), ("٥-1", 1), (at(1), 2)]
)
def test_entries_are_given_in_the_order_of_their_stream(driver: Driver, entry_id: str, field: int) -> None:
    put_handler(driver, START, event=ORDERS)
    before = driver.rows()
    given = [entry(1), StreamEntry(entry_id, "", b"{}"), entry(3)]
    if field == 2:
        given = [entry(1), entry(2), StreamEntry(entry_id, "", b"{}")]
    result = receive(driver, *given)
    assert isinstance(result, Rejected) and (result.code, result.reason) == (
        Code.INVALID_ARGUMENT, "ENTRY_ID_INVALID",
    )
    assert dict(result.metadata) == {"field": f"entries[{field}].entry_id"}
    assert {mark: kept for mark, kept in driver.rows().items() if mark[0] is not Table.META} == {
        mark: kept for mark, kept in before.items() if mark[0] is not Table.META
    }


@pytest.mark.parametrize("how", ["never", "inactive", "deleted"])
def test_what_nobody_handles_stays_in_its_stream(driver: Driver, how: str) -> None:
    if how != "never":
        put_handler(driver, START, event=ORDERS)
    if how == "inactive":
        put_handler(driver, START, event=ORDERS, active=False)
    if how == "deleted":
        driver.ok(DeleteEventHandler("default", "h"))
    result = receive(driver, entry(1))
    assert isinstance(result, Rejected) and result.reason == "STREAM_NOT_HANDLED"
    assert event_runs(driver) == [] and driver.state.resident[Table.EVENT_SEEN] == {}
