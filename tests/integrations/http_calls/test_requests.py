"""The input of an HTTP task: in both of Conductor's shapes, and what is wrong is told by its path."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.integrations.http_calls.executor import joined, merged
from orchestrator.integrations.http_calls.request import HttpRequest, InputInvalid, read_request

GET = {"method": "GET", "uri": "http://a"}


def read(**fields: Any) -> HttpRequest:
    return read_request(json.dumps(GET | fields).encode())


def test_the_fields_may_stand_in_the_input_itself_or_under_http_request() -> None:
    direct = read(headers={"X-A": "1"}, somebody="else's")
    nested = read_request(json.dumps({"uri": 5, "http_request": GET | {"headers": {"X-A": "1"}}}).encode())
    assert direct == nested
    assert (direct.method, direct.uri, direct.service, direct.body) == ("GET", "http://a", "", None)


def test_every_field_is_read() -> None:
    request = read(
        method="post", accept=["text/plain", "text/html"], contentType="text/csv", body="a,b",
        connectionTimeOut=1, readTimeOut=2, totalTimeOut=3, terminalStatusCodes=[404, 422],
        headers={"X-Text": "é", "X-Number": 1.50, "X-Flag": True, "X-None": None, "X-Many": ["a", 2]},
    )
    assert request.method == "POST"
    assert request.defaults == (("Accept", "text/plain, text/html"), ("Content-Type", "text/csv"))
    assert request.headers == (
        ("X-Text", "é"), ("X-Number", "1.5"), ("X-Flag", "true"), ("X-Many", "a"), ("X-Many", "2")
    )
    assert (request.connect_ms, request.read_ms, request.total_ms) == (1, 2, 3)
    assert request.terminal == {404, 422}


@pytest.mark.parametrize(
    ("body", "content_type", "sent"),
    [
        (b'{"amount": 1.10, "n": 12345678901234567890}', "", b'{"amount":1.10,"n":12345678901234567890}'),
        (b"[1, 2]", "", b"[1,2]"),
        (b'"as \\u00e9 is"', "", "as é is".encode()),
        (b"false", "", b"false"),
        (b"null", "", None),
        (b'{"a": "x y", "b": [1, 2], "c": null}', "application/x-www-form-urlencoded", b"a=x+y&b=1&b=2"),
        (b'"a=1"', "application/x-www-form-urlencoded; charset=utf-8", b"a=1"),
    ],
)
def test_a_string_is_sent_as_it_is_and_anything_else_as_json(
    body: bytes, content_type: str, sent: bytes | None
) -> None:
    text = b'{"method":"POST","uri":"http://a","contentType":%b,"body":%b}' % (
        json.dumps(content_type or None).encode(), body
    )
    assert read_request(text).body == sent


def test_a_content_type_among_the_headers_counts_too() -> None:
    request = read(method="POST", body={"a": 1}, headers={"content-type": "application/x-www-form-urlencoded"})
    assert request.body == b"a=1"


def test_what_every_call_has_from_the_orchestrator_is_not_the_tasks_to_set() -> None:
    assert read(headers={"idempotency-key": "mine", "Fencing-Token": "9"}).headers == ()


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"uri": None}, "uri"),
        ({"uri": ""}, "uri"),
        ({"uri": 5}, "uri"),
        ({"uri": "http://a", "service": "s"}, "uri"),
        ({"path": "/x"}, "path"),
        ({"method": None}, "method"),
        ({"method": "GET /"}, "method"),
        ({"method": "connect"}, "method"),
        ({"headers": []}, "headers"),
        ({"headers": {"a b": "x"}}, "headers.a b"),
        ({"headers": {"A": {}}}, "headers.A"),
        ({"headers": {"A": [[]]}}, "headers.A"),
        ({"headers": {"A": "x\r\nB: y"}}, "headers.A"),
        ({"headers": {"A": "\u20ac"}}, "headers.A"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "headers.Transfer-Encoding"),
        ({"accept": 1}, "accept"),
        ({"accept": "a\nb"}, "accept"),
        ({"contentType": "a\nb", "body": 1}, "contentType"),
        ({"connectionTimeOut": 0}, "connectionTimeOut"),
        ({"readTimeOut": "3 s"}, "readTimeOut"),
        ({"totalTimeOut": 3_600_001}, "totalTimeOut"),
        ({"terminalStatusCodes": [404, 99]}, "terminalStatusCodes[1]"),
        ({"terminalStatusCodes": ["4xx"]}, "terminalStatusCodes[0]"),
        ({"terminalStatusCodes": [True]}, "terminalStatusCodes[0]"),
        ({"contentType": "application/x-www-form-urlencoded", "body": {"a": {}}}, "body.a"),
    ],
)
def test_a_broken_rule_is_told_by_its_path(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(InputInvalid) as refused:
        read(**fields)
    assert str(refused.value).startswith(f"{path}: ")
    with pytest.raises(InputInvalid) as nested:
        read_request(json.dumps({"http_request": GET | fields}).encode())
    assert str(nested.value).startswith(f"http_request.{path}: ")


@pytest.mark.parametrize("given", [b'{"http_request":[]}', b'{"http_request":"x"}'])
def test_http_request_must_be_an_object(given: bytes) -> None:
    with pytest.raises(InputInvalid, match="http_request: it must be an object"):
        read_request(given)


@pytest.mark.parametrize(
    ("endpoint", "path", "uri"),
    [
        ("http://a", "", "http://a"),
        ("http://a", "x", "http://a/x"),
        ("http://a/", "/x", "http://a/x"),
        ("http://a/v1/", "x?y=1", "http://a/v1/x?y=1"),
        ("http://a/v1", "?y=1", "http://a/v1?y=1"),
        ("http://a", "@b", "http://a/@b"),
        ("http://a", ".b", "http://a/.b"),
        ("http://a", ":80", "http://a/:80"),
    ],
)
def test_a_path_goes_below_the_endpoint_and_never_to_another_host(endpoint: str, path: str, uri: str) -> None:
    assert joined(endpoint, path) == uri


def test_a_later_layer_replaces_headers_of_the_same_name() -> None:
    first, second = (("Accept", "a"), ("X-Many", "1"), ("X-Many", "2")), (("accept", "b"), ("ACCEPT", "c"))
    assert merged(first, second) == (("accept", "b"), ("ACCEPT", "c"), ("X-Many", "1"), ("X-Many", "2"))
