"""One transaction: the rows of some batches, where in the log that is, and the content hash that follows.

Statements take many rows each: SQLite then runs them without coming back for the interpreter lock, which a busy loop
would make it wait for.
"""

# ruff: noqa: S608 - names of tables and columns are this package's constants; values are bound

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import apsw

from orchestrator.codec.rows import HASH_BYTES, HASH_MODULUS, encode_key, row_hash
from orchestrator.engine.model import Execution, ExecutionKey, Row, RowKey, Table, TaskAttempt
from orchestrator.storage.errors import InconsistentChanges
from orchestrator.storage.schema import (
    CHILD_TABLES,
    EXECUTION_ID_MAX,
    NUMBER_BITS,
    NUMBER_MAX,
    Applied,
    applied_meta,
    corruption_named,
    read_applied,
    write_meta,
)
from orchestrator.storage.staged import Batch, StagedRow, execution_of, is_execution_row

T = TypeVar("T")

# Few sizes, so that every statement is prepared once.
_CHUNKS = (256, 64, 16, 4, 2, 1)
_EXECUTION_COLUMNS = (
    "id, namespace, workflow_id, name, correlation_id, started_ms, status, ended_ms, updated_ms, compensation, "
    "priority, purge_ms, hash, body"
)
_EXECUTION_UPDATE = (
    " ON CONFLICT (id) DO UPDATE SET status = excluded.status, ended_ms = excluded.ended_ms, "
    "updated_ms = excluded.updated_ms, compensation = excluded.compensation, purge_ms = excluded.purge_ms, "
    "hash = excluded.hash, body = excluded.body"
)
_CHILD_COLUMNS = "id, hash, body"
_TASK_COLUMNS = "id, task_id, name, type, status, scheduled_ms, started_ms, ended_ms, updated_ms, hash, body"
_RESIDENT_UPDATE = " ON CONFLICT (table_number, key) DO UPDATE SET hash = excluded.hash, body = excluded.body"


class Committed(NamedTuple):
    applied: Applied
    rows: int


class _Found(NamedTuple):
    id: int
    hash: int
    fixed: tuple[str, str, int, int]  # the columns that an update leaves alone


class Writer:
    """The one connection that writes; every call is made in the lane that owns it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.applied = read_applied(connection)
        self._measure()
        self._next_id = (connection.execute("SELECT max(id) FROM execution").get or 0) + 1

    def commit(self, batches: Sequence[Batch]) -> Committed:
        """Commits all of them or, with an error, none; when it returns, they survive power loss."""
        last = batches[-1]
        merged: dict[tuple[Table, RowKey], StagedRow] = {}
        for batch in batches:
            for staged in batch.rows:
                merged[staged.table, staged.key] = staged
        next_id = self._next_id
        with corruption_named():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                added = self._write(merged.values())
                content = (self.applied.content_hash + added) % HASH_MODULUS
                applied = Applied(last.index, last.term, last.configuration, last.chain_hash, content)
                write_meta(self._connection, applied_meta(applied))
                self._connection.execute("COMMIT")
            except BaseException:
                self._next_id = next_id
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        self.applied = applied
        self._measure()
        return Committed(applied, len(merged))

    def _measure(self) -> None:
        page_bytes = self._connection.pragma("page_size")
        self.file_bytes: int = self._connection.pragma("page_count") * page_bytes
        self.free_bytes: int = self._connection.pragma("freelist_count") * page_bytes

    def _write(self, rows: Iterable[StagedRow]) -> int:
        """What it adds to the content hash."""
        executions: list[StagedRow] = []
        children: dict[Table, list[StagedRow]] = {table: [] for table in CHILD_TABLES}
        residents: list[StagedRow] = []
        named: dict[ExecutionKey, None] = {}
        for staged in rows:
            if not is_execution_row(staged.table):
                residents.append(staged)
                continue
            named[execution_of(staged.key)] = None
            (executions if staged.table is Table.EXECUTION else children[staged.table]).append(staged)
        found = self._find(list(named))
        added, ids, gone = self._write_executions(executions, found)
        for table, name in CHILD_TABLES.items():
            if children[table]:
                added += self._write_children(table, name, children[table], ids, set(gone.values()))
        self._check_childless(gone)
        return added + self._write_residents(residents)

    def _find(self, keys: list[ExecutionKey]) -> dict[ExecutionKey, _Found]:
        found: dict[ExecutionKey, _Found] = {}
        for chunk in _chunks(keys):
            marks = ",".join(["(?,?)"] * len(chunk))
            text = self._connection.execute(
                "SELECT json_group_array(json_array(id, namespace, workflow_id, hex(hash), name, correlation_id, "
                f"started_ms, priority)) FROM execution WHERE (namespace, workflow_id) IN (VALUES {marks})",
                _flat(chunk),
            ).get
            for id_, namespace, workflow_id, digest, *fixed in json.loads(text):
                found[namespace, workflow_id] = _Found(id_, int(digest, 16), tuple(fixed))
        return found

    def _write_executions(
        self, rows: list[StagedRow], found: dict[ExecutionKey, _Found]
    ) -> tuple[int, dict[ExecutionKey, int], dict[ExecutionKey, int]]:
        """What it adds to the content hash, the ids of all executions, and the ids of those that are gone."""
        added = 0
        ids = {key: item.id for key, item in found.items()}
        puts: list[tuple[Any, ...]] = []
        gone: dict[ExecutionKey, int] = {}
        replaced: list[int] = []
        for staged in rows:
            key = execution_of(staged.key)
            before = found.get(key)
            if before is not None:
                added -= before.hash
            row = staged.row
            if row is None:
                if before is not None:
                    gone[key] = before.id
                continue
            assert isinstance(row, Execution)
            fixed = (row.name, row.correlation_id, row.created_ms, row.priority)
            if before is None:
                ids[key] = self._new_id()
            elif before.fixed != fixed:
                # The workflow id was used again: rare, so that the usual update need not touch every index.
                replaced.append(before.id)
            digest = row_hash(Table.EXECUTION, staged.key, staged.data)
            added += digest
            puts.append((
                ids[key], *key, row.name, row.correlation_id, row.created_ms, _status(row), _ended_ms(row),
                row.updated_ms, int(row.compensation), row.priority, _purge_ms(row), _digest(digest), staged.data,
            ))
        self._delete("execution", [*gone.values(), *replaced])
        self._insert(f"INSERT INTO execution ({_EXECUTION_COLUMNS})", 14, puts, _EXECUTION_UPDATE)
        return added, ids, gone

    def _write_children(
        self, table: Table, name: str, rows: list[StagedRow], ids: dict[ExecutionKey, int], gone: set[int]
    ) -> int:
        added = 0
        touched: list[int] = []
        puts: list[tuple[Any, ...]] = []
        deletes: list[int] = []
        for staged in rows:
            execution = ids.get(execution_of(staged.key))
            if execution is None or (execution in gone and staged.row is not None):
                if staged.row is None:
                    continue
                raise InconsistentChanges(f"a row of {table.name} without its execution: {staged.key}")
            number = staged.key[2]
            if not isinstance(number, int) or not 0 <= number <= NUMBER_MAX:
                raise InconsistentChanges(f"a row of {table.name} with a number out of range: {staged.key}")
            id_ = execution << NUMBER_BITS | number
            touched.append(id_)
            if staged.row is None:
                deletes.append(id_)
            else:
                digest = row_hash(table, staged.key, staged.data)
                added += digest
                puts.append((id_, *_searched(staged.row), _digest(digest), staged.data))
        for chunk in _chunks(touched):
            marks = ",".join("?" * len(chunk))
            added -= self._hash_sum(f"SELECT group_concat(hex(hash), '') FROM {name} WHERE id IN ({marks})", chunk)
        self._delete(name, deletes)
        columns = _TASK_COLUMNS if table is Table.TASK else _CHILD_COLUMNS
        self._insert(f"REPLACE INTO {name} ({columns})", columns.count(",") + 1, puts, "")
        return added

    def _write_residents(self, rows: list[StagedRow]) -> int:
        added = 0
        touched: list[tuple[int, bytes]] = []
        puts: list[tuple[Any, ...]] = []
        deletes: list[tuple[int, bytes]] = []
        for staged in rows:
            place = (int(staged.table), encode_key(staged.key))
            touched.append(place)
            if staged.row is None:
                deletes.append(place)
            else:
                digest = row_hash(staged.table, staged.key, staged.data)
                added += digest
                puts.append((*place, _digest(digest), staged.data))
        for chunk in _chunks(touched):
            where = f"WHERE (table_number, key) IN (VALUES {','.join(['(?,?)'] * len(chunk))})"
            added -= self._hash_sum(f"SELECT group_concat(hex(hash), '') FROM resident {where}", _flat(chunk))
        for chunk in _chunks(deletes):
            where = f"WHERE (table_number, key) IN (VALUES {','.join(['(?,?)'] * len(chunk))})"
            self._connection.execute(f"DELETE FROM resident {where}", _flat(chunk))
        self._insert("INSERT INTO resident (table_number, key, hash, body)", 4, puts, _RESIDENT_UPDATE)
        return added

    def _check_childless(self, gone: dict[ExecutionKey, int]) -> None:
        for key, id_ in gone.items():
            first = id_ << NUMBER_BITS
            for name in CHILD_TABLES.values():
                query = f"SELECT 1 FROM {name} WHERE id BETWEEN ? AND ? LIMIT 1"
                if self._connection.execute(query, (first, first | NUMBER_MAX)).get is not None:
                    raise InconsistentChanges(f"execution {key} is deleted, and rows of it in {name} are not")

    def _new_id(self) -> int:
        id_ = self._next_id
        if id_ > EXECUTION_ID_MAX:
            raise InconsistentChanges("row ids are used up")
        self._next_id = id_ + 1
        return id_

    def _hash_sum(self, query: str, bindings: Sequence[Any]) -> int:
        text = self._connection.execute(query, bindings).get or ""
        width = 2 * HASH_BYTES
        return sum(int(text[at : at + width], 16) for at in range(0, len(text), width))

    def _delete(self, name: str, ids: list[int]) -> None:
        for chunk in _chunks(ids):
            self._connection.execute(f"DELETE FROM {name} WHERE id IN ({','.join('?' * len(chunk))})", chunk)

    def _insert(self, head: str, columns: int, rows: list[tuple[Any, ...]], tail: str) -> None:
        one = "(" + ",".join("?" * columns) + ")"
        for chunk in _chunks(rows):
            self._connection.execute(f"{head} VALUES {','.join([one] * len(chunk))}{tail}", _flat(chunk))


def _status(row: Execution) -> int:
    """0 for one that is being deleted: no search finds it."""
    return 0 if row.deleted else int(row.status)


def _ended_ms(row: Execution) -> int:
    """0 also for one that is being deleted: it need not be found by what looks for such as may go."""
    return 0 if row.deleted else row.ended_ms


def _searched(row: Row | None) -> tuple[Any, ...]:
    """What searches find a child by."""
    if not isinstance(row, TaskAttempt):
        return ()
    return (
        row.task_id, row.name, row.type, int(row.status), row.scheduled_ms, row.started_ms, row.ended_ms, row.updated_ms
    )


def _purge_ms(row: Execution) -> int:
    """When its own retention is over; 0 if it has none, or has not ended."""
    return _ended_ms(row) + row.retention_ms if _ended_ms(row) and row.retention_ms else 0


def _chunks(items: list[T]) -> Iterator[list[T]]:
    at = 0
    for size in _CHUNKS:
        while len(items) - at >= size:
            yield items[at : at + size]
            at += size


def _flat(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [value for row in rows for value in row]


def _digest(value: int) -> bytes:
    return value.to_bytes(HASH_BYTES, "big")
