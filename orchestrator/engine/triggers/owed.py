"""What of the outbox is owed to which stream: derived from its rows alone, corrected with each write."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from orchestrator.engine.triggers.rows import OwedEvent


class Owed:
    """Every event of the outbox, by stream and in the order in which they happened."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0  # of their payloads
        self._streams: dict[str, dict[int, OwedEvent]] = {}
        self._tallies: dict[tuple[str, str], tuple[int, int]] = {}  # (namespace, stream) -> events, their bytes

    def streams(self) -> list[str]:
        """Those to which something is owed, sorted."""
        return sorted(self._streams)

    def of(self, stream: str, most: int) -> list[OwedEvent]:
        """The first ones."""
        return list(islice(self._in_order(stream), most))

    def oldest(self, stream: str) -> OwedEvent | None:
        return next(self._in_order(stream), None)

    def count_of(self, stream: str) -> int:
        return len(self._streams.get(stream, ()))

    def streams_of(self, namespace: str) -> list[str]:
        """Those to which something of the namespace is owed, sorted."""
        return sorted(stream for owner, stream in self._tallies if owner == namespace)

    def tally_of(self, namespace: str, stream: str) -> tuple[int, int]:
        """(how many events, the bytes of their payloads)"""
        return self._tallies.get((namespace, stream), (0, 0))

    def changed(self, old: OwedEvent | None, new: OwedEvent | None) -> None:
        if old is not None:
            self.count -= 1
            self.bytes -= len(old.payload)
            numbers = self._streams[old.stream]
            del numbers[old.number]
            if not numbers:
                del self._streams[old.stream]
            self._count(old, -1)
        if new is not None:
            self.count += 1
            self.bytes += len(new.payload)
            self._add(new)
            self._count(new, 1)

    def _count(self, row: OwedEvent, more: int) -> None:
        key = (row.namespace, row.stream)
        events, size = self._tallies.get(key, (0, 0))
        if events + more:
            self._tallies[key] = (events + more, size + more * len(row.payload))
        else:
            del self._tallies[key]

    def _in_order(self, stream: str) -> Iterator[OwedEvent]:
        return iter(self._streams.get(stream, {}).values())

    def _add(self, row: OwedEvent) -> None:
        numbers = self._streams.setdefault(row.stream, {})
        last = next(reversed(numbers), 0)
        numbers[row.number] = row
        if row.number < last:
            # Put back, or restored in another order; both are rare.
            self._streams[row.stream] = dict(sorted(numbers.items()))
