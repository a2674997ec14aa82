"""Frames: what is sent arrives, in any pieces; what no correct peer sends is refused, and nothing is executed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from orchestrator.replication.frames import (
    LENGTH,
    AnyMessage,
    Append,
    BadFrame,
    EncodedAppend,
    FrameReader,
    Gossip,
    Heartbeat,
    Outgoing,
    WireEntry,
    encode_frame,
    gossip_values,
    wire_entry,
)
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
