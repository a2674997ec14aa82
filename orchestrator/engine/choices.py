"""What callers choose between when they ask for something. The numbers are part of the log."""

from __future__ import annotations

from enum import IntEnum


class IfExists(IntEnum):
    """What to do when a workflow id is taken."""

    FAIL = 1
    RETURN = 2


class IdempotencyStrategy(IntEnum):
    """What to do when a workflow has been started with the same idempotency key before."""

    FAIL = 1
    RETURN_EXISTING = 2
    FAIL_ON_RUNNING = 3


class TerminateCompensation(IntEnum):
    """Whether terminating undoes completed steps."""

    UNSET = 0
    RUN = 1
    SKIP = 2


class DeadlineKind(IntEnum):
    """Deadlines that the leader keeps in memory, and that start afresh with a new leader."""

    RESPONSE = 1  # a leased attempt was silent for too long; `number` is its fencing token
    POLL = 2  # no worker took the attempt in time; `number` is its ready number


class DeleteEffects(IntEnum):
    """What is to be done about completed steps that could be undone, when their execution is deleted."""

    UNSET = 0
    KEEP = 1
    COMPENSATE_FIRST = 2


class PurgeRule(IntEnum):
    """Why an ended execution need not be kept any longer."""

    AGE = 1  # it ended long enough ago
    COUNT = 2  # enough newer ones of its definition have ended; `observed`: how many
    BYTES = 3  # the database is larger than it may be; `observed`: its bytes
