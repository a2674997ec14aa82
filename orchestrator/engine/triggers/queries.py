"""Read-only views of schedules and events, in the order in which they are listed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, cast

from orchestrator.engine import limits
from orchestrator.engine.announcing import WORKFLOW_SOURCE
from orchestrator.engine.model import Execution, Table
from orchestrator.engine.state import State
from orchestrator.engine.triggers.event_documents import ActionKind
from orchestrator.engine.triggers.rows import (
    EventHandlerRow,
    EventRow,
    EventRun,
    ScheduleRow,
    ScheduleRun,
    StreamRow,
    TrailEntry,
    TrailKind,
)

_LAST: Final = 10**19


def schedules(state: State, namespace: str) -> list[ScheduleRow]:
    """By name."""
    rows = cast(dict[tuple[str, str], ScheduleRow], state.resident[Table.SCHEDULE])
    return [row for key, row in sorted(rows.items()) if key[0] == namespace]


def schedule_runs(state: State, row: ScheduleRow) -> list[ScheduleRun]:
    """Those that are kept, the newest first."""
    rows = cast(dict[tuple[str, str, int], ScheduleRun], state.resident[Table.SCHEDULE_RUN])
    mine = [(key, run) for key, run in rows.items() if key[:2] == (row.namespace, row.name)]
    return [run for _, run in sorted(mine, reverse=True)]


def event_handlers(state: State, namespace: str) -> list[EventHandlerRow]:
    """By name."""
    rows = cast(dict[tuple[str, str], EventHandlerRow], state.resident[Table.EVENT_HANDLER])
    return [row for key, row in sorted(rows.items()) if key[0] == namespace]


def event_runs(state: State, namespace: str) -> list[EventRun]:
    """Those that are kept, the newest first."""
    rows = cast(dict[tuple[int], EventRun], state.resident[Table.EVENT_RUN])
    return [run for _, run in sorted(rows.items(), reverse=True) if run.namespace == namespace]


def pending_events(state: State, namespace: str) -> list[EventRow]:
    """Those that are not done with, the oldest first."""
    rows = cast(dict[tuple[int], EventRow], state.resident[Table.EVENT])
    return [row for _, row in sorted(rows.items()) if row.namespace == namespace]


def streams(state: State) -> list[StreamRow]:
    """The streams outside whose entries are handled, of all namespaces, by namespace and event."""
    rows = cast(dict[tuple[str, str], StreamRow], state.resident[Table.STREAM])
    return [row for _, row in sorted(rows.items())]


def trail(state: State, namespace: str, correlation_id: str) -> list[TrailEntry]:
    """What is kept of it, the oldest first."""
    rows = cast(dict[tuple[int], TrailEntry], state.resident[Table.TRAIL])
    return [rows[number,] for number in state.triggers.trail.numbers_of(namespace, correlation_id)]


class TrailLine(NamedTuple):
    """What happened to an event, or the beginning or end of an execution."""

    key: str  # its place: lines are in the order of their keys
    time_ms: int
    entry: TrailEntry | None = None
    execution: Execution | None = None
    is_end: bool = False
    follows: int = 0  # the number of the entry that it was caused by, if there is one


def trail_lines(
    entries: Sequence[TrailEntry], executions: Iterable[Execution], *, after: str = "", most: int = limits.TRAIL_KEPT
) -> list[TrailLine]:
    """Both together, at most so many behind the key. At the same millisecond an execution begins behind what has
    started it, and ends before it tells so.

    `entries`: all there are, the oldest first, which may be many: lines are made of those alone that are asked for.
    """
    told: dict[tuple[TrailKind, str, str], int] = {}
    starts: dict[str, int] = {}
    ends: dict[tuple[str, int], int] = {}
    for each in entries:
        if each.kind is TrailKind.DONE:
            if each.action == ActionKind.START_WORKFLOW and not each.failed:
                starts.setdefault(each.workflow_id, each.number)
            continue
        if each.event_id:
            told[each.kind, each.event, each.event_id] = each.number
        if each.source == WORKFLOW_SOURCE and each.kind is TrailKind.OUT:
            ends.setdefault((each.workflow_id, each.time_ms), each.number)
    # Log time does not go back: they are in the order of their keys.
    first = bisect_right(entries, after, key=_key_of)
    lines = [
        TrailLine(_key_of(each), each.time_ms, each, follows=_cause(each, told))
        for each in entries[first : first + most]
    ]
    for x in executions:
        start = starts.get(x.workflow_id, 0)
        key = _key(x.created_ms, start, 2, x.workflow_id)
        lines.append(TrailLine(key, x.created_ms, execution=x, follows=start))
        if x.ended_ms:
            key = _key(x.ended_ms, ends.get((x.workflow_id, x.ended_ms), _LAST), 0, x.workflow_id)
            lines.append(TrailLine(key, x.ended_ms, execution=x, is_end=True))
    return sorted((line for line in lines if line.key > after), key=lambda line: line.key)[:most]


def _cause(entry: TrailEntry, told: dict[tuple[TrailKind, str, str], int]) -> int:
    """What comes by a stream may be what a workflow has published to it."""
    if entry.follows or entry.kind is TrailKind.OUT:
        return entry.follows
    out = told.get((TrailKind.OUT, entry.event, entry.event_id), 0)
    return out if entry.kind is TrailKind.IN else told.get((TrailKind.IN, entry.event, entry.event_id), out)


def _key_of(entry: TrailEntry) -> str:
    return _key(entry.time_ms, entry.number, 1)


def _key(time_ms: int, number: int, beside: int, workflow_id: str = "") -> str:
    return f"{time_ms:016}.{number:020}.{beside}.{workflow_id}"
