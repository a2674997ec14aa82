"""One transaction: the rows of some batches, where in the log that is, and the content hash that follows.

Statements take many rows each: SQLite then runs them without coming back for the interpreter lock, which a busy loop
would make it wait for.
"""

# ruff: noqa: S608 - names of tables and columns are this package's constants; values are bound

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import apsw

from orchestrator.codec.rows import HASH_BYTES, HASH_MODULUS, encode_key, encode_row, row_digest
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
from orchestrator.storage.staged import Batch, Change, execution_of, is_execution_row

T = TypeVar("T")

# Few sizes, so that every statement is prepared once.
_CHUNKS = (256, 64, 16, 4, 2, 1)
# Of how many rows it is kept what a lookup would tell: those that change while they are open, some 300 bytes each.
_KNOWN_MAX = 50_000
EXECUTION_COLUMNS = (
    "id, namespace, workflow_id, name, correlation_id, started_ms, status, ended_ms, updated_ms, compensation, "
    "priority, purge_ms, hash, body"
)
_EXECUTION_UPDATE = (
    " ON CONFLICT (id) DO UPDATE SET status = excluded.status, ended_ms = excluded.ended_ms, "
    "updated_ms = excluded.updated_ms, compensation = excluded.compensation, purge_ms = excluded.purge_ms, "
    "hash = excluded.hash, body = excluded.body"
)
_CHILD_COLUMNS = "id, hash, body"
TASK_COLUMNS = "id, task_id, name, type, status, scheduled_ms, started_ms, ended_ms, updated_ms, hash, body"
_RESIDENT_UPDATE = " ON CONFLICT (table_number, key) DO UPDATE SET hash = excluded.hash, body = excluded.body"


class Committed(NamedTuple):
    applied: Applied
    rows: int


class _Found:
    """What the database has of an execution's header."""

    __slots__ = ("digest", "fixed", "id")

    def __init__(self, id_: int, digest: bytes, fixed: tuple[str, str, int, int]) -> None:
        self.id = id_
        self.digest = digest
        self.fixed = fixed  # the columns that an update leaves alone


class Writer:
    """The one connection that writes; every call is made in the lane that owns it."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self.applied = read_applied(connection)
        self._page_bytes = connection.pragma("page_size")
        self._measure()
        self._next_id = (connection.execute("SELECT max(id) FROM execution").get or 0) + 1
        # What was written lately, and so need not be looked up when it is written again.
        self._executions: dict[ExecutionKey, _Found] = {}
        self._digests: dict[tuple[Table, RowKey], bytes] = {}

    def commit(self, batches: Sequence[Batch]) -> Committed:
        """Commits all of them or, with an error, none; when it returns, they survive power loss."""
        last = batches[-1]
        changes = last.changes if len(batches) == 1 else _merged(batches)
        next_id = self._next_id
        with corruption_named(self._connection):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                content = (self.applied.content_hash + self._write(changes)) % HASH_MODULUS
                applied = Applied(last.index, last.term, last.configuration, last.chain_hash, content)
                write_meta(self._connection, applied_meta(applied))
                self._connection.execute("COMMIT")
            except BaseException:
                self._next_id = next_id
                self._executions.clear()
                self._digests.clear()
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        self.applied = applied
        self._measure()
        _forget(self._executions)
        _forget(self._digests)
        return Committed(applied, len(changes))

    def _measure(self) -> None:
        self.file_bytes: int = self._connection.pragma("page_count") * self._page_bytes
        self.free_bytes: int = self._connection.pragma("freelist_count") * self._page_bytes

    def _write(self, changes: Iterable[Change]) -> int:
        """What it adds to the content hash."""
        executions: list[Change] = []
        children: dict[Table, list[Change]] = {table: [] for table in CHILD_TABLES}
        residents: list[Change] = []
        named: dict[ExecutionKey, None] = {}
        for change in changes:
            table, key, _, existed = change
            if not is_execution_row(table):
                residents.append(change)
            elif table is Table.EXECUTION:
                executions.append(change)
                if existed:
                    named[execution_of(key)] = None
            else:
                children[table].append(change)
                named[execution_of(key)] = None
        for _, key, _, existed in executions:
            if not existed:
                named.pop(execution_of(key), None)
        found = self._find(named)
        added, ids, gone = self._write_executions(executions, found)
        for table, name in CHILD_TABLES.items():
            if children[table]:
                added += self._write_children(table, name, children[table], ids, set(gone.values()))
        self._check_childless(gone)
        return added + self._write_residents(residents)

    def _find(self, keys: Iterable[ExecutionKey]) -> dict[ExecutionKey, _Found]:
        found: dict[ExecutionKey, _Found] = {}
        unknown: list[ExecutionKey] = []
        for key in keys:
            if (known := self._executions.get(key)) is not None:
                found[key] = known
            else:
                unknown.append(key)
        for chunk in _chunks(unknown):
            marks = ",".join(["(?,?)"] * len(chunk))
            text = self._connection.execute(
                "SELECT json_group_array(json_array(id, namespace, workflow_id, hex(hash), name, correlation_id, "
                f"started_ms, priority)) FROM execution WHERE (namespace, workflow_id) IN (VALUES {marks})",
                _flat(chunk),
            ).get
            for id_, namespace, workflow_id, digest, *fixed in json.loads(text):
                found[namespace, workflow_id] = _Found(id_, bytes.fromhex(digest), tuple(fixed))
        return found

    def _write_executions(
        self, changes: list[Change], found: dict[ExecutionKey, _Found]
    ) -> tuple[int, dict[ExecutionKey, int], dict[ExecutionKey, int]]:
        """What it adds to the content hash, the ids of all executions, and the ids of those that are gone."""
        ids = {key: item.id for key, item in found.items()}
        digests: list[bytes] = []
        old_digests: list[bytes] = []
        new: list[Any] = []
        puts: list[Any] = []
        gone: dict[ExecutionKey, int] = {}
        replaced: list[int] = []
        for _, row_key, row, _ in changes:
            key = execution_of(row_key)
            before = found.get(key)
            if before is not None:
                old_digests.append(before.digest)
            if row is None:
                self._executions.pop(key, None)
                if before is not None:
                    gone[key] = before.id
                continue
            assert isinstance(row, Execution)
            fixed = (row.name, row.correlation_id, row.created_ms, row.priority)
            if before is None:
                id_ = ids[key] = self._new_id()
            else:
                id_ = before.id
                if before.fixed != fixed:
                    # The workflow id was used again: rare, so that the usual update need not touch every index.
                    replaced.append(id_)
            data = encode_row(row)
            digest = row_digest(Table.EXECUTION, row_key, data)
            digests.append(digest)
            self._remember_execution(key, row, _Found(id_, digest, fixed))
            (new if before is None else puts).extend((
                id_, key[0], key[1], *execution_columns(row), digest, data,
            ))
        self._delete("execution", [*gone.values(), *replaced])
        self._insert(f"INSERT INTO execution ({EXECUTION_COLUMNS})", 14, new, "")
        self._insert(f"INSERT INTO execution ({EXECUTION_COLUMNS})", 14, puts, _EXECUTION_UPDATE)
        return _sum(digests) - _sum(old_digests), ids, gone

    def _remember_execution(self, key: ExecutionKey, row: Execution, found: _Found) -> None:
        if row.ended_ms:
            # Seldom written again.
            self._executions.pop(key, None)
        else:
            self._executions[key] = found

    def _write_children(
        self, table: Table, name: str, changes: list[Change], ids: dict[ExecutionKey, int], gone: set[int]
    ) -> int:
        known = self._digests
        digests: list[bytes] = []
        old_digests: list[bytes] = []
        touched: list[int] = []
        new: list[Any] = []
        puts: list[Any] = []
        deletes: list[int] = []
        for _, key, row, existed in changes:
            id_ = self._child_id(table, key, row, ids, gone)
            if id_ is None:
                continue
            if existed:
                old = known.pop((table, key), None)
                if old is None:
                    touched.append(id_)
                else:
                    old_digests.append(old)
            if row is None:
                deletes.append(id_)
                continue
            data = encode_row(row)
            digest = row_digest(table, key, data)
            digests.append(digest)
            if _will_change(row):
                known[table, key] = digest
            values = puts if existed else new
            values.append(id_)
            if isinstance(row, TaskAttempt):
                values.extend(task_columns(row))
            values.append(digest)
            values.append(data)
        for chunk in _chunks(touched):
            marks = ",".join("?" * len(chunk))
            query = f"SELECT group_concat(hex(hash), '') FROM {name} WHERE id IN ({marks})"
            old_digests += self._digests_of(query, chunk)
        self._delete(name, deletes)
        columns = TASK_COLUMNS if table is Table.TASK else _CHILD_COLUMNS
        self._insert(f"INSERT INTO {name} ({columns})", columns.count(",") + 1, new, "")
        self._insert(f"REPLACE INTO {name} ({columns})", columns.count(",") + 1, puts, "")
        return _sum(digests) - _sum(old_digests)

    def _child_id(
        self, table: Table, key: RowKey, row: Row | None, ids: dict[ExecutionKey, int], gone: set[int]
    ) -> int | None:
        """None for a row that goes with its execution, which was never stored."""
        execution = ids.get(execution_of(key))
        if execution is None or (row is not None and execution in gone):
            if row is None:
                return None
            raise InconsistentChanges(f"a row of {table.name} without its execution: {key}")
        number = key[2]
        if not isinstance(number, int) or not 0 <= number <= NUMBER_MAX:
            raise InconsistentChanges(f"a row of {table.name} with a number out of range: {key}")
        return execution << NUMBER_BITS | number

    def _write_residents(self, changes: list[Change]) -> int:
        known = self._digests
        digests: list[bytes] = []
        old_digests: list[bytes] = []
        touched: list[tuple[int, bytes]] = []
        new: list[Any] = []
        puts: list[Any] = []
        deletes: list[tuple[int, bytes]] = []
        for table, key, row, existed in changes:
            place = (int(table), encode_key(key))
            if existed:
                old = known.pop((table, key), None)
                if old is None:
                    touched.append(place)
                else:
                    old_digests.append(old)
            if row is None:
                deletes.append(place)
                continue
            data = encode_row(row)
            digest = known[table, key] = row_digest(table, key, data)
            digests.append(digest)
            (puts if existed else new).extend((place[0], place[1], digest, data))
        for chunk in _chunks(touched):
            where = f"WHERE (table_number, key) IN (VALUES {','.join(['(?,?)'] * len(chunk))})"
            old_digests += self._digests_of(f"SELECT group_concat(hex(hash), '') FROM resident {where}", _flat(chunk))
        for chunk in _chunks(deletes):
            where = f"WHERE (table_number, key) IN (VALUES {','.join(['(?,?)'] * len(chunk))})"
            self._connection.execute(f"DELETE FROM resident {where}", _flat(chunk))
        self._insert("INSERT INTO resident (table_number, key, hash, body)", 4, new, "")
        self._insert("INSERT INTO resident (table_number, key, hash, body)", 4, puts, _RESIDENT_UPDATE)
        return _sum(digests) - _sum(old_digests)

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

    def _digests_of(self, query: str, bindings: Sequence[Any]) -> list[bytes]:
        found = bytes.fromhex(self._connection.execute(query, bindings).get or "")
        return [found[at : at + HASH_BYTES] for at in range(0, len(found), HASH_BYTES)]

    def _delete(self, name: str, ids: list[int]) -> None:
        for chunk in _chunks(ids):
            self._connection.execute(f"DELETE FROM {name} WHERE id IN ({','.join('?' * len(chunk))})", chunk)

    def _insert(self, head: str, columns: int, values: list[Any], tail: str) -> None:
        """Rows of so many values, one after the other."""
        one = "(" + ",".join("?" * columns) + ")"
        for size, chunk in _chunks_of(values, columns):
            text = f"{head} VALUES {','.join([one] * size)}{tail}"
            try:
                self._connection.execute(text, chunk)
            except apsw.ConstraintError as error:
                raise InconsistentChanges(f"a row that was said to be new is there already: {error}") from error


def _merged(batches: Sequence[Batch]) -> Collection[Change]:
    """Each row as the last batch has it, once, and whether there was one before the first."""
    merged: dict[tuple[Table, RowKey], Change] = {}
    for batch in batches:
        for change in batch.changes:
            place = (change[0], change[1])
            before = merged.get(place)
            merged[place] = change if before is None else (*place, change[2], before[3])
    return [change for change in merged.values() if change[2] is not None or change[3]]


def _forget(known: dict[Any, Any]) -> None:
    """The older half, when there is too much."""
    if len(known) > _KNOWN_MAX:
        for key in list(islice(known, len(known) // 2)):
            del known[key]


def _will_change(row: Row) -> bool:
    return isinstance(row, TaskAttempt) and not row.ended_ms


def _sum(digests: Iterable[bytes]) -> int:
    return sum(map(int.from_bytes, digests))


def execution_columns(row: Execution) -> tuple[Any, ...]:
    """What searches and retention go by, in the order of EXECUTION_COLUMNS."""
    return (
        row.name, row.correlation_id, row.created_ms, _status(row), _ended_ms(row), row.updated_ms,
        int(row.compensation), row.priority, _purge_ms(row),
    )


def task_columns(row: TaskAttempt) -> tuple[Any, ...]:
    """What searches find it by, in the order of TASK_COLUMNS."""
    return (
        row.task_id, row.name, row.type, int(row.status), row.scheduled_ms, row.started_ms, row.ended_ms,
        row.updated_ms,
    )


def _status(row: Execution) -> int:
    """0 for one that is being deleted: no search finds it."""
    return 0 if row.deleted else int(row.status)


def _ended_ms(row: Execution) -> int:
    """0 also for one that is being deleted: it need not be found by what looks for such as may go."""
    return 0 if row.deleted else row.ended_ms


def _purge_ms(row: Execution) -> int:
    """When its own retention is over; 0 if it has none, or has not ended."""
    return _ended_ms(row) + row.retention_ms if _ended_ms(row) and row.retention_ms else 0


def _chunks(items: list[T]) -> Iterator[list[T]]:
    for _, chunk in _chunks_of(items, 1):
        yield chunk


def _chunks_of(items: list[T], width: int) -> Iterator[tuple[int, list[T]]]:
    """Of things that take up so many items: how many there are in a chunk, and their items."""
    at = 0
    for size in _CHUNKS:
        while len(items) - at >= size * width:
            yield size, items[at : at + size * width]
            at += size * width


def _flat(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    return [value for row in rows for value in row]

