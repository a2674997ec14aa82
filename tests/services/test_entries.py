"""Events as entries of streams, and entries as events: nothing is lost on the way, and what is none says why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.engine import limits
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX, check_payload
from orchestrator.engine.stream_commands import StreamEntry
from orchestrator.engine.triggers.rows import OwedEvent
from orchestrator.services.entries import entry_in, fields_out
from orchestrator.telemetry.traces import Headers

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OWED = OwedEvent(
    7, "shop", "orders", "e-1", "sold", b'{"a": 1}', 1_700_000_000_123, "task/sold", "sells", "w-1", "c-1",
    f"{TRACEPARENT}\nvendor=1", "")


TRACE: Headers = (("traceparent", TRACEPARENT), ("tracestate", "vendor=1"))


def entry(**fields: str | bytes) -> StreamEntry:
    raw = {name.encode(): value if isinstance(value, bytes) else value.encode() for name, value in fields.items()}
    return entry_in("5-0", raw)


def payload_of(found: StreamEntry) -> Any:
    assert not found.invalid
    return json.loads(found.payload)


def test_an_event_goes_out_with_all_that_is_known_of_it() -> None:
    assert {name: value.decode() for name, value in fields_out(OWED, TRACE).items()} == {
        "event_id": "e-1", "event": "sold", "payload": '{"a": 1}', "time": "2023-11-14T22:13:20.123Z",
        "source": "task/sold", "namespace": "shop", "workflow": "sells", "workflow_id": "w-1", "correlation_id": "c-1",
        "traceparent": TRACEPARENT, "tracestate": "vendor=1",
    }


def test_what_is_empty_is_left_out() -> None:
    bare = OwedEvent(1, "default", "orders", "e", "sold", b"{}", 0, "workflow", reason="too large")
    assert sorted(fields_out(bare, ())) == ["event", "event_id", "namespace", "payload", "reason", "source", "time"]


def test_what_went_out_comes_in_as_the_same_event() -> None:
    found = entry_in("5-0", {name.encode(): value for name, value in fields_out(OWED, TRACE).items()})
    assert (found.event_id, found.source, found.correlation_id) == ("e-1", "task/sold", "c-1")
    assert found.trace == f"{TRACEPARENT}\nvendor=1"
    assert payload_of(found) == {"a": 1, "headers": {
        "event": "sold", "time": "2023-11-14T22:13:20.123Z", "namespace": "shop", "workflow": "sells",
        "workflow_id": "w-1"}}


def test_without_an_id_the_event_has_that_of_its_entry() -> None:
    assert entry(payload="{}").event_id == "5-0"


def test_a_payload_keeps_its_text_and_its_own_headers() -> None:
    assert entry(payload='{"n": 1.10 }', event_id="e").payload == b'{"n": 1.10 }'
    assert payload_of(entry(payload='{"headers": 3}', colour="red")) == {"headers": 3}


def test_without_a_payload_the_fields_are_it() -> None:
    assert payload_of(entry(order="17", total="1.50")) == {"order": "17", "total": "1.50"}


@pytest.mark.parametrize("traceparent", ["", "nonsense", TRACEPARENT[:-1], TRACEPARENT.replace("00-", "ff-", 1)])
def test_what_is_no_trace_is_none(traceparent: str) -> None:
    assert entry(payload="{}", traceparent=traceparent, tracestate="vendor=1").trace == ""
    assert entry(payload="{}", traceparent=TRACEPARENT, tracestate="a\nb", baggage="user=1").trace == TRACEPARENT


@pytest.mark.parametrize(("fields", "why"), [
    ({"payload": "[1]"}, "payload: it is not a JSON object"),
    ({"payload": "{"}, "payload: it is not valid JSON"),
    ({"payload": b'{"a":"\xff"}'}, "payload: it is not UTF-8"),
    ({"payload": b'{"a":"' + b"x" * PAYLOAD_BYTES_MAX + b'"}'}, "the limit is"),
    ({"payload": b'{"a":"' + b"x" * (PAYLOAD_BYTES_MAX - 50) + b'"}', "more": "y" * 100}, "payload with headers"),
    ({"payload": "{}", "colour": b"\xff"}, "the field 'colour' is not UTF-8"),
    ({"payload": "{}", "event_id": "x" * (limits.NAME_CHARS + 1)}, "event_id has 201 characters; the limit is 200"),
    ({"payload": "{}", "correlation_id": "x\ny"}, "correlation_id has characters"),
    ({"payload": "{}", "source": "x" * 300}, "source has 300 characters"),
    ({"whole": "x" * PAYLOAD_BYTES_MAX}, "the fields: "),
])
def test_what_is_no_event_says_why_and_shows_what_was_found(fields: dict[str, str | bytes], why: str) -> None:
    found = entry(**fields)
    assert why in found.invalid
    check_payload(found.payload)
    shown = json.loads(found.payload)
    assert list(shown) == list(fields) and all(len(value) <= 2_000 for value in shown.values())


def test_an_invalid_entry_keeps_the_id_of_its_event() -> None:
    assert entry(event_id="e-9", payload="[]").event_id == "e-9"
    assert entry(event_id=b"\xff", payload="{}").event_id == "5-0"


def test_what_was_found_is_told_within_the_limits_whatever_it_is() -> None:
    raw = {bytes([0, 255, number]) * 300: b"\x00\xff" * 5_000 for number in range(200)}
    check_payload(entry_in("5-0", raw).payload)
