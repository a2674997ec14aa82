"""Log entries: a header, and commands with the identities of their requests.

A command is encoded once, when it arrives; closing an entry only joins the pieces. The first byte is the format
version; what this version cannot read is refused, never skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from orchestrator.codec.errors import EntryCorrupt, EntryVersionUnsupported
from orchestrator.engine import behaviour
from orchestrator.engine.command import Command
from orchestrator.engine.commands import AnyCommand, RequestIdentity
from orchestrator.engine.encoding import encode_struct

ENTRY_FORMAT = 1
ENTRY_CLOSE_BYTES = 256 * 1024
"""An entry takes no further command once its commands have this many bytes."""
ENTRY_COMMANDS_MAX = 1000

_PREFIX = bytes([ENTRY_FORMAT])
_PAIR = b"\x92"
_ARRAY32 = struct.Struct(">BI")


class EntryHeader(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What holds for all commands of an entry."""

    behaviour_level: int  # what a node has to know to apply it, the level that the entry itself raises included
    partition: int
    time_ms: int  # log time: never less than the entry's before
    proposer: str  # the node that led


class LogEntry(msgspec.Struct, frozen=True, gc=False):
    behaviour_level: int
    partition: int
    time_ms: int
    proposer: str
    commands: list[tuple[RequestIdentity | None, AnyCommand]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[EntryHeader, list[tuple[RequestIdentity | None, AnyCommand]]])
_outline = msgspec.msgpack.Decoder(tuple[EntryHeader, list[tuple[Any, list[Any]]]])


def encode_command(identity: RequestIdentity | None, command: Command) -> bytes:
    """A piece for `join_entry`."""
    if type(command) in behaviour.FIELDS_SINCE:
        # Without the fields that nobody uses yet, which an older node would refuse.
        return _PAIR + _encoder.encode(identity) + encode_struct(command)
    return _encoder.encode((identity, command))


def join_entry(header: EntryHeader, pieces: Sequence[bytes]) -> bytes:
    """The entry of these commands, in this order."""
    return b"".join((_PREFIX, _PAIR, _encoder.encode(header), _ARRAY32.pack(0xDD, len(pieces)), *pieces))


def encode_entry(header: EntryHeader, commands: Sequence[tuple[RequestIdentity | None, Command]]) -> bytes:
    return join_entry(header, [encode_command(identity, command) for identity, command in commands])


def decode_entry(data: bytes) -> LogEntry:
    if not data:
        raise EntryCorrupt("not a log entry: it is empty")
    if data[0] != ENTRY_FORMAT:
        raise EntryVersionUnsupported(
            f"a log entry has format {data[0]}, this version reads format {ENTRY_FORMAT}: upgrade this node"
        )
    body = memoryview(data)[1:]
    try:
        header, commands = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _refusal(body, error) from error
    return LogEntry(header.behaviour_level, header.partition, header.time_ms, header.proposer, commands)


def _refusal(body: memoryview, error: Exception) -> Exception:
    # An entry whose outline is right holds a command of a newer version; bytes were not lost.
    try:
        header, _ = _outline.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return EntryCorrupt(f"not a log entry: {error}")
    return EntryVersionUnsupported(
        f"a log entry of behaviour level {header.behaviour_level}, proposed by {header.proposer}, has a command that "
        f"this version does not know ({error}): upgrade this node"
    )
