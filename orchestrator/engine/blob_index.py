"""What is found quickly among the rows of values outside the log, and what there is of them, for metrics."""

from __future__ import annotations

from orchestrator.engine.blob_rows import BlobRow, BlobState


class Blobs:
    """Corrected with each row; answers by rows alone."""

    __slots__ = ("_doomed", "_numbers", "_unused", "bytes", "live")

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int] = {}  # (store, sha256) -> number
        self._unused: dict[int, None] = {}  # LIVE, and no execution refers to them
        self._doomed: dict[int, None] = {}
        self.live = 0
        self.bytes = 0  # of those that are LIVE

    def number_of(self, store: str, sha256: str) -> int:
        """0 if there is no row of it."""
        return self._numbers.get((store, sha256), 0)

    @property
    def unused(self) -> int:
        """How many are LIVE, and no execution refers to them."""
        return len(self._unused)

    def unused_numbers(self) -> list[int]:
        return sorted(self._unused)

    def doomed_numbers(self) -> list[int]:
        """Those that are DELETING."""
        return sorted(self._doomed)

    def changed(self, old: BlobRow | None, new: BlobRow | None) -> None:
        if old is not None:
            self._numbers.pop((old.store, old.sha256), None)
            self._count(old, -1)
            self._unused.pop(old.number, None)
            self._doomed.pop(old.number, None)
        if new is not None:
            self._numbers[new.store, new.sha256] = new.number
            self._count(new, 1)
            if new.state is not BlobState.LIVE:
                self._doomed[new.number] = None
            elif not new.uses:
                self._unused[new.number] = None

    def _count(self, row: BlobRow, by: int) -> None:
        if row.state is BlobState.LIVE:
            self.live += by
            self.bytes += by * row.size
