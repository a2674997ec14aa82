"""The kernel by itself: time, processes, network and disk are as strict as the real ones, and no stricter."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import grpc
import grpc.aio
import pytest

from orchestrator.storage.vfs import KeptVFS
from orchestrator.testing.disk import DatabaseKeeper, LogFiles, SimulatedDisk
from orchestrator.testing.loop import Process, VirtualLoop
from orchestrator.testing.machine import Machine
from orchestrator.testing.network import SimulatedNetwork
from orchestrator.testing.rpc import SimulatedChannel, SimulatedServer
from orchestrator_api.v1 import cluster_pb2
from tests.simulation.history import OK, REFUSED, UNKNOWN, Operation, linearizable, switch_model

# -- time and processes --------------------------------------------------------------------------------------------


def test_a_day_takes_no_time_and_timers_fire_in_order() -> None:
    loop, fired = VirtualLoop(), []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        fired.append(seconds)

    async def main() -> None:
        await asyncio.gather(sleep(86_400), sleep(1), sleep(60))

    loop.run_until_complete(main())
    assert fired == [1, 60, 86_400]
    assert 86_400 <= loop.now < 86_401


def test_a_killed_process_does_nothing_more_and_does_not_clean_up() -> None:
    loop, did = VirtualLoop(), []

    async def work() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                did.append(loop.now)
        finally:
            did.append(-1)

    process = Process("p")
    loop.spawn(process, work(), "work")
    loop.run(2.5)
    process.alive = False
    loop.run(10)
    assert [round(at) for at in did] == [1, 2]


def test_a_paused_process_goes_on_where_it_was() -> None:
    loop, did = VirtualLoop(), []

    async def work() -> None:
        await asyncio.sleep(1)
        did.append(loop.now)

    process = Process("p")
    loop.spawn(process, work(), "work")
    process.paused = True
    loop.run(5)
    assert not did
    loop.resume(process)
    loop.run(10)
    assert did
    assert did[0] >= 5


def test_what_a_paused_process_has_missed_comes_before_what_arrives_now() -> None:
    loop, heard = VirtualLoop(), []
    process = Process("p")
    process.paused = True

    def arrive() -> None:
        loop.deliver(process, heard.append, 1)
        loop.resume(process)
        loop.deliver(process, heard.append, 2)

    loop.schedule(1.0, arrive)
    loop.run(2.0)
    assert heard == [1, 2]


def test_a_clock_of_its_own_speed() -> None:
    loop, shown = VirtualLoop(), []

    async def work() -> None:
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(10)
        shown.extend((asyncio.get_running_loop().time() - began, loop.now))

    loop.spawn(Process("fast", rate=2.0, offset=500), work(), "work")
    loop.run(20)
    assert shown == [pytest.approx(10, abs=0.01), pytest.approx(5, abs=0.01)]


def test_a_callback_belongs_to_the_process_of_its_context() -> None:
    """An empty context is nobody's, whoever asks for the callback."""
    loop, did = VirtualLoop(), []
    process = Process("p")

    async def work() -> None:
        asyncio.get_running_loop().call_soon(did.append, "nobody's", context=contextvars.Context())
        asyncio.get_running_loop().call_soon(did.append, "its own")
        process.alive = False

    loop.spawn(process, work(), "work")
    loop.run(1)
    assert did == ["nobody's"]


# -- the network ---------------------------------------------------------------------------------------------------


class Line(asyncio.Protocol):
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class Two:
    """Two machines and a connection between them."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.network = SimulatedNetwork(self.loop, random.Random(1), (0.001, 0.01))
        self.a = Machine("a", self.loop, self.network, random.Random(2), None)
        self.b = Machine("b", self.loop, self.network, random.Random(3), None)
        self.a.boot()
        self.far = Line()
        self.network.listen(self.b.boot(), "b", 1, lambda: self.far)
        self.near = self.connect()

    def connect(self) -> Line:
        assert self.a.process is not None
        task = self.a.spawn(self.network.connect(self.a.process, "a", ("b", 1), Line), "connect")
        self.loop.run(self.loop.now + 3)
        line = task.result()
        assert isinstance(line, Line)
        return line

    def say(self, data: bytes) -> None:
        self.near.transport.write(data)  # type: ignore[attr-defined]  # it is a transport for writing


def test_bytes_arrive_in_order_and_wait_while_nothing_passes() -> None:
    two = Two()
    two.say(b"one ")
    two.loop.run(two.loop.now + 1)
    two.network.block([("a", "b")])
    two.say(b"two ")
    two.say(b"three")
    two.loop.run(two.loop.now + 5)
    assert two.far.heard == b"one "
    two.network.heal()
    two.loop.run(two.loop.now + 1)
    assert two.far.heard == b"one two three"


def test_the_end_of_a_process_is_told_and_that_of_a_machine_is_not() -> None:
    killed, unplugged = Two(), Two()
    killed.b.kill()
    unplugged.b.lose_power()
    for two in (killed, unplugged):
        two.loop.run(two.loop.now + 5)
    assert (killed.near.lost, unplugged.near.lost) == (True, False)
    unplugged.b.boot()
    unplugged.say(b"are you there?")
    unplugged.loop.run(unplugged.loop.now + 5)
    assert unplugged.near.lost


def test_nobody_listening_refuses() -> None:
    two = Two()
    two.b.kill()
    with pytest.raises(ConnectionRefusedError):
        two.connect()


# -- gRPC's calls --------------------------------------------------------------------------------------------------


class Counter:
    """Names leaders of terms 1, 2, 3 and so on, one a second."""

    async def count(self, request: Any, context: Any) -> AsyncIterator[cluster_pb2.GetLeaderResponse]:
        for term in range(1, request.term + 1):
            yield cluster_pb2.GetLeaderResponse(term=term)
            await asyncio.sleep(1)


class Streaming:
    """A server that counts, on b; and who listens, on a."""

    def __init__(self) -> None:
        self.two = Two()
        handler = grpc.unary_stream_rpc_method_handler(
            Counter().count,
            request_deserializer=cluster_pb2.GetLeaderResponse.FromString,
            response_serializer=cluster_pb2.GetLeaderResponse.SerializeToString,
        )
        server = SimulatedServer()
        server.add_registered_method_handlers("test.Counter", {"Count": handler})
        assert self.two.b.process is not None and self.two.a.process is not None
        server.start(self.two.network, self.two.b.process, "b", 2)
        channel = SimulatedChannel(self.two.network, self.two.a.process, "a", "b:2")
        self.count = channel.unary_stream(
            "/test.Counter/Count",
            cluster_pb2.GetLeaderResponse.SerializeToString,
            cluster_pb2.GetLeaderResponse.FromString,
        )
        self.heard: list[Any] = []

    async def listen(self, to: int) -> None:
        call = self.count(cluster_pb2.GetLeaderResponse(term=to))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                self.heard.append(message.term)
            self.heard.append("end")
        except grpc.aio.AioRpcError as error:
            self.heard.append(error.code())


def test_a_stream_of_responses_comes_one_by_one_and_ends() -> None:
    streaming = Streaming()
    streaming.two.a.spawn(streaming.listen(3), "listen")
    loop = streaming.two.loop
    loop.run(loop.now + 1.5)
    assert streaming.heard == [1, 2]
    loop.run(loop.now + 3)
    assert streaming.heard == [1, 2, 3, "end"]


def test_a_stream_breaks_with_its_server() -> None:
    streaming = Streaming()
    streaming.two.a.spawn(streaming.listen(9), "listen")
    loop = streaming.two.loop
    loop.run(loop.now + 1.5)
    streaming.two.b.kill()
    loop.run(loop.now + 1)
    assert streaming.heard == [1, 2, grpc.StatusCode.UNAVAILABLE]


# -- the disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_power_loss_keeps_what_was_synced(seed: int) -> None:
    disk = SimulatedDisk(random.Random(seed))
    files, path = LogFiles(disk), Path("/d/file")
    disk.make_directory("/d")
    files.sync_directory(Path("/"))
    file = files.open_append(path)
    file.write(b"synced")
    file.fdatasync()
    files.sync_directory(Path("/d"))
    file.write(b" and not")
    disk.lose_power()
    left = files.read(path)
    assert left.startswith(b"synced")
    assert len(left) <= len(b"synced and not")


def test_what_was_not_synced_is_sometimes_lost_sometimes_kept_and_sometimes_torn() -> None:
    left = set()
    for seed in range(60):
        disk = SimulatedDisk(random.Random(seed))
        files = LogFiles(disk)
        file = files.open_append(Path("/file"))
        files.sync_directory(Path("/"))
        file.write(b"x" * 1024)
        disk.lose_power()
        left.add(len(files.read(Path("/file")).rstrip(b"\0")))
    assert {0, 1024} < left


def test_a_name_is_lost_with_its_directory_unsynced() -> None:
    kept = 0
    for seed in range(40):
        disk = SimulatedDisk(random.Random(seed))
        LogFiles(disk).open_append(Path("/file")).fdatasync()
        disk.lose_power()
        kept += disk.exists("/file")
    assert 0 < kept < 40


def test_a_database_is_rolled_back_after_a_kill(tmp_path: Path) -> None:
    """As it has to be when a node is killed while it makes its database, before that has a log."""
    disk = SimulatedDisk(random.Random(1))
    vfs = KeptVFS(DatabaseKeeper(disk), tmp_path)
    killed = apsw.Connection("/state.db", vfs=vfs.name)
    killed.execute("CREATE TABLE t(n); INSERT INTO t VALUES (1)")
    killed.execute("PRAGMA cache_size=1; BEGIN; INSERT INTO t VALUES (2)")
    killed.execute(
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n LIMIT 100) "
        "INSERT INTO t SELECT randomblob(1000) FROM n"
    )
    assert disk.exists("/state.db-journal")
    vfs.restart()
    assert apsw.Connection("/state.db", vfs=vfs.name).execute("SELECT * FROM t").fetchall() == [(1,)]
    vfs.close()


# -- the checker ---------------------------------------------------------------------------------------------------


def _call(kind: str, begin: float, end: float, outcome: str = OK, answer: str | None = None) -> Operation:
    return Operation("c", kind, "w", "", begin, end, outcome, answer)


def test_a_stale_read_is_not_linearizable() -> None:
    calls = [_call("pause", 0, 1), _call("get", 2, 3, answer="RUNNING")]
    assert not linearizable(calls, "RUNNING", switch_model)
    assert linearizable([calls[0], _call("get", 0.5, 3, answer="RUNNING")], "RUNNING", switch_model)


def test_an_unknown_outcome_may_come_late_or_never() -> None:
    unknown = _call("pause", 0, 1, UNKNOWN)
    for answers in (["RUNNING", "RUNNING"], ["RUNNING", "PAUSED"], ["PAUSED", "PAUSED"]):
        reads = [_call("get", 2 + at, 2.5 + at, answer=answer) for at, answer in enumerate(answers)]
        assert linearizable([unknown, *reads], "RUNNING", switch_model)
    back = [_call("get", 2, 3, answer="PAUSED"), _call("get", 4, 5, answer="RUNNING")]
    assert not linearizable([unknown, *back], "RUNNING", switch_model)


def test_a_refusal_has_to_be_deserved() -> None:
    assert linearizable([_call("resume", 0, 1, REFUSED)], "RUNNING", switch_model)
    assert not linearizable([_call("pause", 0, 1), _call("resume", 2, 3, REFUSED)], "RUNNING", switch_model)


def test_a_blank_disk_in_the_place_of_a_full_one_has_room() -> None:
    disk = SimulatedDisk(random.Random(1))
    disk.full = True
    disk.lose_everything()
    assert not disk.full
