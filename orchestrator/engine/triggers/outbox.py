"""The outbox: events for streams outside, from the step in which they happened until they are known to be there.

It is part of the state, so whoever leads knows what is owed, and writes it, at least once and in order. Its rows are
removed by a command; between the writing and that command a leader may die, and what it has written is written again,
with the same id.
"""

from __future__ import annotations

from typing import cast

from orchestrator.engine import limits
from orchestrator.engine.announcing import Told
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.definitions.sinks import STREAM_PREFIX
from orchestrator.engine.model import Table
from orchestrator.engine.results import Code, Rejected
from orchestrator.engine.step import Step
from orchestrator.engine.triggers.rows import OwedEvent


def is_full(step: Step, more_bytes: int = 0, times: int = 1) -> bool:
    """Whether so many times its limits are reached. What the step itself has told counts as soon as it is finished."""
    owed = step.state.triggers.owed
    return owed.count >= times * limits.OUTBOX_EVENTS or owed.bytes + more_bytes > times * limits.OUTBOX_BYTES


def refusal(step: Step, more_bytes: int = 0, times: int = 1) -> Rejected | None:
    """Of whoever would add to it."""
    if not is_full(step, more_bytes, times):
        return None
    owed = step.state.triggers.owed
    message = (
        f"{owed.count} events of {owed.bytes} bytes wait to be written to streams; the limits are"
        f" {times * limits.OUTBOX_EVENTS} and {times * limits.OUTBOX_BYTES} bytes"
    )
    return Rejected(Code.RESOURCE_EXHAUSTED, "OUTBOX_FULL", message, (("limit", "outbox"),))


def owe_told(step: Step, told: Told, event_id: str) -> None:
    """An event of the step's execution, which has happened: nobody refuses it."""
    x = step.x
    owe(
        step,
        namespace=x.namespace,
        stream=told.event.removeprefix(STREAM_PREFIX),
        event_id=event_id,
        event=told.name,
        payload=told.about if is_full(step, len(told.payload), times=2) else told.payload,
        source=told.source,
        workflow=x.name,
        workflow_id=x.workflow_id,
        correlation_id=x.correlation_id,
        trace=x.trace,
    )


def owe(
    step: Step,
    *,
    namespace: str,
    stream: str,
    event_id: str,
    event: str,
    payload: bytes,
    source: str,
    workflow: str = "",
    workflow_id: str = "",
    correlation_id: str = "",
    trace: str = "",
    reason: str = "",
) -> None:
    """Adds an event. Only from behaviour level 2 on."""
    assert step.level >= STREAMS
    meta = step.meta
    number = meta.next_owed
    meta.next_owed = number + 1
    row = OwedEvent(
        number,
        namespace,
        stream,
        event_id,
        event,
        payload,
        step.now,
        source,
        workflow,
        workflow_id,
        correlation_id,
        trace,
        reason[: limits.REASON_CHARS],
    )
    step.write(Table.OUTBOX, (number,), row)


def acknowledge(step: Step, number: int) -> None:
    """It is in its stream. One that is not owed any more was acknowledged before."""
    if cast(OwedEvent | None, step.state.resident[Table.OUTBOX].get((number,))) is not None:
        step.write(Table.OUTBOX, (number,), None)
