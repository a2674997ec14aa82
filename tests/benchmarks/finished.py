"""Finished workflows without executing them: copies of one that was, in the databases of nodes that are down.

Every database gets the same rows, through the same writer that a node uses, so columns, hashes and the content hash
are what they would be, and the nodes go on agreeing with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.engine.model import Execution, ExecutionKey, Row, RowKey, Table, TaskAttempt
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from orchestrator.storage import schema
from orchestrator.storage.reading import read_executions, read_residents
from orchestrator.storage.staged import Batch, Change
from orchestrator.storage.writing import Writer

COPIES_PER_TRANSACTION = 5_000
# Names are in no order, so that each copy changes pages everywhere in the indexes.
CACHE_BYTES = 256 << 20

_Rows = list[tuple[Table, RowKey, Any]]


def add_copies(
    databases: Sequence[Path], source: ExecutionKey, count: int, said: Callable[[int], None] = lambda done: None
) -> None:
    """`count` copies of the execution, called `<its id>-copy-1` and so on. Raises ValueError if they can't be made.

    `said` is told after each transaction how many there are.
    """
    connections = [schema.connect(str(path), None, cache_bytes=CACHE_BYTES) for path in databases]
    try:
        found = [read_executions(connection, [source]).executions[0] for connection in connections]
        rows = found[0]
        if not rows or rows[0][2].status not in WORKFLOW_TERMINAL:
            raise ValueError(f"{source} has not finished in {databases[0]}")
        if any(others != rows for others in found):
            raise ValueError(f"the databases differ about {source}")
        writers = [Writer(connection) for connection in connections]
        for writer, connection in zip(writers, connections, strict=True):
            _write(writer, [_bundle(connection, rows[0][2].bundle, count)])
        for first in range(1, count + 1, COPIES_PER_TRANSACTION):
            numbers = range(first, min(first + COPIES_PER_TRANSACTION, count + 1))
            copies = [staged for number in numbers for staged in _copy(rows, number)]
            for writer in writers:
                _write(writer, copies)
            said(numbers[-1])
    finally:
        for connection in connections:
            connection.close()


def _write(writer: Writer, rows: list[Change]) -> None:
    """At the index where the database stands: for the log nothing has happened."""
    at = writer.applied
    writer.commit([Batch(at.index, at.term, at.configuration, at.chain_hash, False, rows, 0)])


def _bundle(connection: Any, digest: bytes, more: int) -> Change:
    """The definition that the copies refer to, which counts them."""
    for table, key, row in read_residents(connection):
        if table is Table.BUNDLE and key == (digest,):
            return table, key, msgspec.structs.replace(row, executions=row.executions + more), True
    raise ValueError("the definition of the execution is missing")


def _copy(rows: _Rows, number: int) -> list[Change]:
    header = rows[0][2]
    assert isinstance(header, Execution)
    workflow_id = f"{header.workflow_id}-copy-{number}"
    copies: list[Change] = []
    for table, key, row in rows:
        copy: Row = row
        if isinstance(row, Execution):
            copy = msgspec.structs.replace(row, workflow_id=workflow_id)
        elif isinstance(row, TaskAttempt):
            copy = msgspec.structs.replace(
                row,
                task_id=_other_id(row.task_id, number),
                idempotency_key=_other_id(row.idempotency_key, number),
            )
        copies.append((table, (key[0], workflow_id, *key[2:]), copy, False))
    return copies


def _other_id(original: str, number: int) -> str:
    """Another text of the same length."""
    return blake2b(f"{original} {number}".encode()).hexdigest()[: len(original)]
