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

    def changed(self, old: OwedEvent | None, new: OwedEvent | None) -> None:
        if old is not None:
            self.count -= 1
            self.bytes -= len(old.payload)
            numbers = self._streams[old.stream]
            del numbers[old.number]
            if not numbers:
                del self._streams[old.stream]
        if new is not None:
            self.count += 1
            self.bytes += len(new.payload)
            self._add(new)

    def _in_order(self, stream: str) -> Iterator[OwedEvent]:
        return iter(self._streams.get(stream, {}).values())

    def _add(self, row: OwedEvent) -> None:
        numbers = self._streams.setdefault(row.stream, {})
        last = next(reversed(numbers), 0)
        numbers[row.number] = row
        if row.number < last:
            # Put back, or restored in another order; both are rare.
            self._streams[row.stream] = dict(sorted(numbers.items()))
