"""What a node and its evaluator processes say to each other: msgpack in frames, one request at a time.

A frame is its length (4 bytes, big-endian) and that many bytes; a side that is sent a longer one than it allows hangs
up. The node sends `Setup` once and is sent one `Ready`; then each `Ask` is answered by one `Reply`.
"""

from __future__ import annotations

import struct
from enum import StrEnum

import msgspec

KIB = 1024
MIB = 1024 * KIB

LENGTH = struct.Struct(">I")
# What a frame holds beside the request's or answer's own text.
FRAME_OVERHEAD_BYTES = 4 * KIB
MESSAGE_CHARACTERS_MAX = 1000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one evaluation. Crossing one is an answer, never a fault of the node."""

    time_ms: int = 4_000  # of the processor: nothing waits here, so on the clock, too, unless the machine is busy
    memory_bytes: int = 128 * MIB
    source_bytes: int = 256 * KIB  # of a script, query or schema
    input_bytes: int = 1 * MIB  # more than a payload: a loop's condition sees what its body has put out
    output_bytes: int = 256 * KIB

    @property
    def request_frame_bytes(self) -> int:
        return self.source_bytes + self.input_bytes + FRAME_OVERHEAD_BYTES

    @property
    def reply_frame_bytes(self) -> int:
        return self.output_bytes + FRAME_OVERHEAD_BYTES + 4 * MESSAGE_CHARACTERS_MAX


class Script(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """JavaScript; `body`: it is a function's body, else its value is that of its last statement."""

    source: str
    input: bytes
    body: bool = False


class Query(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """jq. The answer's value is the array of all results."""

    source: str
    input: bytes


class Validation(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A JSON schema. The answer's value is an array of strings: the first violations, none if it is valid.

    `quiet`: they say where and which rule, and not what stands there.
    """

    source: str
    input: bytes
    quiet: bool = False


class ScriptCheck(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Whether it can be run at all. So for the other checks: the answer is VALUE, or ERROR with a message."""

    source: str
    body: bool = False


class QueryCheck(msgspec.Struct, frozen=True, array_like=True, tag=5):
    source: str


class SchemaCheck(msgspec.Struct, frozen=True, array_like=True, tag=6):
    source: str


AnyRequest = Script | Query | Validation | ScriptCheck | QueryCheck | SchemaCheck


class Verdict(StrEnum):
    VALUE = "VALUE"
    ERROR = "ERROR"  # the user's own: it does not parse, it has thrown
    TIME = "TIME"
    MEMORY = "MEMORY"
    TOO_LARGE = "TOO_LARGE"  # source, input or output
    CRASHED = "CRASHED"  # it has brought its evaluator down
    UNAVAILABLE = "UNAVAILABLE"  # it was not run, and that is not its fault


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """`value` is a JSON text if the verdict is VALUE (empty for checks), else `message` says why there is none."""

    verdict: Verdict
    value: bytes = b""
    message: str = ""


class Setup(msgspec.Struct, frozen=True):
    limits: Limits
    parent: int  # its process id


class Ready(msgspec.Struct, frozen=True):
    """`versions`: of the engines, for the log. `seccomp`: whether its system calls are confined.

    `error`: it can't work, and has ended.
    """

    versions: dict[str, str] = {}
    seccomp: bool = False
    error: str = ""


class Ask(msgspec.Struct, frozen=True, array_like=True):
    request: AnyRequest
    time_ms: int


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """`retired`: the process has grown or run out of something, and must be asked nothing more."""

    answer: Answer
    retired: bool = False


def clock_ms(time_ms: int) -> int:
    """How long an evaluation may take on the clock: a busy machine must not fail what needs little."""
    return 4 * time_ms


def frame(message: msgspec.Struct) -> bytes:
    text = msgspec.msgpack.encode(message)
    return LENGTH.pack(len(text)) + text


def shortened(message: str) -> str:
    """What is shown to people and stored with the attempt: bounded, and encodable."""
    message = message.encode("utf-8", "replace").decode("utf-8")
    return message if len(message) <= MESSAGE_CHARACTERS_MAX else message[: MESSAGE_CHARACTERS_MAX - 1] + "…"
