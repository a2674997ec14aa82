"""Indexes over the rows of schedules and event handlers: derived from rows alone, corrected with each write."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Any

from orchestrator.engine.model import RowKey, Table
from orchestrator.engine.triggers.awaited import Awaited
from orchestrator.engine.triggers.event_documents import validate_handler
from orchestrator.engine.triggers.owed import Owed
from orchestrator.engine.triggers.rows import EventHandlerRow, EventRow, EventSeen, ScheduledExecution, ScheduleRow


def armed_until(row: ScheduleRow) -> int:
    """After which time more are to be computed."""
    return row.due[-1][0] if row.due else row.covered_ms


def wants_times(row: ScheduleRow) -> bool:
    """Whether the leader owes the schedule some of its times."""
    if row.paused or row.exhausted:
        return False
    return len(row.due) < row.refill_below if row.due else not row.timer


class Triggers:
    """What the leader's services and the publishing of events look up."""

    def __init__(self, rows: Mapping[Table, Mapping[RowKey, Any]]) -> None:
        self._seen = rows[Table.EVENT_SEEN]
        self.awaited = Awaited(rows[Table.AWAITING], rows[Table.KEPT_EVENT])
        self.wanting: dict[tuple[str, str], None] = {}  # schedules that are owed times
        self.undecided: dict[int, None] = {}  # events with conditions to be evaluated
        self.event_bytes = 0
        self.owed = Owed()
        self._watched: dict[tuple[str, str], dict[str, int]] = {}  # schedule -> workflow id -> number of its run
        self._handlers: dict[tuple[str, str], dict[str, None]] = {}
        self._oldest: list[tuple[int, RowKey]] = []

    def handlers_of(self, namespace: str, event: str) -> list[str]:
        """The names of the handlers that are active, sorted."""
        return sorted(self._handlers.get((namespace, event), ()))

    def oldest_seen(self) -> EventSeen | None:
        while self._oldest:
            seen_ms, key = self._oldest[0]
            row: EventSeen | None = self._seen.get(key)
            if row is not None and row.seen_ms == seen_ms:
                return row
            heappop(self._oldest)
        return None

    def schedule_changed(self, old: ScheduleRow | None, new: ScheduleRow | None) -> None:
        row = new or old
        assert row is not None
        if new is not None and wants_times(new):
            self.wanting[row.namespace, row.name] = None
        else:
            self.wanting.pop((row.namespace, row.name), None)

    def scheduled_changed(self, old: ScheduledExecution | None, new: ScheduledExecution | None) -> None:
        if old is not None:
            key = (old.namespace, old.schedule)
            watched = self._watched[key]
            watched.pop(old.workflow_id, None)
            if not watched:
                del self._watched[key]
        if new is not None:
            self._watched.setdefault((new.namespace, new.schedule), {})[new.workflow_id] = new.number

    def watched_by(self, namespace: str, schedule: str) -> list[str]:
        """The executions whose end the schedule waits for, those of newer runs first."""
        watched = self._watched.get((namespace, schedule), {})
        return sorted(watched, key=lambda workflow_id: (watched[workflow_id], workflow_id), reverse=True)

    def handler_changed(self, old: EventHandlerRow | None, new: EventHandlerRow | None) -> None:
        if old is not None:
            key = (old.namespace, validate_handler(old.document).event)
            names = self._handlers.get(key, {})
            names.pop(old.name, None)
            if not names:
                self._handlers.pop(key, None)
        if new is not None:
            parsed = validate_handler(new.document)
            if parsed.active:
                self._handlers.setdefault((new.namespace, parsed.event), {})[new.name] = None

    def event_changed(self, old: EventRow | None, new: EventRow | None) -> None:
        self.event_bytes += (0 if new is None else len(new.payload)) - (0 if old is None else len(old.payload))
        row = new or old
        assert row is not None
        if new is not None and new.undecided:
            self.undecided[row.number] = None
        else:
            self.undecided.pop(row.number, None)

    def seen_changed(self, old: EventSeen | None, new: EventSeen | None) -> None:
        if new is not None:
            heappush(self._oldest, (new.seen_ms, (new.namespace, new.event, new.message_id)))
