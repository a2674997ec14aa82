"""Where the time of an execution went, from its rows: nothing is kept for it.

An attempt is scheduled, waits for its delay, then in its queue, is leased, and ends when its result is in the log.
Times are those of the log: what a result needs on its way counts as the worker's. The time of the execution is divided
without remainder: each moment counts as the first of `KINDS` that any attempt is busy with then, and as OTHER when none
is.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from enum import IntEnum
from typing import Final

import msgspec

from orchestrator.engine import places
from orchestrator.engine.attempts import backoff_ms
from orchestrator.engine.definitions.model import STRUCTURAL, TaskNode, TaskType
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import TaskAttempt, TimerKind
from orchestrator.engine.plan import plan_of
from orchestrator.engine.state import State
from orchestrator.engine.transitions import WORKFLOW_TERMINAL

ATTEMPTS_SHOWN: Final = 500


class TimeKind(IntEnum):
    """What time is spent with; what comes first counts where several are going on."""

    WORKER = 1  # a worker executes a task
    NODE = 2  # a node does: a call, a script, a check of a schema
    QUEUE = 3  # an attempt waits for a worker or node
    DELAY = 4  # before a first attempt, or between two
    SUB_WORKFLOW = 5
    SIGNAL = 6  # a WAIT for a signal, or a message
    PERSON = 7  # a HUMAN
    TIMER = 8  # a WAIT for its time
    OTHER = 9  # the log and its steps; also a pause, or a place under a rate limit


KINDS: Final = tuple(TimeKind)
_BY_NODES: Final = frozenset(
    (TaskType.HTTP, TaskType.GRPC, TaskType.INLINE, TaskType.JSON_JQ_TRANSFORM, TaskType.SWITCH)
)
_WAITS: Final[dict[str, TimeKind]] = {
    TaskType.WAIT: TimeKind.TIMER,
    TaskType.HUMAN: TimeKind.PERSON,
    TaskType.SUB_WORKFLOW: TimeKind.SUB_WORKFLOW,
    TaskType.PULL_WORKFLOW_MESSAGES: TimeKind.SIGNAL,
}

Span = tuple[TimeKind, int, int]
"""(kind, from, to): log time in milliseconds"""


class AttemptTiming(msgspec.Struct, frozen=True):
    """One attempt, and what it was busy with, in this order."""

    attempt: TaskAttempt
    spans: tuple[Span, ...]

    def spent_ms(self, *kinds: TimeKind) -> int:
        return sum(until - since for kind, since, until in self.spans if kind in kinds)


class Timing(msgspec.Struct, frozen=True):
    """Of one execution. The shares add up to what has passed between `began_ms` and `until_ms`."""

    began_ms: int
    until_ms: int
    shares: dict[TimeKind, int]
    attempts: list[AttemptTiming]  # in the order in which they were scheduled
    left_out: int  # attempts that took less time than these


def account(state: State, hot: ExecutionState, now_ms: int) -> Generator[int, None, Timing]:
    """Yields after each attempt."""
    header = hot.execution
    until_ms = header.ended_ms if header.status in WORKFLOW_TERMINAL else max(now_ms, header.updated_ms)
    sequences = sorted(hot.tasks)
    # Of a run that was begun anew nothing before it is there.
    began_ms = header.timeout_base_ms
    if sequences:
        began_ms = min(began_ms, hot.tasks[sequences[0]].scheduled_ms)
    plan = plan_of(state, header.bundle)
    found: list[AttemptTiming] = []
    for sequence in sequences:
        attempt = hot.tasks[sequence]
        found.append(AttemptTiming(attempt, _spans(state, places.node_of(plan, hot, attempt), attempt, until_ms)))
        yield 0
    shares = divide(began_ms, until_ms, [span for one in found for span in one.spans])
    yield 0
    shown = sorted(found, key=_length, reverse=True)[:ATTEMPTS_SHOWN]
    shown.sort(key=_sequence)
    return Timing(began_ms, until_ms, shares, shown, len(found) - len(shown))


def divide(began_ms: int, until_ms: int, spans: Iterable[Span]) -> dict[TimeKind, int]:
    """How much of the time counts as each kind; of those that nothing counts as, nothing is said."""
    changes: list[tuple[int, TimeKind, int]] = []
    for kind, since, until in spans:
        since, until = max(since, began_ms), min(until, until_ms)
        if since < until:
            changes.append((since, kind, 1))
            changes.append((until, kind, -1))
    changes.sort()
    going = dict.fromkeys(KINDS, 0)
    shares: dict[TimeKind, int] = {}
    now_ms = began_ms
    for at_ms, kind, change in [*changes, (until_ms, TimeKind.OTHER, 0)]:
        if at_ms > now_ms:
            busy = next((one for one in KINDS if going[one]), TimeKind.OTHER)
            shares[busy] = shares.get(busy, 0) + at_ms - now_ms
            now_ms = at_ms
        going[kind] += change
    return shares


def _spans(state: State, node: TaskNode, attempt: TaskAttempt, now_ms: int) -> tuple[Span, ...]:
    ended_ms = attempt.ended_ms or now_ms
    spans: tuple[Span, ...] = ()  # of what is open for as long as what is inside of it, or joined
    waits = _WAITS.get(attempt.type)
    if waits is not None:
        if attempt.signal and waits is TimeKind.TIMER:
            waits = TimeKind.SIGNAL
        begun_ms = attempt.started_ms or ended_ms
        spans = ((TimeKind.DELAY, attempt.scheduled_ms, begun_ms), (waits, begun_ms, ended_ms))
    elif node.type not in STRUCTURAL or node.type == TaskType.SWITCH:
        leased_ms = min(attempt.started_ms or ended_ms, ended_ms)
        ready_ms = min(_ready_ms(state, node, attempt), leased_ms)
        kind = TimeKind.NODE if node.type in _BY_NODES else TimeKind.WORKER
        spans = (
            (TimeKind.DELAY, attempt.scheduled_ms, ready_ms),
            (TimeKind.QUEUE, ready_ms, leased_ms),
            (kind, leased_ms, ended_ms),
        )
    return tuple(span for span in spans if span[1] < span[2])


def _ready_ms(state: State, node: TaskNode, attempt: TaskAttempt) -> int:
    """When its delay was over; what its jitter has added counts as its queue's."""
    ready = state.ready.get((attempt.ready,))
    if ready is not None:
        return ready.queued_ms
    for number in attempt.timers:
        timer = state.timers.get((number,))
        if timer is not None and timer.kind is TimerKind.TASK_READY:
            return timer.fire_ms
    if attempt.losses:
        return attempt.scheduled_ms
    delay_ms = backoff_ms(node.retry, attempt.retry_count - 1) if attempt.retry_count else node.start_delay_ms
    return attempt.scheduled_ms + delay_ms


def _length(one: AttemptTiming) -> int:
    return sum(until - since for _, since, until in one.spans)


def _sequence(one: AttemptTiming) -> int:
    return one.attempt.sequence
