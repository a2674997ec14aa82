"""Frames: what is sent arrives, in any pieces; what no correct peer sends is refused, and nothing is executed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import cast

import msgspec
import pytest

from orchestrator.replication.configuration import Configuration
from orchestrator.replication.frames import (
    LENGTH,
    PROTOCOL_NEWEST,
    PROTOCOL_VERSION,
    AnyMessage,
    Append,
    BadFrame,
    EncodedAppend,
    FrameReader,
    Gossip,
    Heartbeat,
    Hello,
    Message,
    Outgoing,
    WireEntry,
    encode_frame,
    gossip_values,
    wire_entry,
)
from orchestrator.replication.release import Release
from orchestrator.replication.segment import EntryKind, Record


def test_any_split_of_the_stream_gives_the_same_messages() -> None:
    records = [Record(index, 2, 0, bytes([index]) * index) for index in range(1, 50)]
    sent: list[Outgoing] = [
        EncodedAppend(2, 0, 0, 0, [wire_entry(record) for record in records]),
        Heartbeat(2, 5, 1),
        Gossip(1, {"a": b"1", "b": 2, "c": "d"}),
    ]
    stream = b"".join(encode_frame(message) for message in sent)
    expected = [Append(2, 0, 0, 0, [WireEntry(2, EntryKind.COMMANDS, record.data) for record in records]), *sent[1:]]
    rng = random.Random(1)
    for _ in range(50):
        reader = FrameReader(1 << 20)
        got: list[AnyMessage] = []
        position = 0
        while position < len(stream):
            size = rng.choice([1, 2, 3, 100, 10_000])
            got += reader.feed(stream[position : position + size])
            position += size
        assert got == expected


def test_an_entry_is_encoded_once() -> None:
    record = Record(1, 1, 0, b"x")
    assert bytes(wire_entry(record)) == record.wire
    wire = record.wire
    wire_entry(record)
    assert record.wire is wire


BOMB = Path("/tmp/replication-frames-bomb")
# A pickle of `os.system("touch /tmp/replication-frames-bomb")`.
PICKLE_BOMB = b"cposix\nsystem\n(S'touch /tmp/replication-frames-bomb'\ntR."


def frame(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x93\xa9Heartbeat\x01\x02",
        PICKLE_BOMB,
        b"\x91" * 5000,
        b"\x92\xa5Nopes\x01",
        encode_frame(Heartbeat(1, 1, 1))[4:] + b"\x00",
    ],
)
def test_malformed_frames_are_refused(body: bytes) -> None:
    with pytest.raises(BadFrame, match="malformed"):
        FrameReader(1 << 20).feed(frame(body))
    assert not BOMB.exists()


def test_oversized_frames_are_refused_before_they_are_read() -> None:
    with pytest.raises(BadFrame, match="oversized"):
        FrameReader(100).feed(LENGTH.pack(101))


def test_gossip_keeps_only_plain_values() -> None:
    assert gossip_values({"a": 1, "b": [1], "c": {"d": 1}, "e": b"x"}) == {"a": 1, "e": b"x"}


class NewerHeartbeat(Message, frozen=True, tag="Heartbeat"):
    """As a later release may have it."""

    term: int
    commit_index: int
    round: int
    mood: str = "fine"


class OlderHello(Message, frozen=True, tag="Hello"):
    """Before nodes said what they run."""

    version: int
    cluster_id: str
    node: str
    incarnation: str
    advertised: str
    members: list[str]
    configuration: Configuration | None


def test_fields_that_only_one_side_knows_do_no_harm() -> None:
    reader = FrameReader(1 << 20)
    newer = cast(AnyMessage, NewerHeartbeat(3, 7, 1, "good"))
    assert reader.feed(encode_frame(newer)) == [Heartbeat(3, 7, 1)]
    older = cast(AnyMessage, OlderHello(PROTOCOL_VERSION, "c", "n1", "i", "h:1", ["n1"], None))
    [hello] = reader.feed(encode_frame(older))
    assert isinstance(hello, Hello) and hello.is_understood and hello.release is None
    decoder = msgspec.msgpack.Decoder(OlderHello)
    ours = Hello(PROTOCOL_VERSION, "c", "n1", "i", "h:1", ["n1"], None, software="9", lowest_level=1, highest_level=2)
    assert decoder.decode(encode_frame(ours)[LENGTH.size :]) == older
    assert ours.release == Release("9", 1, 2)


@pytest.mark.parametrize(
    ("oldest", "newest", "understood"),
    [
        (PROTOCOL_VERSION, 0, True), (PROTOCOL_VERSION, PROTOCOL_NEWEST + 1, True),
        (PROTOCOL_NEWEST + 1, PROTOCOL_NEWEST + 2, False), (PROTOCOL_VERSION - 1, 0, False),
        (PROTOCOL_VERSION - 1, PROTOCOL_VERSION, True), (PROTOCOL_VERSION - 1, PROTOCOL_VERSION - 1, False),
    ],
)
def test_nodes_speak_with_each_other_if_there_is_a_version_that_both_know(
    oldest: int, newest: int, understood: bool
) -> None:
    assert Hello(oldest, "c", "n", "i", "h:1", [], None, newest_version=newest).is_understood is understood
