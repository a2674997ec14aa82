"""Connections: what a stranger sends is dropped and counted; what is lost is dialled again."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import msgspec
import pytest
import uvloop

from orchestrator.replication.configuration import initial
from orchestrator.replication.frames import (
    HELLO_BYTES_MAX,
    PROTOCOL_VERSION,
    FrameReader,
    Heartbeat,
    Hello,
    encode_frame,
)
from orchestrator.replication.link import Outbound
from orchestrator.replication.ports import TcpNetwork
from orchestrator.replication.settings import RaftSettings
from tests.replication.cluster import DEADLINE_S, Cluster, Node, wait_until


async def throw(cluster: Cluster, data: bytes) -> bytes:
    """Sends bytes to n1's peer port and reads until it closes."""
    reader, writer = await asyncio.open_connection(*cluster["n1"].identity().address_of("n1"))
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def hello(cluster: Cluster, **changed: object) -> bytes:
    fields: dict[str, object] = {
        "version": PROTOCOL_VERSION,
        "cluster_id": cluster.cluster_id,
        "node": "n2",
        "incarnation": "f" * 32,
        "advertised": "x:1",
        "members": ["n1"],
        "configuration": None,
    }
    return encode_frame(Hello(**{**fields, **changed}))  # type: ignore[arg-type]  # fields by name


async def test_what_strangers_send_is_dropped_and_counted(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1) as cluster:
        await cluster.put(b"x")
        await throw(cluster, b"GET / HTTP/1.1\r\n\r\n")
        await throw(cluster, struct.pack(">I", 3) + b"\xc1\xc1\xc1")
        await throw(cluster, encode_frame(Heartbeat(10**6, 10**6, 1)))
        await throw(cluster, hello(cluster, cluster_id="other"))
        await throw(cluster, hello(cluster, version=PROTOCOL_VERSION + 1))
        await throw(cluster, hello(cluster, node="n1"))
        await throw(cluster, hello(cluster, advertised="nowhere"))
        counters = cluster["n1"].log.status().counters
        assert counters["oversized"] == 1
        assert counters["malformed"] == 3
        assert (counters["foreign"], counters["version"], counters["unknown"]) == (1, 1, 1)
        assert cluster["n1"].log.term == 1
        await cluster.put(b"y")


async def test_a_handshake_that_never_ends_is_dropped(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1, RaftSettings(handshake_timeout_ms=50)) as cluster:
        await throw(cluster, hello(cluster)[:10])
        assert cluster["n1"].log.status().counters["handshake_timeout"] == 1


async def test_a_peer_with_another_incarnation_is_heard_by_nobody(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        term = cluster["n1"].log.term
        reader, writer = await asyncio.open_connection(*cluster["n1"].identity().address_of("n1"))
        writer.write(hello(cluster) + encode_frame(Heartbeat(10**6, 10**6, 1)))
        await wait_until("the message to be counted", lambda: cluster["n1"].log.status().counters.get("unlisted"))
        assert cluster["n1"].log.term == term
        writer.close()
        await cluster.put(b"y")
        await cluster.converged()
        del reader


async def test_a_lost_connection_is_dialled_again(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")
        term = leader.log.term
        for _ in range(5):
            for link in leader.log._transport._links.values():
                link.drop()
            await wait_until(
                "both links", lambda: all(leader.log._core.connected(name) for name in leader.log._core.peers)
            )
            await cluster.put(b"y")
        await cluster.converged()
        assert leader.log.term == term


async def test_a_silent_peer_is_dialled_anew(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")
        transport = leader.log._transport
        transport._heard_at = dict.fromkeys(transport._heard_at, float("-inf"))
        transport._silent_from = float("-inf")
        transport.drop_silent()
        assert leader.log.status().counters["silent"] == 2
        await wait_until("both to be back", lambda: all(leader.log._core.connected(n) for n in leader.log._core.peers))
        await cluster.put(b"y")
        await cluster.converged()


async def test_a_stranger_with_a_members_name_does_not_cut_the_member_off(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        before = cluster["n1"].log._transport._inbound["n2"]
        reader, writer = await asyncio.open_connection(*cluster["n1"].identity().address_of("n1"))
        writer.write(hello(cluster))
        assert await asyncio.wait_for(reader.readexactly(4), 10)  # it is answered, so that it learns where it stands
        assert cluster["n1"].log._transport._inbound["n2"] is before
        writer.close()


async def passed_over(cluster: Cluster) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The leader's end of a connection of a second disk under the name of a follower that is connected."""
    leader = await cluster.leader()
    await cluster.put(b"x")
    await cluster.converged()
    name = leader.log._core.peers[0]
    reader, writer = await asyncio.open_connection(*leader.identity().address_of(leader.name))
    writer.write(hello(cluster, node=name))
    size = struct.unpack(">I", await asyncio.wait_for(reader.readexactly(4), 10))[0]
    await asyncio.wait_for(reader.readexactly(size), 10)
    return reader, writer


async def test_who_was_passed_over_is_called_back_when_the_other_falls_silent(tmp_path: Path) -> None:
    """It would speak to nobody for ever: its own connection is up, and gives it no cause to dial again."""
    async with Cluster(tmp_path) as cluster:
        reader, writer = await passed_over(cluster)
        transport = (await cluster.leader()).log._transport
        transport._heard_at = dict.fromkeys(transport._heard_at, float("-inf"))
        transport._silent_from = float("-inf")
        transport.drop_silent()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_who_was_passed_over_is_called_back_when_it_takes_the_others_place(tmp_path: Path) -> None:
    """The member that it replaces may be there for long, and connected."""
    async with Cluster(tmp_path) as cluster:
        reader, writer = await passed_over(cluster)
        transport = (await cluster.leader()).log._transport
        counts = transport._membership.counts
        with patch.object(
            transport._membership, "counts", lambda name, incarnation: incarnation == "f" * 32 or counts(name, "")
        ):
            transport.announce()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


async def test_a_full_buffer_closes_the_connection_instead_of_growing(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")
        name = leader.log._core.peers[0]
        frame = b"\0" * (leader.log._settings.outgoing_buffer_bytes_max + 1)
        assert not leader.log._transport.send_frame(name, frame)
        assert leader.log.status().counters["overflow"] == 1
        await cluster.put(b"y")
        await cluster.converged()


# What a member may have on its way is a small part of what the test sends.
NARROW = RaftSettings(entry_bytes_max=64 << 10, batch_bytes_max=64 << 10, probe_bytes_max=64 << 10,
                      in_flight_bytes_max=128 << 10, frame_bytes_max=192 << 10, outgoing_buffer_bytes_max=400 << 10)


def narrow(transport: asyncio.Transport) -> None:
    """The kernel keeps little of what is not read."""
    kernel_side = transport.get_extra_info("socket")
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        kernel_side.setsockopt(socket.SOL_SOCKET, option, 8 << 10)


async def deafen(cluster: Cluster, deaf: Node) -> list[asyncio.Transport]:
    """From now on it reads nothing of what the leader sends, and speaks as before; answers what it does not read."""
    leader = await cluster.leader()
    link = leader.log._transport._links[deaf.name]._connection
    inbound = deaf.log._transport._inbound[leader.name]
    assert link is not None and link.transport is not None and inbound.transport is not None
    for transport in (link.transport, inbound.transport):
        narrow(transport)
    inbound.transport.pause_reading()
    return [link.transport, inbound.transport]


async def test_a_member_that_does_not_read_costs_its_leader_a_bounded_buffer_and_nobody_else(tmp_path: Path) -> None:
    # The leader does not dial anew before the test gives up.
    async with Cluster(tmp_path, 3, replace(NARROW, peer_silence_ms=int(10 * DEADLINE_S * 1000))) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")
        await cluster.converged()
        term = leader.log.term
        deaf, other = cluster.others(leader)
        to_deaf, unread = await deafen(cluster, deaf)
        most = 0
        for number in range(60):
            await cluster.put(b"%d" % number + bytes(50 << 10), [leader])
            most = max(most, to_deaf.get_write_buffer_size())
        await cluster.converged([leader, other])
        assert 0 < most <= NARROW.in_flight_bytes_max + NARROW.frame_bytes_max
        assert leader.log.term == term and leader.log.ready_to_lead, "who hears nobody must not unseat a leader"
        assert leader.log._core.match_index(deaf.name) < leader.log.commit_index - 50, "it was to be left behind"
        # What is owed to it whether it reads or not, as news of who counts, is bounded, too.
        async with asyncio.timeout(DEADLINE_S):
            while not leader.log.status().counters.get("overflow"):
                leader.log._transport.announce()
                await asyncio.sleep(0)
        # It dials, reads, and has everything.
        await cluster.converged()
        assert unread.is_closing() or to_deaf.is_closing()
        assert deaf.applied == leader.applied and leader.log.term == term


async def test_an_address_in_use_is_said_at_start(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    node = cluster["n1"]
    host, port = node.identity().address_of("n1")
    squatter = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port)
    with pytest.raises(OSError, match="address already in use"):
        await node.start()
    squatter.close()
    await node.start()
    await cluster.put(b"x")
    await node.stop()


async def test_what_was_decided_while_hands_were_shaken_is_said_afterwards() -> None:
    """Else a peer whose only other word of us is older would wait for the cluster to form for ever."""
    own = Hello(PROTOCOL_VERSION, "cluster", "a", "1", "a:1", ["a", "b"], None)
    owner = SimpleNamespace(
        settings=RaftSettings(), counters=Counter(), client_tls=None, hello=lambda: own,
        admit=lambda hello, expected, certificate: None,
    )
    link = SimpleNamespace(name="b", opened=lambda connection, hello: None)
    written: list[bytes] = []
    transport = SimpleNamespace(write=written.append, is_closing=lambda: False, abort=lambda: None,
                                get_extra_info=lambda name: None)
    connection = Outbound(cast(Any, owner), cast(Any, link))
    connection.connection_made(cast(Any, transport))
    decided = initial({"a": "1", "b": "2"}, {"a": "a:1", "b": "b:1"})
    own = msgspec.structs.replace(own, configuration=decided)
    theirs = Hello(PROTOCOL_VERSION, "cluster", "b", "2", "b:1", ["a", "b"], None)
    connection.data_received(encode_frame(theirs))
    said = [message for frame in written for message in FrameReader(HELLO_BYTES_MAX).feed(frame)]
    assert [cast(Hello, hello).configuration for hello in said] == [None, decided]


def test_who_is_given_up_while_its_name_is_looked_up_leaves_no_error_behind() -> None:
    """As uvloop does, when it looks up by itself: anybody who says hello with such a name would fill the log."""
    told: list[object] = []

    async def give_up() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: told.append(context))
        name = "no host"  # nobody need be asked whether there is one
        dialling = asyncio.create_task(TcpNetwork().dial(name, 1, asyncio.Protocol, None))
        await asyncio.sleep(0)
        dialling.cancel()
        await asyncio.gather(dialling, return_exceptions=True)
        # Whatever was begun ends before this, which is begun later; and then nobody holds it any more.
        with pytest.raises(OSError, match=r".*"):
            await loop.getaddrinfo(name, 1)
        await asyncio.sleep(0)
        gc.collect()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(give_up())
    assert told == []
