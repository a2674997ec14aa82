"""Read-only views of schedules and events, in the order in which they are listed."""

from __future__ import annotations

from typing import cast

from orchestrator.engine.model import Table
from orchestrator.engine.state import State
from orchestrator.engine.triggers.rows import EventHandlerRow, EventRow, EventRun, ScheduleRow, ScheduleRun


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
