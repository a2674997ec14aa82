"""What the leader owes the world after a step. Every node computes effects; only the leader performs them.

An effect is never the only copy of an intention: `pending` derives what is still owed from the state.
"""

from __future__ import annotations

import msgspec

from orchestrator.engine.model import TaskStatus


class Effect(msgspec.Struct, frozen=True, gc=False):
    """Base of all effects."""


class Deliver(Effect, frozen=True):
    """Hand the leased attempt to its session's worker."""

    session_id: str
    token: int
    namespace: str
    workflow_id: str
    task_sequence: int


class Cancel(Effect, frozen=True):
    """Tell the session's worker to stop the attempt.

    `fenced` is False while the workflow waits for the attempt to settle: a result given now still counts.
    """

    session_id: str
    token: int
    namespace: str
    workflow_id: str
    task_id: str
    reason: str
    fenced: bool


class LeaseEnded(Effect, frozen=True):
    """The lease is gone: nothing is to be watched or delivered any more."""

    session_id: str
    token: int


class SessionEnded(Effect, frozen=True):
    """`lost`: the worker was not heard of; otherwise it said goodbye."""

    session_id: str
    reason: str
    lost: bool = False


class TaskQueued(Effect, frozen=True):
    """An attempt waits for a worker, and no session had a free slot: pollers of its queue may be woken."""

    number: int
    namespace: str
    domain: str
    name: str
    poll_timeout_ms: int


class QueueOpened(Effect, frozen=True):
    """A queue that was held back by a limit may be taken from again: pollers may be woken."""

    namespace: str
    domain: str
    name: str


class ExecutionChanged(Effect, frozen=True):
    """Watchers and waiters of the execution have something to see."""

    namespace: str
    workflow_id: str
    terminal: bool
    started: bool = False  # in this step, whoever wanted it
    ended: bool = False  # in this step


class ExecutionDeleted(Effect, frozen=True):
    """The execution is gone, all its rows with it."""

    namespace: str
    workflow_id: str


class AttemptLeased(Effect, frozen=True):
    """To be counted: an attempt has been leased, or a part of it that a node does."""

    name: str  # of the task, or of the queue of system work
    waited_ms: int


class AttemptEnded(Effect, frozen=True):
    """To be counted: an attempt has ended."""

    name: str  # of the task, or the type of what no worker does
    status: TaskStatus
    error_code: str
    ran_ms: int  # since its start; -1 if it has not started


class AttemptRetried(Effect, frozen=True):
    """To be counted: another attempt follows by itself."""

    name: str


AnyEffect = (
    Deliver | Cancel | LeaseEnded | SessionEnded | TaskQueued | QueueOpened | ExecutionChanged | ExecutionDeleted
    | AttemptLeased | AttemptEnded | AttemptRetried
)
