"""Indexes over the rows of schedules and event handlers: derived from rows alone, corrected with each write."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Any

from orchestrator.engine.definitions.sinks import is_stream
from orchestrator.engine.model import RowKey, Table
from orchestrator.engine.triggers.awaited import Awaited
from orchestrator.engine.triggers.event_documents import validate_handler
from orchestrator.engine.triggers.owed import Owed
from orchestrator.engine.triggers.rows import (
    EventHandlerRow,
    EventRow,
    EventSeen,
    ScheduledExecution,
    ScheduleRow,
    StreamRow,
    TrailEntry,
)


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
        self.streams: dict[tuple[str, str], None] = {}  # (namespace, event) of what is to be read
        self._watched: dict[tuple[str, str], dict[str, int]] = {}  # schedule -> workflow id -> number of its run
        self._handlers: dict[tuple[str, str], dict[str, None]] = {}
        # Handlers of events that are called like a stream, also those that are not active; and streams that have a row.
        self._of_streams: dict[tuple[str, str], dict[str, None]] = {}
        self._followed: dict[tuple[str, str], None] = {}
        self._oldest: list[tuple[int, RowKey]] = []
        self.trail = TrailIndex()

    def handlers_of(self, namespace: str, event: str) -> list[str]:
        """The names of the handlers that are active, sorted."""
        return sorted(self._handlers.get((namespace, event), ()))

    def has_handlers(self, namespace: str, event: str) -> bool:
        """Of an event that is called like a stream: whether it has any, active or not."""
        return (namespace, event) in self._of_streams

    def handled_streams(self) -> list[tuple[str, str]]:
        """(namespace, event) of all handlers of events that are called like a stream, active or not, sorted."""
        return sorted(self._of_streams)

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
            _remove(self._handlers, key, old.name)
            _remove(self._of_streams, key, old.name)
            self._find_stream(key)
        if new is not None:
            parsed = validate_handler(new.document)
            key = (new.namespace, parsed.event)
            if parsed.active:
                self._handlers.setdefault(key, {})[new.name] = None
            if is_stream(parsed.event):
                self._of_streams.setdefault(key, {})[new.name] = None
            self._find_stream(key)

    def stream_changed(self, old: StreamRow | None, new: StreamRow | None) -> None:
        row = new or old
        assert row is not None
        key = (row.namespace, row.event)
        if new is None:
            self._followed.pop(key, None)
        else:
            self._followed[key] = None
        self._find_stream(key)

    def _find_stream(self, key: tuple[str, str]) -> None:
        if key in self._followed and key in self._handlers:
            self.streams[key] = None
        else:
            self.streams.pop(key, None)

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


def _remove(names_of: dict[tuple[str, str], dict[str, None]], key: tuple[str, str], name: str) -> None:
    names = names_of.get(key, {})
    names.pop(name, None)
    if not names:
        names_of.pop(key, None)


class TrailIndex:
    """Which entries there are under a correlation id."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], dict[int, None]] = {}

    def numbers_of(self, namespace: str, correlation_id: str) -> list[int]:
        """The oldest first."""
        return sorted(self._numbers.get((namespace, correlation_id), ()))

    def ids(self) -> list[tuple[str, str]]:
        """All (namespace, correlation id), sorted."""
        return sorted(self._numbers)

    def changed(self, old: TrailEntry | None, new: TrailEntry | None) -> None:
        if old is not None:
            key = (old.namespace, old.correlation_id)
            numbers = self._numbers[key]
            del numbers[old.number]
            if not numbers:
                del self._numbers[key]
        if new is not None:
            self._numbers.setdefault((new.namespace, new.correlation_id), {})[new.number] = None
