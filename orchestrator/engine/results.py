"""What a command answers. Rejections are answers too: every replica rejects alike, and nothing has changed.

Results are remembered for repeated requests, so they are encoded like rows: by position, the tag first.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec


class Code(IntEnum):
    """Canonical gRPC status codes, by their numbers."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13


class Verdict(IntEnum):
    """The verdict on a worker's result, by the numbers of the wire."""

    ACCEPTED = 1
    FENCED = 2
    UNKNOWN = 3
    INVALID = 4


class Result(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all results."""


class Done(Result, frozen=True, tag=1):
    """It is done, and there is nothing more to say."""


class Rejected(Result, frozen=True, tag=2):
    """It is refused, and nothing has changed.

    `reason` is a stable name (WORKFLOW_NOT_FOUND, PIVOT_PASSED, ...); `metadata` may have "field", "limit", "path".
    """

    code: Code
    reason: str
    message: str
    metadata: tuple[tuple[str, str], ...] = ()


class Started(Result, frozen=True, tag=3):
    workflow_id: str
    existing: bool


class SessionOpened(Result, frozen=True, tag=4):
    session_id: str
    existing: bool


class ClientSessionOpened(Result, frozen=True, tag=5):
    session_id: str
    idle_timeout_ms: int


class Judged(Result, frozen=True, tag=6):
    verdict: Verdict
    message: str = ""


class Polled(Result, frozen=True, tag=7):
    tokens: tuple[int, ...]


class MessagePushed(Result, frozen=True, tag=10):
    message_id: str


class Checkpointed(Result, frozen=True, tag=8):
    """The chain hash at the checkpoint; the content hash is the storage's to say."""

    index: int
    chain: bytes


class ScheduleRan(Result, frozen=True, tag=40):
    """What running a schedule by hand came to (see RunState); no workflow id if it waits for the run before."""

    execution_id: str
    state: int
    workflow_id: str


class EventPublished(Result, frozen=True, tag=41):
    """`number` is 0 if nobody handles the event; `repeated` if its message id had come before."""

    number: int
    handlers: int
    repeated: bool = False


class EventsReceived(Result, frozen=True, tag=42):
    """So many of the entries, from the first on, have been taken up.

    Where not all, `reason` says why not: STEP_FULL, the others may follow at once; EVENTS_FULL or OUTBOX_FULL, there is
    no room until something is handled, or written.
    """

    taken: int
    reason: str = ""


class SecretStored(Result, frozen=True, tag=50):
    version: int


class BlobsHeld(Result, frozen=True, tag=60):
    """All but those at these positions, which are being deleted."""

    doomed: tuple[int, ...] = ()


AnyResult = (
    Done
    | Rejected
    | Started
    | SessionOpened
    | ClientSessionOpened
    | Judged
    | Polled
    | Checkpointed | MessagePushed
    | ScheduleRan
    | EventPublished
    | EventsReceived
    | SecretStored
    | BlobsHeld
)
