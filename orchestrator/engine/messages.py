"""Messages to executions: how one execution, a timer or a session reaches another execution.

A step touches one execution. What it owes to others it puts into the replicated inbox, and a later step takes it up,
in order. Fields are encoded by position, the tag first.
"""

from __future__ import annotations

from orchestrator.engine.model import Row, TimerKind


class Message(Row, frozen=True):
    """Base of all messages. Each names the execution whose step takes it up."""

    namespace: str
    workflow_id: str


class TaskLeased(Message, frozen=True, tag=1):
    """Matching has leased the attempt: it is in progress now."""

    task_sequence: int
    token: int


class TimerFired(Message, frozen=True, tag=2):
    kind: TimerKind
    task_sequence: int
    timer: int


class WorkerLost(Message, frozen=True, tag=3):
    """The session of the attempt's worker has ended."""

    task_sequence: int
    token: int


class DeadlinePassed(Message, frozen=True, tag=4):
    """The response or poll deadline of the attempt has passed (kind: see commands.DeadlineKind)."""

    kind: int
    task_sequence: int
    number: int


class ContinueExecution(Message, frozen=True, tag=5):
    """The step before had more to do than one step may."""


AnyMessage = TaskLeased | TimerFired | WorkerLost | DeadlinePassed | ContinueExecution
