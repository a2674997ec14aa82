"""HTTP tasks against real servers: what is sent, what becomes of each answer, and what is known after each failure."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX, check_payload
from orchestrator.integrations.http_calls import executor as executors
from orchestrator.integrations.http_calls.executor import HttpExecutor
from orchestrator.integrations.work import Ended, Kind, Outcome
from tests.integrations.http_server import HttpServer, Last, Received, reply
from tests.integrations.works import Clock, Services, output_of, work

DEADLINE_S = 30.0


class Bench:
    """A node's executor and one server."""

    def __init__(self) -> None:
        self.services = Services()
        self.clock = Clock()
        self.executor = HttpExecutor(self.services, self.clock)
        self.server = HttpServer()

    async def do(self, **given: Any) -> Outcome:
        """A task with this input."""
        fields = {name: given.pop(name) for name in ("timeout_ms", "trace") if name in given}
        async with asyncio.timeout(DEADLINE_S):
            outcome = await self.executor.execute(work(Kind.HTTP, {"method": "GET"} | given, **fields))
        if outcome.output:
            check_payload(outcome.output)
        return outcome

    async def get(self, **given: Any) -> Outcome:
        return await self.do(**{"uri": self.server.uri} | given)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with made.server:
        yield made
        await made.executor.close()


def facts(outcome: Outcome) -> tuple[Ended, str, bool]:
    return outcome.ended, outcome.error_code, outcome.outcome_unknown


# --- what is sent


async def test_a_request_has_the_key_and_the_token_whatever_the_task_says(bench: Bench) -> None:
    await bench.get(method="POST", body={"a": 1}, headers={"IDEMPOTENCY-KEY": "mine", "fencing-token": "0", "X-A": "1"})
    [received] = bench.server.received
    assert (received.method, received.target, received.body) == ("POST", "/", b'{"a":1}')
    assert received.header("Idempotency-Key") == ["key-1"]
    assert received.header("Fencing-Token") == ["7"]
    assert received.header("X-A") == ["1"]


async def test_who_is_called_is_told_of_the_trace_unless_the_task_says_otherwise(bench: Bench) -> None:
    trace = (("traceparent", "00-a-b-01"), ("tracestate", "vendor=a"))
    await bench.get(trace=trace, headers={"TraceState": "mine=1"})
    [received] = bench.server.received
    assert (received.header("traceparent"), received.header("tracestate")) == (["00-a-b-01"], ["mine=1"])


async def test_accept_and_content_type_are_json_unless_the_task_says_otherwise(bench: Bench) -> None:
    await bench.get()
    await bench.get(method="PUT", body="x", accept="text/plain", contentType="text/csv")
    await bench.get(method="PUT", body="x", headers={"Content-Type": "text/html", "Accept": "a/b"})
    plain, said, among_headers = bench.server.received
    assert (plain.header("Accept"), plain.header("Content-Type")) == (["application/json"], [])
    assert (said.header("Accept"), said.header("Content-Type")) == (["text/plain"], ["text/csv"])
    assert (among_headers.header("Accept"), among_headers.header("Content-Type")) == (["a/b"], ["text/html"])


async def test_connections_are_kept_for_the_next_and_cookies_are_not(bench: Bench) -> None:
    bench.server.answer = lambda received: reply(200, {}, ("Set-Cookie", "session=secret; Path=/"))
    for _ in range(3):
        assert (await bench.get()).ended is Ended.COMPLETED
    assert bench.server.connections == 1
    assert [received.header("Cookie") for received in bench.server.received] == [[], [], []]


# --- what comes of an answer


async def test_2xx_is_success_with_the_answer_as_output(bench: Bench) -> None:
    headers = (("Content-Type", "application/json"), ("X-Many", "a"), ("x-many", "b"))
    bench.server.answer = lambda received: reply(201, b' {"amount": 1.10}', *headers, phrase="Made it")
    outcome = await bench.get(method="POST")
    assert facts(outcome) == (Ended.COMPLETED, "", False)
    assert output_of(outcome) == {
        "body": {"amount": 1.1}, "statusCode": 201, "reasonPhrase": "Made it",
        "headers": {"Content-Type": ["application/json"], "X-Many": ["a", "b"], "Content-Length": ["17"]},
    }
    assert b'"amount":1.10' in outcome.output, "numbers keep their text"


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"", "", None),
        (b"[1]", "text/plain", [1]),
        (b"7", "", 7),
        (b"plain", "application/json", "plain"),
        (b'{"a":', "application/json", '{"a":'),
        ("é".encode("latin-1"), "text/plain; charset=iso-8859-1", "é"),
        (b"\xff", "text/plain", "\ufffd"),
        (b"x", "text/plain; charset=of-nobody", "x"),
        (b"[" * 60 + b"]" * 60, "", json.loads("[" * 60 + "]" * 60)),
        (b"[" * 70 + b"]" * 70, "", "[" * 70 + "]" * 70),
    ],
)
async def test_a_body_is_json_where_it_is_and_text_where_it_is_not(
    bench: Bench, body: bytes, content_type: str, expected: object
) -> None:
    bench.server.answer = lambda received: reply(200, body, ("Content-Type", content_type))
    assert output_of(await bench.get())["body"] == expected


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 408, 409, 425, 429, 500, 503])
async def test_any_other_status_is_failure_with_the_body_as_reason(bench: Bench, status: int) -> None:
    """Conductor says FAILED for all of them, also for those that a retry can't help."""
    bench.server.answer = lambda received: reply(status, {"why": "because"} if status != 304 else b"", phrase="So so")
    outcome = await bench.get(method="POST")
    assert facts(outcome) == (Ended.FAILED, f"HTTP_{status}", False)
    assert outcome.reason == ('{"why": "because"}' if status != 304 else "304 So so")
    response = output_of(outcome)
    assert (response["statusCode"], response["reasonPhrase"]) == (status, "So so")


async def test_after_a_status_that_the_task_calls_terminal_no_retry_follows(bench: Bench) -> None:
    bench.server.answer = lambda received: reply(404)
    outcome = await bench.get(terminalStatusCodes=[404, 422])
    assert facts(outcome) == (Ended.FAILED_WITH_TERMINAL_ERROR, "HTTP_404", False)
    assert outcome.reason == "404 Fine"


@pytest.mark.parametrize("status", [502, 504])
async def test_behind_a_gateway_without_an_answer_it_may_have_taken_effect(bench: Bench, status: int) -> None:
    bench.server.answer = lambda received: reply(status)
    assert facts(await bench.get()) == (Ended.FAILED, f"HTTP_{status}", True)


async def test_the_body_of_a_failure_is_cut_off(bench: Bench) -> None:
    bench.server.answer = lambda received: reply(500, "x" * 1_000_000)
    outcome = await bench.get()
    assert outcome.reason == "x" * 2_000
    assert len(output_of(outcome)["body"]) == 16 * 1024


async def test_the_largest_answer_is_an_output_and_a_larger_one_is_a_failure_that_took_effect(bench: Bench) -> None:
    """Retried it would answer the same, and the server has done it already."""
    room = PAYLOAD_BYTES_MAX - len(b'{"response":{"body":"","headers":{"Content-Length":["262000"]},"statusCode":200,'
                                   b'"reasonPhrase":"Fine"}}')
    bench.server.answer = lambda received: reply(200, "x" * room)
    assert len((await bench.get()).output) == PAYLOAD_BYTES_MAX
    for size in (room + 1, PAYLOAD_BYTES_MAX + 1, 50_000_000):
        bench.server.answer = lambda received, size=size: reply(200, "x" * size)  # type: ignore[misc]
        outcome = await bench.get()
        assert facts(outcome) == (Ended.FAILED_WITH_TERMINAL_ERROR, "HTTP_RESPONSE_TOO_LARGE", True)
        assert str(PAYLOAD_BYTES_MAX) in outcome.reason


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZIP"])
async def test_a_compressed_body_is_read_all_the_same(bench: Bench, encoding: str) -> None:
    packed = zlib.compress(b'{"a":1}') if encoding == "deflate" else gzip.compress(b'{"a":1}')
    bench.server.answer = lambda received: reply(200, packed, ("Content-Encoding", encoding))
    assert output_of(await bench.get())["body"] == {"a": 1}
    assert bench.server.received[0].header("Accept-Encoding") == ["identity"]


async def test_a_small_body_that_holds_a_large_one_is_not_unpacked_whole(bench: Bench) -> None:
    bomb = gzip.compress(bytes(200_000_000), 9)
    bench.server.answer = lambda received: reply(200, bomb, ("Content-Encoding", "gzip"))
    tracemalloc.start()
    try:
        assert (await bench.get()).error_code == "HTTP_RESPONSE_TOO_LARGE"
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("encoding", "body"), [("br", b"x"), ("gzip", b"x"), ("gzip", gzip.compress(b"x" * 99, mtime=0)[:-9])]
)
async def test_a_body_that_can_not_be_read_took_effect(bench: Bench, encoding: str, body: bytes) -> None:
    bench.server.answer = lambda received: reply(200, body, ("Content-Encoding", encoding))
    assert facts(await bench.get()) == (Ended.FAILED, "HTTP_RESPONSE_INVALID", True)
    bench.server.answer = lambda received: reply(418, body, ("Content-Encoding", encoding))
    assert facts(await bench.get()) == (Ended.FAILED, "HTTP_418", False), "the status says enough"


# --- what is known after a failure


@pytest.mark.parametrize("given", [
    {"uri": None}, {"method": None}, {"uri": "ftp://a"}, {"uri": "a"}, {"uri": "http://"}, {"uri": "http://a:x"},
    {"uri": "http://user:word@127.0.0.1"}, {"uri": "file:///etc/passwd"},
])
async def test_what_can_not_be_sent_fails_with_the_field_and_was_not_sent(bench: Bench, given: dict[str, Any]) -> None:
    outcome = await bench.get(**given)
    assert facts(outcome) == (Ended.FAILED, "HTTP_INVALID", False)
    assert outcome.reason.partition(":")[0] in ("uri", "method")


async def test_without_a_connection_it_surely_had_no_effect(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        refused = await bench.get(uri=f"http://127.0.0.1:{taken.getsockname()[1]}")
    unknown = await bench.get(uri="http://nobody.invalid")
    for outcome in (refused, unknown):
        assert facts(outcome) == (Ended.FAILED, "HTTP_CONNECT", False)


async def test_a_server_that_does_not_answer_may_have_done_it(bench: Bench) -> None:
    async def silent(received: Received) -> bytes:
        await asyncio.Event().wait()
        return b""

    bench.server.answer = silent
    outcome = await bench.get(readTimeOut=50)
    assert facts(outcome) == (Ended.FAILED, "HTTP_TIMEOUT", True)


async def test_so_may_one_that_hangs_up(bench: Bench) -> None:
    bench.server.answer = lambda received: b""
    assert facts(await bench.get()) == (Ended.FAILED, "HTTP_CONNECTION_LOST", True)


async def test_so_may_one_that_hangs_up_in_the_middle_of_its_answer(bench: Bench) -> None:
    bench.server.answer = lambda received: Last(reply(200, "x" * 100)[:-50])
    assert facts(await bench.get()) == (Ended.FAILED, "HTTP_CONNECTION_LOST", True)
    bench.server.answer = lambda received: Last(reply(503, "x" * 100)[:-50])
    assert facts(await bench.get()) == (Ended.FAILED, "HTTP_503", False), "the status says enough"


async def test_an_answer_that_is_no_http_may_stand_for_an_effect(bench: Bench) -> None:
    bench.server.answer = lambda received: Last(b"SMTP ready\r\n\r\n")
    assert facts(await bench.get()) == (Ended.FAILED, "HTTP_CONNECTION_LOST", True)


async def test_the_time_for_the_whole_request_ends_one_that_trickles(bench: Bench) -> None:
    """Each byte comes in time; all of them together do not."""
    enough = asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not enough.is_set():
            writer.write(b"x")
            try:
                await asyncio.wait_for(enough.wait(), 0.02)
            except TimeoutError:
                continue
        writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for limits in ({"totalTimeOut": 1_000}, {"timeout_ms": 1_000}, {"totalTimeOut": 60_000, "timeout_ms": 1_000}):
        assert facts(await bench.do(uri=uri, readTimeOut=30_000, **limits)) == (Ended.FAILED, "HTTP_TIMEOUT", True)
    enough.set()
    server.close()
    await server.wait_closed()


async def test_a_handshake_that_does_not_come_surely_had_no_effect(bench: Bench) -> None:
    """The server takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        uri = f"https://127.0.0.1:{listening.getsockname()[1]}"
        limited = await bench.do(uri=uri, connectionTimeOut=100)
        cut_off = await bench.do(uri=uri, connectionTimeOut=60_000, totalTimeOut=100)
    assert facts(limited) == (Ended.FAILED, "HTTP_CONNECT_TIMEOUT", False)
    assert facts(cut_off) == (Ended.FAILED, "HTTP_TIMEOUT", False)


async def test_a_cancelled_attempt_gives_its_connection_up(bench: Bench) -> None:
    come, gone = asyncio.Event(), asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        come.set()
        assert await reader.read() == b""
        gone.set()
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    under_way = asyncio.create_task(
        bench.do(uri=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", readTimeOut=60_000)
    )
    async with asyncio.timeout(DEADLINE_S):
        await come.wait()
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)
        await gone.wait()
    assert under_way.cancelled()
    server.close()
    await server.wait_closed()


async def test_a_bug_is_an_outcome(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(given: bytes) -> None:
        raise LookupError("somewhere")

    monkeypatch.setattr(executors, "read_request", broken)
    outcome = await bench.get()
    assert facts(outcome) == (Ended.FAILED, "HTTP_INTERNAL", True)
    assert outcome.reason == "LookupError: somewhere"


# --- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_get_follows_redirects_within_its_scheme(bench: Bench, status: int) -> None:
    def answer(received: Received) -> bytes:
        return reply(200, {"at": "last"}) if received.target == "/b?c" else reply(status, b"", ("Location", "/b?c"))

    bench.server.answer = answer
    assert output_of(await bench.get(headers={"X-A": "1"}))["body"] == {"at": "last"}
    assert bench.server.received[-1].header("X-A") == ["1"]
    posted = await bench.get(method="POST", body={})
    assert facts(posted) == (Ended.FAILED, f"HTTP_{status}", False)
    assert output_of(posted)["headers"]["Location"] == ["/b?c"]


async def test_nobody_is_redirected_to_another_scheme(bench: Bench) -> None:
    for scheme in ("https", "file", "gopher"):
        bench.server.answer = lambda received, scheme=scheme: (  # type: ignore[misc]
            reply(302, b"", ("Location", f"{scheme}://127.0.0.1/x"))
        )
        outcome = await bench.get()
        assert facts(outcome) == (Ended.FAILED, "HTTP_REDIRECT", False)
        assert outcome.reason == f"redirected from http to {scheme}"


async def test_redirects_come_to_an_end(bench: Bench) -> None:
    bench.server.answer = lambda received: reply(302, b"", ("Location", "/again"))
    assert facts(await bench.get()) == (Ended.FAILED, "HTTP_REDIRECT", False)
    assert len(bench.server.received) == 6


async def test_another_host_gets_no_headers_that_were_not_meant_for_it(bench: Bench) -> None:
    async with HttpServer() as other:
        bench.server.answer = lambda received: reply(302, b"", ("Location", f"{other.uri}/x"))
        outcome = await bench.get(headers={"Authorization": "secret", "X-Key": "secret"}, accept="a/b")
        assert outcome.ended is Ended.COMPLETED
        [received] = other.received
    assert "secret" not in str(received.headers)
    assert received.header("Accept") == ["a/b"] and received.header("Idempotency-Key") == ["key-1"]


async def test_a_redirect_to_nowhere_is_a_failure(bench: Bench) -> None:
    bench.server.answer = lambda received: reply(302, b"", ("Location", "http://a:b"))
    assert facts(await bench.get()) == (Ended.FAILED, "HTTP_302", False)


# --- services by name


async def test_a_task_names_a_service_and_a_path(bench: Bench) -> None:
    bench.services.put("s", endpoints=[f"{bench.server.uri}/v1/"], headers={"X-Tenant": "a", "X-Who": "record"})
    outcome = await bench.do(service="s", path="charges?x=1", headers={"x-who": "task"})
    assert outcome.ended is Ended.COMPLETED
    [received] = bench.server.received
    assert received.target == "/v1/charges?x=1"
    assert (received.header("X-Tenant"), received.header("X-Who")) == (["a"], ["task"])


async def test_the_next_endpoint_is_called_when_one_is_down(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        down = f"http://127.0.0.1:{taken.getsockname()[1]}"
        bench.services.put("s", endpoints=[down, bench.server.uri])
        assert [(await bench.do(service="s")).ended for _ in range(4)] == [Ended.COMPLETED] * 4
        bench.services.put("s", endpoints=[down])
        assert facts(await bench.do(service="s")) == (Ended.FAILED, "HTTP_CONNECT", False)


async def test_what_was_sent_is_sent_to_no_other_endpoint(bench: Bench) -> None:
    async with HttpServer(lambda received: b"") as broken:
        bench.services.put("s", endpoints=[broken.uri, bench.server.uri])
        assert facts(await bench.do(service="s")) == (Ended.FAILED, "HTTP_CONNECTION_LOST", True)
    assert bench.server.received == []


async def test_a_service_that_answers_5xx_opens_its_circuit_and_4xx_does_not(bench: Bench) -> None:
    breaker = {"failureThreshold": 2, "openSeconds": 30}
    bench.services.put("s", endpoints=[bench.server.uri], circuitBreaker=breaker)
    bench.server.answer = lambda received: reply(404)
    for _ in range(5):
        assert (await bench.do(service="s")).error_code == "HTTP_404"
    bench.server.answer = lambda received: reply(500)
    codes = [(await bench.do(service="s")).error_code for _ in range(4)]
    assert codes == ["HTTP_500", "HTTP_500", "CIRCUIT_OPEN", "CIRCUIT_OPEN"]
    assert len(bench.server.received) == 7
    bench.server.answer = lambda received: reply()
    bench.clock.ahead_s += 30
    assert [(await bench.do(service="s")).error_code for _ in range(2)] == ["", ""]


async def test_a_service_that_is_not_registered_may_be_later(bench: Bench) -> None:
    assert facts(await bench.do(service="s")) == (Ended.FAILED, "SERVICE_NOT_FOUND", False)
    bench.services.put("s", endpoints=[bench.server.uri])
    assert (await bench.do(service="s")).ended is Ended.COMPLETED


async def test_the_timeouts_of_a_record_hold_unless_the_task_has_its_own(bench: Bench) -> None:
    async def silent(received: Received) -> bytes:
        await asyncio.Event().wait()
        return b""

    bench.server.answer = silent
    for given, limits in (({}, {"readMs": 50}), ({}, {"totalMs": 1_000}), ({"readTimeOut": 50}, {"readMs": 60_000})):
        bench.services.put("s", endpoints=[bench.server.uri], timeouts=limits)
        assert facts(await bench.do(service="s", **given)) == (Ended.FAILED, "HTTP_TIMEOUT", True)
