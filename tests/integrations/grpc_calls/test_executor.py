"""GRPC tasks against real servers: any unary method, with JSON in and out, and what is known after each failure."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX, check_payload
from orchestrator.integrations.grpc_calls import executor as executors
from orchestrator.integrations.grpc_calls import methods
from orchestrator.integrations.grpc_calls.executor import GrpcExecutor
from orchestrator.integrations.work import Ended, Kind, Outcome
from tests.integrations.grpc_server import GrpcServer, descriptor_set, shop
from tests.integrations.works import Clock, Services, output_of, work

DEADLINE_S = 30.0
PLACE = "shop.Orders/Place"
ORDER = {"orderId": "o-1", "price": {"currency": "EUR", "units": "5"}, "at": "2026-01-31T12:00:00Z"}


class Bench:
    """A node's executor and one server."""

    def __init__(self) -> None:
        self.services = Services()
        self.clock = Clock()
        self.executor = GrpcExecutor(self.services, self.clock)
        self.server = GrpcServer()

    async def do(self, **given: Any) -> Outcome:
        """A task with this input."""
        fields = {name: given.pop(name) for name in ("timeout_ms", "trace") if name in given}
        async with asyncio.timeout(DEADLINE_S):
            given = {"method": PLACE, "request": ORDER} | given
            outcome = await self.executor.execute(work(Kind.GRPC, given, **fields))
        if outcome.output:
            check_payload(outcome.output)
        return outcome

    async def place(self, **given: Any) -> Outcome:
        return await self.do(**{"target": self.server.target} | given)

    def refuse(self, code: grpc.StatusCode, details: str = "because") -> None:
        async def answer(order: Any, context: Any) -> dict[str, Any]:
            await context.abort(code, details, (("why", "x"), ("why-bin", b"\x00\xff")))
            return {}

        self.server.answer = answer


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    async with made.server:
        yield made
        await made.executor.close()


def facts(outcome: Outcome) -> tuple[Ended, str, bool]:
    return outcome.ended, outcome.error_code, outcome.outcome_unknown


# --- a call that succeeds


async def test_json_goes_in_and_comes_out(bench: Bench) -> None:
    async def answer(order: Any, context: Any) -> dict[str, Any]:
        await context.send_initial_metadata((("first", "1"),))
        context.set_trailing_metadata((("last", "2"), ("last", "3"), ("last-bin", b"\x00\xff")))
        return {"order_id": order.order_id, "total": order.price.units, "at": order.at}

    bench.server.answer = answer
    outcome = await bench.place()
    assert facts(outcome) == (Ended.COMPLETED, "", False)
    response = output_of(outcome)
    assert response["code"] == "OK"
    assert response["body"] == {
        # int64 is text in protobuf's JSON; fields without a value have their default.
        "orderId": "o-1", "total": "5", "at": "2026-01-31T12:00:00Z", "paid": False, "note": "",
    }
    assert response["metadata"]["initial"]["first"] == ["1"]
    assert response["metadata"]["trailing"] == {"last": ["2", "3"], "last-bin": ["AP8="]}


async def test_a_call_has_the_key_and_the_token_whatever_the_task_says(bench: Bench) -> None:
    await bench.place(metadata={"Tenant": "a", "idempotency-key": "mine", "fencing-token": "0", "raw-bin": "AP8="})
    [(order, metadata)] = bench.server.calls
    assert (metadata["idempotency-key"], metadata["fencing-token"]) == ("key-1", "7")
    assert (metadata["tenant"], metadata["raw-bin"]) == ("a", b"\x00\xff")
    assert (order.order_id, order.price.units) == ("o-1", 5)


async def test_who_is_called_is_told_of_the_trace(bench: Bench) -> None:
    await bench.place(trace=(("traceparent", "00-a-b-01"), ("tracestate", "vendor=a")))
    [(_, metadata)] = bench.server.calls
    assert (metadata["traceparent"], metadata["tracestate"]) == ("00-a-b-01", "vendor=a")


async def test_without_a_request_an_empty_message_is_sent(bench: Bench) -> None:
    assert (await bench.place(request=None)).ended is Ended.COMPLETED
    assert bench.server.calls[0][0].ByteSize() == 0


async def test_a_channel_and_what_a_server_told_are_kept(bench: Bench) -> None:
    for _ in range(3):
        assert (await bench.place()).ended is Ended.COMPLETED
    assert bench.server.reflections == 1
    assert len(bench.executor._channels._pool) == 1


async def test_many_calls_at_once(bench: Bench) -> None:
    outcomes = await asyncio.gather(*(bench.place(request={"orderId": str(number)}) for number in range(100)))
    assert [output_of(outcome)["body"]["orderId"] for outcome in outcomes] == [str(number) for number in range(100)]


# --- statuses

_C = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "unknown"),
    [
        (_C.UNAVAILABLE, True), (_C.DEADLINE_EXCEEDED, True), (_C.RESOURCE_EXHAUSTED, False), (_C.ABORTED, False),
        (_C.INTERNAL, True), (_C.UNKNOWN, True), (_C.CANCELLED, True),
    ],
)
async def test_these_statuses_may_be_retried(bench: Bench, code: grpc.StatusCode, unknown: bool) -> None:
    bench.refuse(code)
    outcome = await bench.place()
    assert facts(outcome) == (Ended.FAILED, f"GRPC_{code.name}", unknown)
    assert outcome.reason == "because"
    response = output_of(outcome)
    assert (response["code"], response["details"]) == (code.name, "because")
    assert response["metadata"]["trailing"] == {"why": ["x"], "why-bin": ["AP8="]}


@pytest.mark.parametrize(
    "code",
    [
        _C.INVALID_ARGUMENT, _C.NOT_FOUND, _C.ALREADY_EXISTS, _C.PERMISSION_DENIED, _C.UNAUTHENTICATED,
        _C.FAILED_PRECONDITION, _C.OUT_OF_RANGE, _C.UNIMPLEMENTED, _C.DATA_LOSS,
    ],
)
async def test_after_these_no_retry_follows(bench: Bench, code: grpc.StatusCode) -> None:
    bench.refuse(code, "")
    outcome = await bench.place()
    assert facts(outcome) == (Ended.FAILED_WITH_TERMINAL_ERROR, f"GRPC_{code.name}", code is _C.DATA_LOSS)
    assert outcome.reason == code.name


async def test_a_server_that_breaks_may_have_done_it(bench: Bench) -> None:
    async def broken(order: Any, context: Any) -> dict[str, Any]:
        raise LookupError("somewhere")

    bench.server.answer = broken
    assert facts(await bench.place()) == (Ended.FAILED, "GRPC_UNKNOWN", True)


@pytest.mark.parametrize("limits", [{"deadlineMs": 1_000}, {"timeoutSeconds": 1}, {"timeout_ms": 1_000}])
async def test_one_that_does_not_answer_in_time_may_have_done_it(bench: Bench, limits: dict[str, Any]) -> None:
    left: list[float] = []

    async def silent(order: Any, context: Any) -> dict[str, Any]:
        left.append(context.time_remaining())
        await asyncio.Event().wait()
        return {}

    await bench.place()
    bench.server.answer = silent
    assert facts(await bench.place(**limits)) == (Ended.FAILED, "GRPC_DEADLINE_EXCEEDED", True)
    assert left[0] < 1.5, "the server is told"


async def test_so_may_one_that_dies(bench: Bench) -> None:
    come = asyncio.Event()

    async def silent(order: Any, context: Any) -> dict[str, Any]:
        come.set()
        await asyncio.Event().wait()
        return {}

    bench.server.answer = silent
    under_way = asyncio.create_task(bench.place())
    async with asyncio.timeout(DEADLINE_S):
        await come.wait()
        await bench.server.stop()
        outcome = await under_way
    assert (outcome.ended, outcome.outcome_unknown) == (Ended.FAILED, True)
    assert outcome.error_code in ("GRPC_UNAVAILABLE", "GRPC_CANCELLED")
    await bench.server.start()
    bench.server.answer = GrpcServer().answer
    assert (await bench.place()).ended is Ended.COMPLETED, "and its successor is found"


async def test_a_cancelled_attempt_cancels_its_call(bench: Bench) -> None:
    come, gone = asyncio.Event(), asyncio.Event()

    async def silent(order: Any, context: Any) -> dict[str, Any]:
        context.add_done_callback(lambda context: gone.set())
        come.set()
        await asyncio.Event().wait()
        return {}

    bench.server.answer = silent
    under_way = asyncio.create_task(bench.place())
    async with asyncio.timeout(DEADLINE_S):
        await come.wait()
        under_way.cancel()
        await asyncio.gather(under_way, return_exceptions=True)
        await gone.wait()
    assert under_way.cancelled()


# --- replies that are no output


async def test_a_reply_that_is_too_large_took_effect(bench: Bench) -> None:
    """Whoever finds it so: the limit of an output, that of a reply, or gRPC's own."""
    for size in (PAYLOAD_BYTES_MAX, 2 << 20, 17 << 20):
        async def answer(order: Any, context: Any, size: int = size) -> dict[str, Any]:
            return {"note": "x" * size}

        bench.server.answer = answer
        outcome = await bench.place()
        assert facts(outcome) == (Ended.FAILED_WITH_TERMINAL_ERROR, "GRPC_RESPONSE_TOO_LARGE", True)


async def test_a_reply_that_can_not_be_read_took_effect(bench: Bench) -> None:
    """The descriptor set is of another version of the server."""
    [money, orders] = shop()
    note = orders.message_type[1].field[4]
    note.type, note.type_name = note.TYPE_MESSAGE, ".shop.Money"
    encoded = base64.b64encode(descriptor_set([money, orders])).decode()
    bench.services.put("s", protocol="GRPC", endpoints=[bench.server.target], descriptorSet=encoded)

    async def answer(order: Any, context: Any) -> dict[str, Any]:
        return {"note": "\x0a\x7f"}

    bench.server.answer = answer
    outcome = await bench.do(service="s")
    assert facts(outcome) == (Ended.FAILED_WITH_TERMINAL_ERROR, "GRPC_RESPONSE_INVALID", True)


# --- what is found out before anything is sent


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"method": "Place"}, "GRPC_INVALID", "package.Service/Method"),
        ({"target": "a"}, "GRPC_INVALID", "host:port"),
        ({"request": {"color": "red"}}, "GRPC_INVALID", "color"),
        ({"request": {"price": 5}}, "GRPC_INVALID", "price"),
        ({"method": "shop.Orders/Nothing"}, "GRPC_UNIMPLEMENTED", "shop.Orders/Nothing"),
        ({"method": "shop.Nobody/Place"}, "GRPC_UNIMPLEMENTED", "shop.Nobody"),
        ({"method": "shop.Orders/Watch"}, "GRPC_UNIMPLEMENTED", "streams"),
        ({"descriptorSet": "s"}, "GRPC_INVALID", "has none"),
    ],
)
async def test_what_can_not_be_called_says_why_and_was_not_called(
    bench: Bench, given: dict[str, Any], code: str, words: str
) -> None:
    bench.services.put("s", protocol="GRPC", endpoints=["a:1"])
    outcome = await bench.place(**given)
    assert facts(outcome) == (Ended.FAILED_WITH_TERMINAL_ERROR, code, False)
    assert words in outcome.reason
    assert bench.server.calls == []


async def test_without_a_connection_it_surely_had_no_effect(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        refused = await bench.do(target=f"127.0.0.1:{taken.getsockname()[1]}")
    assert facts(refused) == (Ended.FAILED, "GRPC_CONNECT", False)
    assert facts(await bench.do(target="nobody.invalid:1")) == (Ended.FAILED, "GRPC_CONNECT", False)


async def test_nor_has_one_whose_time_passes_while_it_connects(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        outcome = await bench.do(target=target, deadlineMs=100)
        assert facts(outcome) == (Ended.FAILED, "GRPC_DEADLINE_EXCEEDED", False)
        bench.services.put("s", protocol="GRPC", endpoints=[target], timeouts={"connectMs": 100})
        assert facts(await bench.do(service="s")) == (Ended.FAILED, "GRPC_CONNECT", False)


async def test_a_server_that_was_down_is_found_as_soon_as_it_is_there(bench: Bench) -> None:
    await bench.server.stop()
    for _ in range(3):
        assert (await bench.place()).error_code == "GRPC_CONNECT"
    await bench.server.start()
    assert (await bench.place()).ended is Ended.COMPLETED


async def test_a_server_that_refuses_connections_is_not_waited_for(bench: Bench) -> None:
    await bench.server.stop()
    bench.services.put("s", protocol="GRPC", endpoints=[bench.server.target], timeouts={"connectMs": 3_600_000})
    for _ in range(3):
        assert (await bench.do(service="s", deadlineMs=3_600_000)).error_code == "GRPC_CONNECT"


async def test_a_bug_is_an_outcome(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(given: bytes) -> None:
        raise LookupError("somewhere")

    monkeypatch.setattr(executors, "read_request", broken)
    outcome = await bench.place()
    assert facts(outcome) == (Ended.FAILED, "GRPC_INTERNAL_ERROR", True)
    assert outcome.reason == "LookupError: somewhere"


# --- what a server is known to have


@pytest.mark.parametrize("versions", [("v1",), ("v1alpha",)])
async def test_either_version_of_reflection_will_do(bench: Bench, versions: tuple[str, ...]) -> None:
    async with GrpcServer(reflects=versions) as server:
        assert (await bench.do(target=server.target)).ended is Ended.COMPLETED


async def test_a_server_is_asked_for_the_files_that_it_did_not_tell(bench: Bench) -> None:
    async with GrpcServer(tells_imports=False) as server:
        assert (await bench.do(target=server.target)).ended is Ended.COMPLETED
        assert server.calls[0][0].price.units == 5


async def test_without_reflection_a_descriptor_set_is_needed(bench: Bench) -> None:
    async with GrpcServer(reflects=()) as server:
        outcome = await bench.do(target=server.target)
        assert facts(outcome) == (Ended.FAILED_WITH_TERMINAL_ERROR, "GRPC_REFLECTION", False)
        encoded = base64.b64encode(descriptor_set(shop())).decode()
        bench.services.put("s", protocol="GRPC", endpoints=[server.target], descriptorSet=encoded)
        assert (await bench.do(service="s")).ended is Ended.COMPLETED
        assert (await bench.do(target=server.target, descriptorSet="s")).ended is Ended.COMPLETED
        unknown = await bench.do(service="s", method="shop.Orders/Nothing")
        assert facts(unknown) == (Ended.FAILED_WITH_TERMINAL_ERROR, "GRPC_UNIMPLEMENTED", False)


async def test_a_field_of_a_newer_server_is_asked_for_anew(bench: Bench) -> None:
    assert (await bench.place()).ended is Ended.COMPLETED
    port = bench.server.port
    await bench.server.stop()
    bench.server = GrpcServer(files=shop(color="string"))
    bench.server.port = port
    async with bench.server:
        outcome = await bench.place(request={"color": "red"})
        assert facts(outcome) == (Ended.COMPLETED, "", False)
        assert bench.server.calls[0][0].color == "red"
        await bench.place(request={"color": "blue"})
        assert bench.server.reflections == 1
        for _ in range(2):
            assert (await bench.place(request={"size": 1})).error_code == "GRPC_INVALID"
        assert bench.server.reflections == 3, "it might have come meanwhile"
        await asyncio.sleep(0)


async def test_what_is_unimplemented_is_asked_for_anew(bench: Bench) -> None:
    await bench.place()
    bench.refuse(grpc.StatusCode.UNIMPLEMENTED)
    await bench.place()
    bench.server.answer = GrpcServer().answer
    await bench.place()
    assert bench.server.reflections == 2


async def test_a_reflection_that_fails_may_be_retried(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unavailable(*_: Any) -> None:
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")

    monkeypatch.setattr(executors, "reflected", unavailable)
    assert facts(await bench.place()) == (Ended.FAILED, "GRPC_REFLECTION", False)


async def test_what_is_known_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "POOLS_MAX", 2)
    async with GrpcServer() as one, GrpcServer() as other:
        for server in (bench.server, one, other):
            await bench.do(target=server.target)
        assert len(bench.executor._methods) == 2
        await bench.place()
    assert bench.server.reflections == 2


# --- services by name


async def test_a_service_has_its_endpoints_and_metadata(bench: Bench) -> None:
    async with GrpcServer() as other:
        endpoints = [bench.server.target, other.target]
        bench.services.put("s", protocol="GRPC", endpoints=endpoints, metadata={"tenant": "a", "who": "record"})
        for _ in range(4):
            assert (await bench.do(service="s", metadata={"who": "task"})).ended is Ended.COMPLETED
        assert [len(bench.server.calls), len(other.calls)] == [2, 2]
    metadata = bench.server.calls[0][1]
    assert (metadata["tenant"], metadata["who"]) == ("a", "task")


async def test_the_next_endpoint_is_called_when_one_is_down(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        down = f"127.0.0.1:{taken.getsockname()[1]}"
        bench.services.put("s", protocol="GRPC", endpoints=[down, bench.server.target])
        assert [(await bench.do(service="s")).ended for _ in range(4)] == [Ended.COMPLETED] * 4
        bench.services.put("s", protocol="GRPC", endpoints=[down])
        assert facts(await bench.do(service="s")) == (Ended.FAILED, "GRPC_CONNECT", False)


async def test_what_a_server_refused_goes_to_no_other(bench: Bench) -> None:
    bench.refuse(grpc.StatusCode.UNAVAILABLE)
    async with GrpcServer() as other:
        bench.services.put("s", protocol="GRPC", endpoints=[bench.server.target, other.target])
        assert facts(await bench.do(service="s")) == (Ended.FAILED, "GRPC_UNAVAILABLE", True)
        assert other.calls == []


async def test_a_service_that_is_not_well_opens_its_circuit(bench: Bench) -> None:
    breaker = {"failureThreshold": 2, "openSeconds": 30}
    bench.services.put("s", protocol="GRPC", endpoints=[bench.server.target], circuitBreaker=breaker)
    bench.refuse(grpc.StatusCode.NOT_FOUND)
    for _ in range(4):
        assert (await bench.do(service="s")).error_code == "GRPC_NOT_FOUND"
    bench.refuse(grpc.StatusCode.INTERNAL)
    codes = [(await bench.do(service="s")).error_code for _ in range(4)]
    assert codes == ["GRPC_INTERNAL", "GRPC_INTERNAL", "CIRCUIT_OPEN", "CIRCUIT_OPEN"]
    bench.clock.ahead_s += 30
    bench.server.answer = GrpcServer().answer
    assert [(await bench.do(service="s")).error_code for _ in range(2)] == ["", ""]


async def test_a_service_that_is_not_registered_may_be_later(bench: Bench) -> None:
    assert facts(await bench.do(service="s")) == (Ended.FAILED, "SERVICE_NOT_FOUND", False)
    bench.services.put("s", endpoints=["http://a"])
    assert facts(await bench.do(service="s")) == (Ended.FAILED, "SERVICE_PROTOCOL", False)
