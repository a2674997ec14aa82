"""Where the time of an execution went."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from google.protobuf.timestamp_pb2 import Timestamp

from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_client.execution import TaskStatus


class TimeKind(StrEnum):
    """What time is spent with. Where several things are going on at a time, it counts as the first of these."""

    WORKER = "worker"  # executes a task, from its lease until its result is in the log
    NODE = "node"  # does: a call, a script, a check of a schema
    QUEUE = "queue"  # an attempt waits for a worker or a node
    DELAY = "delay"  # before a first attempt, or between two
    SUB_WORKFLOW = "sub-workflow"
    SIGNAL = "signal"  # a WAIT for one, for an event, or for a message
    PERSON = "person"  # a HUMAN
    TIMER = "timer"  # a WAIT for its time
    OTHER = "other"  # the log and its steps; also a pause, or a place under a rate limit


_KINDS = {pb.TimeKind.Value(f"TIME_KIND_{kind.name}"): kind for kind in TimeKind}


@dataclass(frozen=True)
class AttemptTiming:
    """One attempt. `leased` is None if nobody has had it and nothing began, `ended` while it is open."""

    reference: str
    name: str
    type: str
    task_id: str
    # 1 for the first; one whose worker was lost has the number of the one before.
    attempt: int
    status: TaskStatus
    worker_id: str
    scheduled: datetime
    leased: datetime | None
    # When its end was in the log.
    ended: datetime | None
    # What it was busy with, in this order.
    spent: dict[TimeKind, timedelta]
    # The step that it undoes; "" if it undoes none.
    undoes: str


@dataclass(frozen=True)
class WorkflowTiming:
    """Of one execution. The shares add up to what has passed between `began` and `until`."""

    began: datetime
    until: datetime
    shares: dict[TimeKind, timedelta]
    attempts: list[AttemptTiming]
    # How many attempts, of very many, are not listed: those that took the least time.
    left_out: int


def read_timing(message: pb.GetWorkflowTimingResponse) -> WorkflowTiming:
    return WorkflowTiming(
        began=message.began.ToDatetime(UTC),
        until=message.until.ToDatetime(UTC),
        shares=_spent(message.shares),
        attempts=[_attempt(one) for one in message.attempts],
        left_out=message.left_out,
    )


def _attempt(one: pb.AttemptTiming) -> AttemptTiming:
    return AttemptTiming(
        one.reference, one.name, one.type, one.task_id, one.attempt,
        TaskStatus[pb.TaskStatus.Name(one.status).removeprefix("TASK_STATUS_")], one.worker_id,
        one.scheduled.ToDatetime(UTC),
        _moment(one.leased, is_set=one.HasField("leased")),
        _moment(one.ended, is_set=one.HasField("ended")),
        _spent(one.spent),
        one.undoes,
    )


def _moment(value: Timestamp, *, is_set: bool) -> datetime | None:
    return value.ToDatetime(UTC) if is_set else None


def _spent(shares: Iterable[pb.TimeShare]) -> dict[TimeKind, timedelta]:
    # What a newer server knows and this client does not is something else.
    spent: dict[TimeKind, timedelta] = {}
    for share in shares:
        kind = _KINDS.get(share.kind, TimeKind.OTHER)
        spent[kind] = spent.get(kind, timedelta()) + timedelta(milliseconds=share.milliseconds)
    return spent
