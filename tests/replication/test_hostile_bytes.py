"""Whatever bytes come, a peer is dropped and counted, memory stays bounded, and the node goes on."""

from __future__ import annotations

import asyncio
import random
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.replication import configuration, identity
from orchestrator.replication.configuration import UnknownConfiguration
from orchestrator.replication.errors import IdentityError
from orchestrator.replication.files import RealFiles
from orchestrator.replication.frames import (
    LENGTH,
    PROTOCOL_VERSION,
    Ack,
    Append,
    BadFrame,
    FrameReader,
    Gossip,
    Heartbeat,
    Hello,
    PreVoteReply,
    PreVoteRequest,
    Reject,
    SnapshotAck,
    SnapshotBegin,
    SnapshotChunk,
    TimeoutNow,
    VoteReply,
    VoteRequest,
    WireEntry,
    encode_frame,
)
from orchestrator.replication.segment import EntryKind
from orchestrator.replication.settings import RaftSettings
from tests.replication.cluster import Cluster, Node, wait_until, within

CHECKSUM = "0123456789abcdef" * 4
GOOD: list[Any] = [
    Hello(PROTOCOL_VERSION, "c", "n2", "i", "host:1", ["n1", "n2"], None),
    Gossip(1, {"a": 1}),
    PreVoteRequest(2, 3, 1, 1),
    PreVoteReply(2, 1, True),
    VoteRequest(2, 3, 1, False),
    VoteReply(2, True),
    TimeoutNow(2),
    Append(2, 3, 1, 2, [WireEntry(2, EntryKind.COMMANDS, b"x"), WireEntry(2, EntryKind.NO_OP, b"")]),
    Heartbeat(2, 3, 1),
    Ack(2, 3, 1),
    Reject(2, 3, 1, 1),
    SnapshotBegin(2, 3, 1, 5, CHECKSUM, b""),
    SnapshotChunk(2, CHECKSUM, 0, b"12345"),
    SnapshotAck(2, CHECKSUM, 5, True, False),
]
LIMIT = 4096


def feed(reader: FrameReader, data: bytes, sizes: list[int]) -> list[object]:
    """In pieces of these sizes, over and over."""
    got: list[object] = []
    position = turn = 0
    while position < len(data):
        size = sizes[turn % len(sizes)] if sizes else len(data)
        got += reader.feed(data[position : position + size])
        position, turn = position + size, turn + 1
        assert len(reader._buffer) <= LIMIT + LENGTH.size + size
    return got


@given(st.binary(max_size=2000), st.lists(st.integers(1, 300), max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_messages_or_a_bad_frame(data: bytes, sizes: list[int]) -> None:
    try:
        messages = feed(FrameReader(LIMIT), data, sizes)
    except BadFrame:
        return
    for message in messages:
        assert isinstance(message, tuple(type(good) for good in GOOD))


@given(st.sampled_from(GOOD), st.data())
@settings(max_examples=500, deadline=None)
def test_a_good_frame_with_a_few_changed_bytes_is_a_message_or_a_bad_frame(message: Any, data: st.DataObject) -> None:
    frame = bytearray(encode_frame(message))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        messages = FrameReader(LIMIT).feed(bytes(frame))
    except BadFrame:
        return
    for got in messages:
        # Whatever it says, it can be said again: so it is within the ranges of its type.
        assert FrameReader(LIMIT).feed(encode_frame(got)) == [got]
        assert all(value >= 0 for value in numbers(got))


def numbers(message: Any) -> list[int]:
    """All numbers of a message that count something."""
    if isinstance(message, Gossip | Hello):
        return []
    found = [getattr(message, name) for name in message.__struct_fields__]
    entries = [entry.term for entry in getattr(message, "entries", [])]
    return [value for value in [*found, *entries] if isinstance(value, int)]


def fields(message: Any) -> list[Any]:
    decoded: list[Any] = msgspec.msgpack.decode(encode_frame(message)[LENGTH.size :])
    return decoded


@pytest.mark.parametrize("number", [-1, -(2**63), 2**63, 2**64 - 1])
@pytest.mark.parametrize("message", [good for good in GOOD if numbers(good)], ids=lambda good: type(good).__name__)
def test_numbers_that_no_log_has_are_malformed(message: Any, number: int) -> None:
    """An index below 0, or a term that could not be raised or written, must not get as far as an invariant."""
    for place, value in enumerate(fields(message)):
        if type(value) is int:
            changed = fields(message)
            changed[place] = number
            body = msgspec.msgpack.encode(changed)
            with pytest.raises(BadFrame, match="malformed"):
                FrameReader(LIMIT).feed(LENGTH.pack(len(body)) + body)


@pytest.mark.parametrize("checksum", ["", "/../../etc", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
def test_a_checksum_is_a_checksum_for_it_becomes_a_name(checksum: str) -> None:
    with pytest.raises(BadFrame, match="malformed"):
        FrameReader(LIMIT).feed(encode_frame(SnapshotBegin(2, 3, 1, 5, checksum, b"")))


def test_text_that_is_none_is_refused_with_a_name(tmp_path: Path) -> None:
    """The decoder's complaint about it is of another kind than all its others."""
    with pytest.raises(BadFrame, match="malformed"):
        FrameReader(LIMIT).feed(LENGTH.pack(4) + b"\x92\xa1\x80\x01")
    with pytest.raises(UnknownConfiguration):
        configuration.decode(b"\x81\xa7members\x81\xa1\x80\x82\xabincarnation\xa1i\xa7address\xa1a")
    with pytest.raises(UnknownConfiguration):
        configuration.decode_stored(b'{"version": 1, "index": 0, "configuration": {"members": {"\x80": 1}}}', {})
    (tmp_path / identity.FILE_NAME).write_bytes(b'{"cluster_id": "\x80"}')
    with pytest.raises(IdentityError, match="cannot be read"):
        identity.load(RealFiles(), tmp_path)


# -- a whole node ------------------------------------------------------------------------------------------------------

QUICK = RaftSettings(handshake_timeout_ms=200)


async def connect(node: Node) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*node.identity().address_of(node.name))


async def closed(reader: asyncio.StreamReader) -> None:
    async def drained() -> None:
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionError:
            pass

    await within("the connection to be closed", drained())


def refused(node: Node) -> int:
    names = ("malformed", "oversized", "foreign", "version", "unknown", "handshake_timeout", "flood")
    return sum(node.log.status().counters.get(name, 0) for name in names)


async def test_random_bytes_on_the_port_are_dropped_and_counted(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1, QUICK) as cluster:
        await cluster.put(b"x")
        node, dice = cluster["n1"], random.Random(7)
        hello = encode_frame(Hello(PROTOCOL_VERSION, cluster.cluster_id, "n2", "f" * 32, "x:1", ["n1"], None))
        for number in range(1, 31):
            reader, writer = await connect(node)
            bad = bytearray(dice.choice([hello, dice.randbytes(dice.randrange(1, 200)), b"\x16\x03\x01" + hello]))
            for _ in range(3):
                bad[dice.randrange(min(len(bad), 40))] ^= 1 << dice.randrange(8)
            writer.write(struct.pack(">I", len(bad)) + bytes(bad))
            await closed(reader)
            writer.close()
            assert refused(node) == number
        assert (node.log.term, node.fatal) == (1, [])
        await cluster.put(b"y")


async def test_garbage_after_the_handshake_is_dropped_and_counted(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1, QUICK) as cluster:
        await cluster.put(b"x")
        node = cluster["n1"]
        hello = encode_frame(Hello(PROTOCOL_VERSION, cluster.cluster_id, "n2", "f" * 32, "x:1", ["n1"], None))
        for garbage, reason in [
            (b"\x00\x00\x00\x01\xc1", "malformed"),
            (struct.pack(">I", QUICK.frame_bytes_max + 1), "oversized"),
            (encode_frame(Hello(PROTOCOL_VERSION, cluster.cluster_id, "n3", "f" * 32, "x:1", [], None)), "malformed"),
        ]:
            before = node.log.status().counters.get(reason, 0)
            reader, writer = await connect(node)
            writer.write(hello)
            assert await within("the answer", reader.readexactly(4))
            writer.write(garbage)
            await closed(reader)
            writer.close()
            assert node.log.status().counters[reason] == before + 1
        await cluster.put(b"y")


async def test_a_hello_that_comes_byte_by_byte_runs_out_of_time(tmp_path: Path) -> None:
    """Each byte is a sign of life, and none of them prolongs the handshake."""
    async with Cluster(tmp_path, 1, QUICK) as cluster:
        await cluster.put(b"x")
        node = cluster["n1"]
        reader, writer = await connect(node)
        closing = asyncio.create_task(closed(reader))
        for byte in encode_frame(Hello(PROTOCOL_VERSION, "c" * 5000, "n2", "f", "x:1", ["n1"], None)):
            if closing.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.002)
        else:
            raise AssertionError("all of it was read")
        await closing
        assert node.log.status().counters["handshake_timeout"] == 1
        writer.close()


async def test_a_flood_of_connections_is_bounded_and_members_still_get_through(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 3, replace(QUICK, handshake_timeout_ms=20_000)) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        node = cluster["n1"]
        transport = node.log._transport
        flood = [await connect(node) for _ in range(300)]
        await wait_until("the flood to be counted", lambda: node.log.status().counters.get("flood", 0) >= 150)
        assert len(transport._unnamed) <= 128
        for other in ("n2", "n3"):
            cluster[other].log._transport._links["n1"].drop()
        await wait_until(
            "the members to be back", lambda: all(cluster[other].log._core.connected("n1") for other in ("n2", "n3"))
        )
        await cluster.put(b"y")
        await cluster.converged()
        for _, writer in flood:
            writer.close()


async def test_strangers_with_a_members_name_are_bounded_too(tmp_path: Path) -> None:
    """They are answered, so that they learn where they stand, and wait for the member to go: but not in any number."""
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        node = cluster["n1"]
        hello = encode_frame(Hello(PROTOCOL_VERSION, cluster.cluster_id, "n2", "f" * 32, "x:1", ["n1"], None))
        flood = [await connect(node) for _ in range(150)]
        for _, writer in flood:
            writer.write(hello)
        await wait_until("the flood to be counted", lambda: node.log.status().counters.get("flood", 0) > 0)
        assert len(node.log._transport._unnamed) <= 128
        await cluster.put(b"y")
        await cluster.converged()
        for _, writer in flood:
            writer.close()


@pytest.mark.parametrize("where", ["heard", "lost"])
async def test_a_broken_invariant_in_a_connection_stops_the_node(tmp_path: Path, where: str) -> None:
    """asyncio would log it and close the connection, again and again."""
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        node = cluster["n1"]

        def broken(*_: object) -> None:
            raise AssertionError("an invariant does not hold")

        setattr(node.log._membership, where, broken)
        cluster.network.isolate("n2")
        cluster.network.heal()
        await wait_until("the node to stop", lambda: node.fatal)
        assert str(node.fatal[0]) == "an invariant does not hold"


async def test_a_silent_inbound_connection_is_closed_though_nothing_leads_back(tmp_path: Path) -> None:
    """Half-open connections of strangers would fill their places for ever."""
    async with Cluster(tmp_path, 1, QUICK) as cluster:
        await cluster.put(b"x")
        node = cluster["n1"]
        reader, writer = await connect(node)
        writer.write(encode_frame(Hello(PROTOCOL_VERSION, cluster.cluster_id, "n9", "f" * 32, "127.0.0.1:1", [], None)))
        await wait_until("the stranger to be known", lambda: "n9" in node.log._transport._inbound)
        node.log._transport._heard_at["n9"] = node.log._transport._silent_from = float("-inf")
        await closed(reader)
        assert node.log.status().counters["silent"] == 1 and "n9" not in node.log._transport._inbound
        writer.close()
