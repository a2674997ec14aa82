"""What nodes say to each other, and its bytes: a length, then one msgpack message of a known, checked shape.

Decoding never runs code and never allocates more than the frame's limit; anything else is `BadFrame`, numbers and
checksums that none of us would send among it.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec

from orchestrator.replication.configuration import Configuration
from orchestrator.replication.release import Release
from orchestrator.replication.segment import EntryKind, Record

PROTOCOL_VERSION = 2
"""The oldest that this program speaks: what each side sends until it has heard of a newer one that both know."""
PROTOCOL_NEWEST = 2
LENGTH = struct.Struct(">I")
HELLO_BYTES_MAX = 64 * 1024

GossipValue = bytes | int | str
# A term, an index, a size: it can be raised, and written in 64 bits.
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
# SHA-256 in hexadecimal. It becomes a part of a file's name.
Checksum = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Message(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """Base of all messages; the tag is the class name.

    Fields may be added at the end, with a default: who does not know them passes over them. A new message is sent only
    to who has said that it knows a version with it.
    """


class Hello(Message, frozen=True):
    """First on every connection, in both directions; sent again when the sender's standing changes."""

    version: int
    cluster_id: str
    node: str
    incarnation: str
    advertised: str
    members: list[str]
    # The one in force, from the moment the sender began to record its first; its index; whether that is committed.
    configuration: Configuration | None
    configuration_index: Count = 0
    configuration_committed: bool = False
    # Raised when a cluster is recovered without some of its nodes: those are of an epoch before.
    recovery_epoch: Count = 0
    # What the sender runs: the version of the software, and the behaviour levels that it knows; 0: it does not say.
    software: str = ""
    lowest_level: Count = 0
    highest_level: Count = 0
    # The newest version of what nodes say to each other that it knows; `version` is the oldest.
    newest_version: Count = 0

    @property
    def is_understood(self) -> bool:
        """Whether there is a version that both know."""
        return self.version <= PROTOCOL_NEWEST and max(self.version, self.newest_version) >= PROTOCOL_VERSION

    @property
    def release(self) -> Release | None:
        return Release(self.software, self.lowest_level, self.highest_level) if self.highest_level else None


class Gossip(Message, frozen=True):
    wall_ms: int
    # None: as before. Values are GossipValue; msgspec cannot say so, `gossip_values` checks it.
    data: dict[str, object] | None


class PreVoteRequest(Message, frozen=True):
    term: Count  # the term it would campaign in
    last_index: Count
    last_term: Count
    round: Count


class PreVoteReply(Message, frozen=True):
    term: Count
    round: Count
    granted: bool


class VoteRequest(Message, frozen=True):
    term: Count
    last_index: Count
    last_term: Count
    transfer: bool


class VoteReply(Message, frozen=True):
    term: Count
    granted: bool


class TimeoutNow(Message, frozen=True):
    term: Count


class WireEntry(msgspec.Struct, array_like=True, frozen=True):
    term: Count
    kind: EntryKind
    data: bytes


class Append(Message, frozen=True):
    term: Count
    prev_index: Count
    prev_term: Count
    commit_index: Count
    entries: list[WireEntry]


class EncodedAppend(msgspec.Struct, array_like=True, frozen=True, tag="Append"):
    """`Append` on its way out: entries were encoded once, for all followers."""

    term: int
    prev_index: int
    prev_term: int
    commit_index: int
    entries: list[msgspec.Raw]


class Heartbeat(Message, frozen=True):
    term: Count
    commit_index: Count
    round: Count


class CommitNotice(Message, frozen=True):
    """What is committed, where no entries that could say so followed soon. It is not answered."""

    term: Count
    commit_index: Count


class Ack(Message, frozen=True):
    term: Count
    # Everything up to here is the leader's of this term, and durable.
    match_index: Count
    # The last heartbeat round heard in this term.
    round: Count


class Reject(Message, frozen=True):
    """The entry before the appended ones is missing, or another: the log may agree from `hint_index` down."""

    term: Count
    prev_index: Count
    hint_index: Count
    hint_term: Count


class SnapshotBegin(Message, frozen=True):
    term: Count
    index: Count
    snapshot_term: Count
    size: Count
    checksum: Checksum
    configuration: bytes


class SnapshotChunk(Message, frozen=True):
    term: Count
    checksum: Checksum
    offset: Count
    data: bytes


class SnapshotAck(Message, frozen=True):
    """`offset` bytes arrived. `installed`: the follower stands at the snapshot's index or beyond, durably."""

    term: Count
    checksum: Checksum
    offset: Count
    installed: bool
    # The bytes did not have the checksum: begin again with a new copy.
    failed: bool


AnyMessage = (
    Hello
    | Gossip
    | PreVoteRequest
    | PreVoteReply
    | VoteRequest
    | VoteReply
    | TimeoutNow
    | Append
    | Heartbeat
    | CommitNotice
    | Ack
    | Reject
    | SnapshotBegin
    | SnapshotChunk
    | SnapshotAck
)
Outgoing = AnyMessage | EncodedAppend


class BadFrame(Exception):
    """Bytes that no correct peer sends; `reason` names the counter."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def encode_frame(message: Outgoing) -> bytes:
    data = _encoder.encode(message)
    return LENGTH.pack(len(data)) + data


def gossip_values(data: dict[str, object]) -> dict[str, GossipValue]:
    """What of it is of an allowed type."""
    return {key: value for key, value in data.items() if isinstance(value, (bytes, int, str))}


def wire_entry(record: Record) -> msgspec.Raw:
    if record.wire is None:
        record.wire = _encoder.encode(WireEntry(record.term, EntryKind(record.kind), record.data))
    return msgspec.Raw(record.wire)


class FrameReader:
    """Turns a stream of bytes into messages, with bounded memory."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[AnyMessage]:
        messages: list[AnyMessage] = []
        buffer = self._buffer
        if buffer:
            buffer += data
            del buffer[: self._take(buffer, messages)]
        else:
            # Mostly whole frames come, and nothing has to be kept.
            taken = self._take(data, messages)
            if taken < len(data):
                buffer += data[taken:]
        return messages

    def _take(self, data: bytes | bytearray, messages: list[AnyMessage]) -> int:
        """Appends what is there whole; returns how many bytes that were."""
        start, size = 0, len(data)
        while size - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(data, start)
            if length > self.limit_bytes:
                raise BadFrame("oversized")
            end = start + LENGTH.size + length
            if end > size:
                break
            try:
                messages.append(_decoder.decode(memoryview(data)[start + LENGTH.size : end]))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise BadFrame("malformed") from error
            start = end
        return start
