"""Every limit of the wire is checked at the door, and what breaks it is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.engine.commands import RequestIdentity
from orchestrator.rpc import requests
from orchestrator.rpc.errors import RpcFailure
from orchestrator_api.v1.common_pb2 import BlobRef, ClientSession, PageRequest, Payload
from orchestrator_api.v1.common_pb2 import RequestIdentity as Identity

ULID = "01JX0000000000000000000ABC"


def refusal(call: Callable[[], Any]) -> RpcFailure:
    with pytest.raises(RpcFailure) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("value", ["", "a", "x" * 200, "Bestellung ü", "two\nlines\tand tabs"])
def test_texts_within_their_limits_are_taken_as_they_are(value: str) -> None:
    assert requests.text("f", value) == value


def test_texts_beyond_their_limits_are_refused() -> None:
    failure = refusal(lambda: requests.text("name", "x" * 201))
    assert (failure.code.name, failure.metadata) == ("INVALID_ARGUMENT", {"field": "name", "limit": "200"})
    assert refusal(lambda: requests.text("name", "a\x00b")).metadata == {"field": "name"}
    assert refusal(lambda: requests.required("name", "")).metadata == {"field": "name"}
    assert requests.required("name", "x" * 300, 300) == "x" * 300


def test_no_namespace_is_the_default_one() -> None:
    assert requests.namespace_of("") == "default"
    assert requests.namespace_of("shop") == "shop"
    assert refusal(lambda: requests.namespace_of("x" * 201)).metadata["field"] == "namespace"


@pytest.mark.parametrize("value", ["$system", "$", "$mine"])
def test_the_clusters_own_namespaces_are_nobodys(value: str) -> None:
    assert refusal(lambda: requests.namespace_of(value)).metadata == {"field": "namespace"}


@pytest.mark.parametrize(("value", "fits"), [(-1, False), (0, True), (99, True), (100, False)])
def test_numbers_have_ranges(value: int, fits: bool) -> None:
    if fits:
        assert requests.in_range("priority", value, 0, 99) == value
    else:
        assert refusal(lambda: requests.in_range("priority", value, 0, 99)).metadata == {
            "field": "priority", "limit": "99"
        }


def test_a_request_may_have_no_identity_an_id_or_a_place_in_a_session() -> None:
    assert requests.identity_of(Identity()) is None
    assert requests.identity_of(Identity(request_id=ULID)) == RequestIdentity(request_id=ULID)
    session = ClientSession(id="s", sequence=3, lowest_unacknowledged=2)
    assert requests.identity_of(Identity(session=session)) == RequestIdentity("", "s", 3, 2)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (Identity(request_id="short"), "request.request_id"),
        (Identity(request_id=ULID + "X"), "request.request_id"),
        (Identity(request_id=ULID.lower()), "request.request_id"),
        (Identity(request_id="8" + ULID[1:]), "request.request_id"),
        (Identity(request_id="0I" + ULID[2:]), "request.request_id"),
        (Identity(session=ClientSession(id="", sequence=1)), "request.session"),
        (Identity(session=ClientSession(id="s", sequence=0)), "request.session"),
        (Identity(session=ClientSession(id="x" * 201, sequence=1)), "request.session.id"),
    ],
)
def test_an_identity_that_none_can_be_is_refused(given: Identity, field: str) -> None:
    assert refusal(lambda: requests.identity_of(given)).metadata["field"] == field


@pytest.mark.parametrize("data", [b"{}", b' {"a": 1.50} ', b'{"a":"' + b"x" * 262_136 + b'"}'])
def test_an_object_is_taken_byte_for_byte(data: bytes) -> None:
    assert requests.json_object("input", Payload(inline=data)) == data


def test_no_payload_is_an_empty_object() -> None:
    assert requests.json_object("input", Payload()) == b"{}"


@pytest.mark.parametrize(
    "data",
    [b"[]", b"1", b"null", b"{", b"{}x", b'{"a":\xff}', b'{"a":"' + b"x" * 262_137 + b'"}',
     b'{"a":' * 65 + b"1" + b"}" * 65],
    ids=["array", "number", "null", "broken", "trailing", "not-utf8", "large", "deep"],
)
def test_what_is_no_object_or_beyond_its_limits_is_refused(data: bytes) -> None:
    failure = refusal(lambda: requests.json_object("input", Payload(inline=data)))
    assert (failure.code.name, failure.metadata["field"]) == ("INVALID_ARGUMENT", "input")


def test_payloads_outside_the_log_are_not_served_yet() -> None:
    blob = Payload(blob=BlobRef(store="s3"))
    assert refusal(lambda: requests.json_object("input", blob)).code.name == "UNIMPLEMENTED"
    assert refusal(lambda: requests.json_value("details", blob, 10)).code.name == "UNIMPLEMENTED"


@pytest.mark.parametrize(("data", "value"), [(b"[1]", b"[1]"), (b"3.0", b"3.0"), (b"", b"null"), (b"{}", b"{}")])
def test_a_value_is_any_json(data: bytes, value: bytes) -> None:
    assert requests.json_value("details", Payload(inline=data), 10) == value


def test_a_value_has_limits_too() -> None:
    assert refusal(lambda: requests.json_value("details", Payload(inline=b'"12345678"'), 9)).metadata["limit"] == "9"
    assert refusal(lambda: requests.json_value("details", Payload(inline=b"nope"), 9)).metadata == {"field": "details"}


def test_task_names_are_taken_once_each_in_their_order() -> None:
    assert requests.task_names("names", ["b", "a", "b"]) == ("b", "a")
    assert refusal(lambda: requests.task_names("names", [])).metadata["field"] == "names"
    assert refusal(lambda: requests.task_names("names", ["a"] * 1001)).metadata["limit"] == "1000"
    assert refusal(lambda: requests.task_names("names", ["a", ""])).metadata["field"] == "names[1]"


def test_waits_and_pages_have_defaults_and_limits() -> None:
    assert (requests.wait_seconds("w", 0), requests.wait_seconds("w", 250)) == (10.0, 0.25)
    assert refusal(lambda: requests.wait_seconds("w", 300_001)).metadata == {"field": "w", "limit": "300000"}
    assert (requests.page_size(PageRequest()), requests.page_size(PageRequest(size=7))) == (100, 7)
    assert refusal(lambda: requests.page_size(PageRequest(size=1001))).metadata["field"] == "page.size"
