"""Answers that are not taken are counted until they are; who leaves too many lying gets no more of them."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path

import grpc
import grpc.aio
import pytest

from orchestrator.rpc.caller import Caller
from orchestrator.rpc.errors import RpcFailure
from orchestrator.rpc.unread import Unread, UnreadLimits
from orchestrator_api.v1 import workflows_pb2 as pb
from tests.rpc.bench import Bench, soon, until
from tests.rpc.guarding import Guarded, guarded, refused

REASON = "UNREAD_ANSWERS"
EXCESS = (grpc.StatusCode.RESOURCE_EXHAUSTED, REASON)
SIZE = 200_000
LIMIT = 3 * SIZE
GET = b"/orchestrator.v1.WorkflowService/GetWorkflow"
WATCH = b"/orchestrator.v1.WorkflowService/WatchWorkflow"


class SlowReader:
    """A client of HTTP/2 that takes nothing until it is told to: 64 KiB of all answers together are on their way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._calls = 0
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._frame(4, 0, 0, b""))

    @classmethod
    async def connected(cls, address: str) -> SlowReader:
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    def call(self, path: bytes, request: bytes) -> None:
        stream = 2 * self._calls + 1
        self._calls += 1
        fields = b"".join(
            b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
            for name, value in ((b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"),
                                (b"te", b"trailers"), (b"content-type", b"application/grpc"))
        )
        self._writer.write(self._frame(1, 4, stream, fields))
        self._writer.write(self._frame(0, 1, stream, struct.pack(">BI", 0, len(request)) + request))

    def read_on(self) -> None:
        """Takes everything from now on."""
        for stream in (0, *range(1, 2 * self._calls, 2)):
            self._writer.write(self._frame(8, 0, stream, struct.pack(">I", 1 << 30)))
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while await self._reader.read(1 << 16):
            pass

    def vanish(self) -> None:
        transport = self._writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.abort()

    @staticmethod
    def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


@pytest.fixture
def unread() -> Unread:
    return Unread(UnreadLimits(bytes_per_client_max=LIMIT))


def large(bench: Bench) -> bytes:
    """A request whose answer is large."""
    bench.order("pay")
    bench.start("w", json.dumps({"x": "x" * SIZE}).encode())
    return pb.GetWorkflowRequest(workflow_id="w").SerializeToString()


async def left(made: Guarded, unread: Unread, request: bytes, path: bytes = GET, count: int = 10) -> SlowReader:
    """A client that has made so many calls, and has left their answers: as much as one may."""
    slow = await SlowReader.connected(made.address)
    for _ in range(count):
        slow.call(path, request)
    await until("the answers to lie there", lambda: unread.count_bytes > LIMIT - 2 * SIZE)
    return slow


async def test_a_client_that_takes_nothing_gets_no_more_and_its_calls_are_refused(
    bench: Bench, tmp_path: Path, unread: Unread
) -> None:
    async with guarded(bench, tmp_path, rules=None, unread=unread) as made:
        request = large(bench)
        slow = await left(made, unread, request)
        # It is at one address with the others, and so they are one client.
        stubs = made.as_("")
        call = stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w"))
        assert await refused(soon("the refusal", call)) == EXCESS
        assert unread.count_bytes < LIMIT
        slow.read_on()
        await until("the answers to be taken", lambda: unread.count_bytes == 0)
        assert (await stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w"))).ByteSize() > SIZE
        await until("that answer to be taken", lambda: unread.count_bytes == 0)
        slow.vanish()


async def test_what_a_client_leaves_behind_is_not_counted(bench: Bench, tmp_path: Path, unread: Unread) -> None:
    async with guarded(bench, tmp_path, rules=None, unread=unread) as made:
        slow = await left(made, unread, large(bench))
        slow.vanish()
        await until("nothing to lie there", lambda: unread.count_bytes == 0 and not unread._by_client)


async def test_a_stream_that_would_hold_one_message_more_is_ended(bench: Bench, tmp_path: Path) -> None:
    cut: list[str] = []
    unread = Unread(UnreadLimits(bytes_per_client_max=LIMIT), cut.append)
    async with guarded(bench, tmp_path, rules=None, unread=unread) as made:
        large(bench)
        slow = await left(made, unread, pb.WatchWorkflowRequest(workflow_id="w").SerializeToString(), WATCH)
        await until("streams to be ended", lambda: len(cut) >= 7)
        assert set(cut) == {REASON} and unread.count_bytes < LIMIT
        slow.read_on()
        await until("what lay there to be taken", lambda: unread.count_bytes == 0)
        slow.vanish()


def client(name: str) -> Caller:
    caller = Caller(peer=name)
    assert not caller.is_node
    return caller


def limit_for(unread: Unread, name: str, size: int = 0) -> str:
    """The limit that such an answer is beyond; "" if there is room."""
    failure = unread._excess(client(name), size)
    return "" if failure is None else failure.metadata["limit"]


def test_of_all_clients_those_with_more_than_their_share_wait() -> None:
    unread = Unread(UnreadLimits(bytes_max=100, bytes_per_client_max=80))
    unread._hold("@a", 70)
    assert limit_for(unread, "a", 9) == "" and limit_for(unread, "a", 10) == "client_unread_bytes_max"
    unread._hold("@b", 20)
    # Together they have 90: another 10 are too many for who has most of it.
    assert limit_for(unread, "a", 9) == ""
    unread._hold("@b", 10)
    assert limit_for(unread, "a") == "grpc_unread_bytes_max"
    assert limit_for(unread, "b") == "" and limit_for(unread, "c", 1_000) == ""
    with pytest.raises(RpcFailure) as failed:
        unread.require_room(client("a"))
    assert failed.value.retry_after_ms
    unread._release("@b", 30)
    assert limit_for(unread, "a") == ""
    unread._release("@a", 70)
    assert unread.count_bytes == 0 and not unread._by_client


def test_one_answer_is_never_too_large_and_without_limits_nothing_is() -> None:
    unread = Unread(UnreadLimits(bytes_max=10, bytes_per_client_max=10))
    assert limit_for(unread, "a", 1_000) == ""
    free = Unread(UnreadLimits())
    free._hold("@a", 1 << 40)
    assert limit_for(free, "a", 1 << 40) == ""
