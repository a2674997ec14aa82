"""Indexes over who waits for which event, and which events wait for somebody: derived from rows alone."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from typing import Any

from orchestrator.engine.model import RowKey
from orchestrator.engine.triggers.rows import AwaitingTask, KeptEvent

Subject = tuple[str, str, str]
"""(namespace, event, correlation key)"""


class _Lines:
    """The numbers of the rows of each subject, ascending."""

    def __init__(self) -> None:
        self._lines: dict[Subject, list[int]] = {}
        self._subjects: dict[int, Subject] = {}

    def add(self, row: AwaitingTask | KeptEvent) -> None:
        subject = (row.namespace, row.event, row.key)
        self._subjects[row.number] = subject
        insort(self._lines.setdefault(subject, []), row.number)

    def remove(self, row: AwaitingTask | KeptEvent) -> None:
        subject = self._subjects.pop(row.number)
        line = self._lines[subject]
        del line[bisect_left(line, row.number)]
        if not line:
            del self._lines[subject]

    def of(self, subject: Subject) -> list[int]:
        return self._lines.get(subject, [])

    def key_of(self, number: int) -> RowKey | None:
        subject = self._subjects.get(number)
        return None if subject is None else (*subject, number)


class Awaited:
    """Who is the next to get an event, and which event is the next to be got."""

    def __init__(self, awaiting: Mapping[RowKey, Any], kept: Mapping[RowKey, Any]) -> None:
        self._awaiting = awaiting
        self._kept = kept
        self._waiters = _Lines()
        self._events = _Lines()
        self._by_age: list[int] = []  # numbers of all events that are kept, ascending
        self.kept_bytes = 0

    def waiter(self, subject: Subject) -> AwaitingTask | None:
        """The task that waits for the longest time."""
        line = self._waiters.of(subject)
        found: AwaitingTask | None = self._awaiting[(*subject, line[0])] if line else None
        return found

    def waiter_numbered(self, number: int) -> AwaitingTask | None:
        key = self._waiters.key_of(number)
        return None if key is None else self._awaiting[key]

    def event(self, subject: Subject, since_ms: int) -> KeptEvent | None:
        """The event that is kept for the longest time, of those that came after `since_ms`."""
        line = self._events.of(subject)
        # Numbers are given out as time goes by.
        at = bisect_right(line, since_ms, key=lambda number: self._kept[(*subject, number)].since_ms)
        found: KeptEvent | None = self._kept[(*subject, line[at])] if at < len(line) else None
        return found

    def oldest_event(self) -> KeptEvent | None:
        """Of all."""
        if not self._by_age:
            return None
        key = self._events.key_of(self._by_age[0])
        assert key is not None
        found: KeptEvent = self._kept[key]
        return found

    def waiter_changed(self, old: AwaitingTask | None, new: AwaitingTask | None) -> None:
        if old is not None:
            self._waiters.remove(old)
        if new is not None:
            self._waiters.add(new)

    def kept_changed(self, old: KeptEvent | None, new: KeptEvent | None) -> None:
        if old is not None:
            self._events.remove(old)
            del self._by_age[bisect_left(self._by_age, old.number)]
            self.kept_bytes -= len(old.payload)
        if new is not None:
            self._events.add(new)
            insort(self._by_age, new.number)
            self.kept_bytes += len(new.payload)
