"""Bytes that are no calls: noise, HTTP/2 with wrong frames, and frames of the node port that mean nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from orchestrator.replication import frames
from orchestrator.replication.frames import LENGTH, PROTOCOL_VERSION, Hello, encode_frame
from orchestrator.replication.segment import EntryKind

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# How long a connection is listened to after all is said.
LISTEN_S = 0.05
_PATHS = (b"/orchestrator.v1.WorkflowService/StartWorkflow", b"/orchestrator.v1.WorkerService/Work", b"/x", b"",
          b"/\xf2.v1/x", b"/orchestrator.v1.WorkflowService/Start\xff")


async def say(host: str, port: int, data: bytes, listen_s: float = LISTEN_S) -> None:
    """Whatever becomes of it."""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 10)
        try:
            writer.write(data)
            await asyncio.wait_for(writer.drain(), 2)
            await asyncio.wait_for(reader.read(1 << 16), listen_s)
        finally:
            writer.close()


def noise(dice: random.Random) -> bytes:
    return dice.choice((b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", PREFACE)) + dice.randbytes(
        dice.randrange(2_000))


def http2(dice: random.Random) -> bytes:
    """A preface, and frames of which some are nearly right; a few bytes of them are others."""
    data = bytearray(PREFACE + _frame(4, 0, 0, b""))
    for _ in range(dice.randrange(1, 40)):
        data += dice.choice(_FRAMES)(dice)
    for _ in range(dice.choice((0, 0, 1, 3))):
        data[dice.randrange(len(PREFACE), len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)


def call(path: bytes) -> bytes:
    """One call by that path, which is all right but for that."""
    return PREFACE + _frame(4, 0, 0, b"") + _frame(1, 4, 1, _fields(path))


def reset() -> bytes:
    """The caller of such a call has thought better of it."""
    return _frame(3, 0, 1, struct.pack(">I", 8))


def _fields(path: bytes) -> bytes:
    return b"".join(_literal(name, value) for name, value in (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"),
        (b"te", b"trailers"), (b"content-type", b"application/grpc")))


def _frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">I", size & 0xFFFFFF)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([min(len(name), 126)]) + name[:126] + bytes([min(len(value), 126)]) + value[:126]


def _headers(dice: random.Random) -> bytes:
    block = b"".join(_literal(name, value) for name, value in (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", dice.choice(_PATHS)), (b":authority", b"x"),
        (b"te", b"trailers"), (b"content-type", dice.choice((b"application/grpc", b"text/plain")))))
    block += b"".join(_literal(b"k%d" % number, b"v" * 100) for number in range(dice.choice((0, 0, 5, 300))))
    return _frame(1, dice.choice((4, 5, 0)), dice.choice((1, 3, 5, 2, 0, 2**31 - 1)), block)


def _data(dice: random.Random) -> bytes:
    message = dice.randbytes(dice.randrange(60))
    prefix = struct.pack(">BI", dice.choice((0, 1, 7)), dice.choice((len(message), 0, 2**32 - 1, 2**24)))
    return _frame(0, dice.choice((0, 1, 8)), dice.choice((1, 3, 5, 0)), prefix + message)


_FRAMES: tuple[Callable[[random.Random], bytes], ...] = (
    _headers,
    _headers,
    _data,
    _data,
    lambda dice: _frame(3, 0, dice.choice((1, 3, 5, 0)), struct.pack(">I", dice.randrange(20))),  # RST_STREAM
    lambda dice: _frame(4, 0, 0, struct.pack(">HI", dice.randrange(9), dice.choice((0, 1, 2**31, 2**32 - 1)))),
    lambda dice: _frame(6, dice.choice((0, 1)), 0, dice.randbytes(8)) * dice.choice((1, 200)),  # PING
    lambda dice: _frame(7, 0, 0, dice.randbytes(8)),  # GOAWAY
    lambda dice: _frame(8, 0, dice.choice((0, 1)), struct.pack(">I", dice.choice((0, 1, 2**31 - 1)))),
    lambda dice: _frame(9, 0, dice.choice((1, 3)), dice.randbytes(50)) * dice.choice((1, 100)),  # CONTINUATION
    lambda dice: _frame(dice.randrange(256), dice.randrange(256), dice.randrange(2**31), dice.randbytes(20)),
    lambda dice: _frame(0, 0, 1, b"", length=2**24 - 1),
)


# -- the node port -----------------------------------------------------------------------------------------------------

_NUMBERS = (0, 1, 2, 7, 2**31, 2**53, 2**62, 2**63 - 1)


def peer(dice: random.Random, hello: Hello) -> bytes:
    """A hello, which may be wrong in a place, and messages that are well made and mean nothing."""
    data = bytearray(encode_frame(_changed(dice, hello) if dice.random() < 0.3 else hello))
    for _ in range(dice.randrange(1, 30)):
        data += _message(dice)
    for _ in range(dice.choice((0, 0, 0, 1, 3))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(data)


def stranger(cluster_id: str, members: list[str]) -> Hello:
    """Of the same cluster, and nobody whom it lists."""
    return Hello(PROTOCOL_VERSION, cluster_id, "zz", "f" * 32, "127.0.0.1:1", members, None)


def _changed(dice: random.Random, hello: Hello) -> Hello:
    name = dice.choice([name for name in hello.__struct_fields__ if isinstance(getattr(hello, name), str)])
    return msgspec.structs.replace(hello, **{name: dice.choice(("", "x", "a", "\x00", "n" * 3_000))})


def _message(dice: random.Random) -> bytes:
    if dice.random() < 0.1:
        size = dice.choice((0, 5, 2**24, 2**32 - 1))
        return bytes(LENGTH.pack(size)) + dice.randbytes(min(size, 30))
    number: Callable[[], int] = lambda: dice.choice(_NUMBERS)  # noqa: E731 - it is short, and named for its use
    checksum = "0123456789abcdef" * 4
    made: list[Any] = [
        frames.Gossip(number(), {"a": dice.choice((1, "x", b"\0")), "log_time_ms": number(), "checkpoints": b"\1" * 9}),
        frames.PreVoteRequest(number(), number(), number(), number()),
        frames.PreVoteReply(number(), number(), True),
        frames.VoteRequest(number(), number(), number(), dice.random() < 0.5),
        frames.VoteReply(number(), True),
        frames.TimeoutNow(number()),
        frames.Append(number(), number(), number(), number(),
                      [frames.WireEntry(number(), dice.choice(list(EntryKind)), dice.randbytes(30))]),
        frames.Heartbeat(number(), number(), number()),
        frames.Ack(number(), number(), number()),
        frames.Reject(number(), number(), number(), number()),
        frames.SnapshotBegin(number(), number(), number(), number(), checksum, dice.randbytes(5)),
        frames.SnapshotChunk(number(), checksum, number(), dice.randbytes(40)),
        frames.SnapshotAck(number(), checksum, number(), True, False),
    ]
    return encode_frame(dice.choice(made))
