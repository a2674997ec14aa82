"""Connections have limits, of all together and of one address; what is too much is ended, and nobody else is harmed."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from orchestrator.rpc.connections import Connections
from orchestrator.rpc.server import RpcServer
from orchestrator_api.v1 import cluster_pb2, cluster_pb2_grpc
from tests.rpc.bench import Bench, until

DEADLINE_S = 30
ALL_MAX = 12
ADDRESS_MAX = 5
CROWDED = "127.0.0.2"

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Door:
    """A server that has few connections to give, somebody who works, and those who take some without a word."""

    def __init__(self) -> None:
        self.cut = 0
        self.server = RpcServer(Bench().backend(), connections_max=ALL_MAX, connections_per_address_max=ADDRESS_MAX,
                                on_connection_cut=self._count)
        self._opened: list[Opened] = []

    async def start(self) -> None:
        await self.server.start("127.0.0.1", 0)
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}")
        await self.works()

    async def works(self) -> None:
        service: Any = cluster_pb2_grpc.ClusterServiceStub(self._channel)
        assert (await service.GetLeader(cluster_pb2.GetLeaderRequest(), timeout=DEADLINE_S)).leader == "n1"

    async def open(self, address: str) -> Opened:
        self._opened.append(await asyncio.open_connection("127.0.0.1", self.server.port, local_addr=(address, 0)))
        return self._opened[-1]

    async def stop(self) -> None:
        for _, writer in self._opened:
            writer.close()
        await self._channel.close()
        await self.server.stop(0)

    def _count(self) -> None:
        self.cut += 1


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    made = Door()
    await made.start()
    yield made
    await made.stop()


async def is_let_in(opened: Opened) -> bool:
    """A server says its settings at once, or it closes."""
    try:
        return bool(await asyncio.wait_for(opened[0].read(1 << 10), DEADLINE_S))
    except ConnectionError:
        return False


async def ends(opened: Opened) -> None:
    async with asyncio.timeout(DEADLINE_S):
        try:
            while await opened[0].read(1 << 10):
                pass
        except ConnectionError:
            pass


async def test_the_connection_above_the_limit_of_all_is_closed_and_the_others_go_on(door: Door) -> None:
    places = [await door.open(f"127.0.0.{2 + number}") for number in range(ALL_MAX - 1)]
    assert all([await is_let_in(each) for each in places])
    for _ in range(3):
        assert not await is_let_in(await door.open("127.0.1.1"))
    door.server.connections.look()
    assert door.server.connections.count == ALL_MAX, "that it is reached is what can be seen"
    await door.works()
    # One that ends makes room for one.
    places[0][1].close()

    async def is_let_in_again() -> bool:
        return await is_let_in(await door.open("127.0.1.1"))

    async with asyncio.timeout(DEADLINE_S):
        while not await is_let_in_again():
            pass
    await door.works()


async def test_of_an_address_with_too_many_the_newest_are_ended(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    connections = door.server.connections
    first = [await door.open(CROWDED) for _ in range(ADDRESS_MAX)]
    assert all([await is_let_in(each) for each in first])
    assert connections.look() == {} and connections.count == ADDRESS_MAX + 1
    for _ in range(2):
        more = [await door.open(CROWDED) for _ in range(3)]
        assert all([await is_let_in(each) for each in more])
        caplog.set_level(logging.WARNING)
        watching = asyncio.create_task(connections.run())
        for each in more:
            await ends(each)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await until("gRPC to close them", lambda: connections.look() == {} and connections.count == ADDRESS_MAX + 1)
        connections.cut(connections.look())  # it is over, so that the next time is told of again
    assert door.cut == 6
    assert [record.getMessage() for record in caplog.records if record.name.endswith("connections")] == [
        f"connections are ended: {CROWDED} has 8, and client_connections_max is {ADDRESS_MAX}"] * 2
    # Those that were there before are not, and nobody else's.
    assert not any(reader.at_eof() for reader, _ in first)
    await door.works()


async def test_what_was_another_connection_meanwhile_is_left_alone(door: Door) -> None:
    connections = Connections(door.server.port, 1, door._count)
    first, second = await door.open(CROWDED), await door.open(CROWDED)
    assert await is_let_in(first) and await is_let_in(second)
    too_many = connections.look()
    (place,) = too_many[CROWDED]
    mine = first if first[1].get_extra_info("sockname") != place else second
    other = next(at for at in connections._seen if at == mine[1].get_extra_info("sockname"))
    # As if another thread had closed the descriptor, and opened something.
    connections._seen[place] = connections._seen[other]
    connections.cut(too_many)
    with socket.socketpair()[0] as unrelated:
        connections._seen[place] = unrelated.fileno()
        connections.cut(too_many)
    connections._seen[place] = unrelated.fileno()
    connections.cut(too_many)
    assert door.cut == 0
    connections.look()
    assert connections.count == 3


async def test_addresses_are_the_same_in_both_families(tmp_path: Path) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
        connections = Connections(listening.getsockname()[1], 1)
        with socket.create_connection(("127.0.0.1", listening.getsockname()[1])) as client:
            accepted, _ = listening.accept()
            with accepted:
                connections.look()
                assert list(connections._seen) == [client.getsockname()]


async def test_where_the_kernel_does_not_list_them_nothing_is_limited(tmp_path: Path) -> None:
    await asyncio.wait_for(Connections(1, 1, descriptors=tmp_path / "nothing").run(), DEADLINE_S)
