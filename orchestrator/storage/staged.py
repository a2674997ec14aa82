"""Rows on their way to the database.

A batch is what changed up to one index. The overlay keeps the rows of executions visible from the moment they are
staged until their transaction is committed, so that a reader never misses a row that waits in the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.codec.rows import encode_row
from orchestrator.engine.model import EXECUTION_TABLES, ExecutionKey, Row, RowKey, Table

Change = tuple[Table, RowKey, Row | None]

_ROW_OVERHEAD_BYTES = 200
_LAST_EXECUTION_TABLE = max(EXECUTION_TABLES)
_FIRST_EXECUTION_TABLE = min(EXECUTION_TABLES)


class StagedRow(NamedTuple):
    table: Table
    key: RowKey
    row: Row | None
    data: bytes  # b"" for a row that is deleted


@dataclass(frozen=True, slots=True)
class Batch:
    index: int
    term: int
    configuration: bytes
    chain_hash: bytes
    checkpoint: bool  # the content hash at exactly this index is wanted
    rows: list[StagedRow]
    bytes: int


def encode_batch(
    changes: Iterable[Change], index: int, term: int, configuration: bytes, chain_hash: bytes, *, checkpoint: bool
) -> Batch:
    rows: list[StagedRow] = []
    size = 0
    for table, key, row in changes:
        data = b"" if row is None else encode_row(row)
        size += len(data) + _ROW_OVERHEAD_BYTES
        rows.append(StagedRow(table, key, row, data))
    return Batch(index, term, configuration, chain_hash, checkpoint, rows, size)


def is_execution_row(table: Table) -> bool:
    return _FIRST_EXECUTION_TABLE <= table <= _LAST_EXECUTION_TABLE


def execution_of(key: RowKey) -> ExecutionKey:
    """The execution that a key of an execution's table begins with."""
    return key[:2]  # type: ignore[return-value]  # whose columns the tables' keys are, no type says


class Overlay:
    """Rows of executions that are staged and not yet committed. Used in the loop only."""

    def __init__(self) -> None:
        self._waiting: dict[ExecutionKey, deque[tuple[int, list[StagedRow]]]] = {}

    def add(self, batch: Batch) -> None:
        parts: dict[ExecutionKey, list[StagedRow]] = {}
        for staged in batch.rows:
            if is_execution_row(staged.table):
                parts.setdefault(execution_of(staged.key), []).append(staged)
        for execution, rows in parts.items():
            self._waiting.setdefault(execution, deque()).append((batch.index, rows))

    def retire(self, batch: Batch) -> None:
        """The batch is committed; batches are retired in the order in which they were added."""
        executions = [execution_of(staged.key) for staged in batch.rows if is_execution_row(staged.table)]
        for execution in dict.fromkeys(executions):
            parts = self._waiting.get(execution)
            while parts and parts[0][0] <= batch.index:
                parts.popleft()
            if parts is not None and not parts:
                del self._waiting[execution]

    def clear(self) -> None:
        self._waiting.clear()

    def capture(self, execution: ExecutionKey) -> list[tuple[int, list[StagedRow]]]:
        """What is staged for an execution now, oldest first, with the indexes."""
        parts = self._waiting.get(execution)
        return list(parts) if parts else []
