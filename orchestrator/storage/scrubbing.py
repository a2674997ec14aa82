"""The rows of the database compared with their hashes, columns and indexes, a slice at a time: what nobody reads, too.

Where a slice ends, the next one goes on, over restarts of the node as well. Each is a short transaction that reads.
"""

# ruff: noqa: S608 - names of tables and columns are this package's constants; values are bound

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import apsw

from orchestrator.codec.rows import row_digest
from orchestrator.engine.model import ExecutionKey, RowKey, Table
from orchestrator.storage.errors import DatabaseCorrupt
from orchestrator.storage.reading import resident_place, verified_row
from orchestrator.storage.schema import CHILD_TABLES, NUMBER_BITS, NUMBER_MAX, corruption_named, read_applied
from orchestrator.storage.writing import EXECUTION_COLUMNS, TASK_COLUMNS, execution_columns, task_columns

# In this order; the name is what a position is kept by.
TABLES = ("execution", *CHILD_TABLES.values(), "resident")
SLICE_ROWS = 256
SLICE_BYTES = 1 << 20
# Of a row besides its body, in the table and its indexes, about.
_ROW_BYTES = 200

_Row = tuple[Any, ...]


class Slice(NamedTuple):
    rows: int
    size_bytes: int
    # Where the next one begins: after this row of this table; None when the last table is through.
    next_table: str | None
    after: int


def scrub(connection: apsw.Connection, table: str, after: int) -> Slice:
    """Reads rows of the table with ids beyond `after`. Blocks; raises DatabaseCorrupt, DiskFailed."""
    with corruption_named(), connection:
        if table == TABLES[0] and not after:
            read_applied(connection)
        rows, size = _rows(connection, table, after)
        if rows:
            _CHECKS[table](connection, rows)
            _check_indexes(connection, table, rows[0][0], rows[-1][0])
            return Slice(len(rows), size, table, rows[-1][0])
    place = TABLES.index(table) + 1
    return Slice(0, 0, TABLES[place] if place < len(TABLES) else None, 0)


def _rows(connection: apsw.Connection, table: str, after: int) -> tuple[list[_Row], int]:
    columns = _COLUMNS.get(table, "id, hash, body")
    rows: list[_Row] = []
    size = 0
    query = f"SELECT {columns} FROM {table} WHERE id > ? ORDER BY id LIMIT {SLICE_ROWS}"
    for row in connection.execute(query, (after,)):
        rows.append(row)
        size += _ROW_BYTES + len(row[-1])
        if size > SLICE_BYTES:
            break
    return rows, size


_COLUMNS = {"execution": EXECUTION_COLUMNS, "task": TASK_COLUMNS, "resident": "id, table_number, key, hash, body"}


def _check_executions(connection: apsw.Connection, rows: Sequence[_Row]) -> None:
    for _, namespace, workflow_id, *columns, digest, body in rows:
        key = (namespace, workflow_id)
        row = verified_row(Table.EXECUTION, key, digest, body)
        _check_columns(Table.EXECUTION, key, columns, execution_columns(row))


def _check_children(table: Table) -> Callable[[apsw.Connection, Sequence[_Row]], None]:
    def check(connection: apsw.Connection, rows: Sequence[_Row]) -> None:
        names = _names(connection, rows[0][0] >> NUMBER_BITS, rows[-1][0] >> NUMBER_BITS)
        for id_, *columns, digest, body in rows:
            execution = names.get(id_ >> NUMBER_BITS)
            if execution is None:
                raise DatabaseCorrupt(f"row {id_} of {table.name} has no execution")
            key = (*execution, id_ & NUMBER_MAX)
            if columns:
                _check_columns(table, key, columns, task_columns(verified_row(table, key, digest, body)))
            elif row_digest(table, key, body) != digest:
                raise DatabaseCorrupt(f"row {key} of {table.name} is not what was written")

    return check


def _names(connection: apsw.Connection, first: int, last: int) -> dict[int, ExecutionKey]:
    query = "SELECT id, namespace, workflow_id FROM execution WHERE id BETWEEN ? AND ?"
    return {id_: (namespace, workflow_id) for id_, namespace, workflow_id in connection.execute(query, (first, last))}


def _check_residents(connection: apsw.Connection, rows: Sequence[_Row]) -> None:
    for _, number, key_bytes, digest, body in rows:
        table, key = resident_place(number, key_bytes)
        if row_digest(table, key, body) != digest:
            raise DatabaseCorrupt(f"row {key} of {table.name} is not what was written")


def _check_columns(table: Table, key: RowKey, found: Sequence[Any], meant: Sequence[Any]) -> None:
    """What searches go by is beside the encoded row, and no hash covers it."""
    if tuple(found) != tuple(meant):
        raise DatabaseCorrupt(f"the columns of row {key} of {table.name} are not those of the row")


_CHECKS: dict[str, Callable[[apsw.Connection, Sequence[_Row]], None]] = {
    "execution": _check_executions,
    **{name: _check_children(table) for table, name in CHILD_TABLES.items()},
    "resident": _check_residents,
}


def _check_indexes(connection: apsw.Connection, table: str, first: int, last: int) -> None:
    """Each row must be found by each index that has it."""
    for name, condition in _indexes(connection, table):
        columns = [column for _, _, column in connection.execute(f"PRAGMA index_info({name})")]
        same = " AND ".join(f"{column} = row.{column}" for column in columns)
        missing = connection.execute(
            f"SELECT count(*) FROM {table} AS row NOT INDEXED WHERE row.id BETWEEN ? AND ? AND ({condition}) AND NOT "
            f"EXISTS (SELECT 1 FROM {table} INDEXED BY {name} WHERE {same} AND id = row.id AND {condition})",
            (first, last),
        ).get
        if missing:
            raise DatabaseCorrupt(f"the index {name} lacks {missing} of the rows {first} to {last} of {table}")


def _indexes(connection: apsw.Connection, table: str) -> list[tuple[str, str]]:
    """Of a table: the name, and which rows it has."""
    query = "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?"
    return [(name, sql.partition(" WHERE ")[2] or "1") for name, sql in connection.execute(query, (table,))]
