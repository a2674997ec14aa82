"""Rows on their way to the database.

A batch is what changed up to one index. The overlay keeps the rows of executions visible from the moment they are
staged until their transaction is committed, so that a reader never misses a row that waits in the queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.codec.rows import encode_row
from orchestrator.engine.model import EXECUTION_TABLES, ExecutionKey, Row, RowKey, Table

Change = tuple[Table, RowKey, Row | None, bool]
"""The row as it is now, None if it is gone; and whether there was one before, as far as its maker knows.

Rows are values that nobody changes, so they can be encoded later, in another thread.
"""

# What a row takes that has at most a few payloads within itself.
_ROW_BYTES = 700
_SMALL = frozenset((Table.META, Table.EXECUTION, Table.TASK, Table.LEASE, Table.READY, Table.TIMER))
_LAST_EXECUTION_TABLE = max(EXECUTION_TABLES)
_FIRST_EXECUTION_TABLE = min(EXECUTION_TABLES)


@dataclass(slots=True)
class Batch:
    index: int
    term: int
    configuration: bytes
    chain_hash: bytes
    checkpoint: bool  # the content hash at exactly this index is wanted
    changes: list[Change]
    bytes: int  # about
    _of: dict[ExecutionKey, list[Change]] | None = field(default=None, repr=False)

    def of(self, execution: ExecutionKey) -> list[Change] | None:
        """Its changes of an execution's rows; None if it has none."""
        if self._of is None:
            # Only now: most batches are written before anybody asks.
            self._of = {}
            for change in self.changes:
                if is_execution_row(change[0]):
                    self._of.setdefault(execution_of(change[1]), []).append(change)
        return self._of.get(execution)

    def executions_there(self) -> list[ExecutionKey]:
        """Those whose headers changed and are not gone."""
        changes = self.changes
        return [execution_of(key) for table, key, row, _ in changes if table is Table.EXECUTION and row is not None]


def make_batch(
    changes: Iterable[Change], index: int, term: int, configuration: bytes, chain_hash: bytes, *, checkpoint: bool
) -> Batch:
    taken = list(changes)
    size = _ROW_BYTES * len(taken)
    for table, _, row, _ in taken:
        if table not in _SMALL and row is not None:
            # Those that may be large: few, so that it does no harm to encode them once more when they are written.
            size += len(encode_row(row))
    return Batch(index, term, configuration, chain_hash, checkpoint, taken, size)


def is_execution_row(table: Table) -> bool:
    return _FIRST_EXECUTION_TABLE <= table <= _LAST_EXECUTION_TABLE


def execution_of(key: RowKey) -> ExecutionKey:
    """The execution that a key of an execution's table begins with."""
    return key[:2]  # type: ignore[return-value]  # whose columns the tables' keys are, no type says


class Overlay:
    """Rows of executions that are staged and not yet committed. Used in the loop only."""

    def __init__(self) -> None:
        self._waiting: list[Batch] = []

    def add(self, batch: Batch) -> None:
        self._waiting.append(batch)

    def retire(self, batch: Batch) -> None:
        """The batch is committed; batches are retired in the order in which they were added."""
        while self._waiting and self._waiting[0].index <= batch.index:
            del self._waiting[0]

    def clear(self) -> None:
        self._waiting.clear()

    def executions(self) -> set[ExecutionKey]:
        """Of whose rows something is staged."""
        changes = (change for batch in self._waiting for change in batch.changes)
        return {execution_of(key) for table, key, _, _ in changes if is_execution_row(table)}

    def capture(self, execution: ExecutionKey) -> list[tuple[int, list[Change]]]:
        """What is staged for an execution now, oldest first, with the indexes."""
        found = ((batch.index, batch.of(execution)) for batch in self._waiting)
        return [(index, changes) for index, changes in found if changes is not None]
