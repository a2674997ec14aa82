"""Reads of rows. Every row read is compared with its stored hash: a difference is `DatabaseCorrupt`.

An execution is read with one statement that gives one result, however many rows it has: coming back for each row
would mean waiting for the interpreter lock each time.
"""

# ruff: noqa: S608 - names of tables and columns are this package's constants; values are bound

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import apsw

from orchestrator.codec.errors import RowCorrupt
from orchestrator.codec.rows import HASH_BYTES, HASH_MODULUS, decode_key, decode_row, row_digest, row_hash
from orchestrator.engine.model import EXECUTION_TABLES, ExecutionKey, RowKey, Table
from orchestrator.storage.errors import DatabaseCorrupt
from orchestrator.storage.schema import CHILD_TABLES, NUMBER_BITS, NUMBER_MAX, corruption_named
from orchestrator.storage.staged import Change

RowPlace = tuple[Table, RowKey]
StoredRow = tuple[Table, RowKey, Any]

_KEYS_PER_QUERY = 100
_CHILDREN = " UNION ALL ".join(
    f"SELECT {int(table)} AS kind, id, hash, body FROM {name} WHERE id BETWEEN ?1 AND ?2"
    for table, name in CHILD_TABLES.items()
)
# Concatenating blobs gives their bytes as they are; the cast takes away that SQLite calls the result a text.
_READ_CHILDREN = (
    "SELECT json_group_array(kind), json_group_array(id & ?3), json_group_array(length(body)), "
    "CAST(group_concat(hash, '') AS BLOB), CAST(group_concat(body, '') AS BLOB) "
    f"FROM ({_CHILDREN})"
)


class LoadedExecutions(NamedTuple):
    applied_index: int
    executions: list[list[StoredRow]]  # in the order of the request; empty if there is none


def verified_row(table: Table, key: RowKey, digest: bytes, body: bytes) -> Any:
    if row_digest(table, key, body) != digest:
        raise DatabaseCorrupt(f"row {key} of {table.name} is not what was written")
    try:
        return decode_row(table, body)
    except RowCorrupt as error:
        raise DatabaseCorrupt(f"row {key} of {table.name}: {error}") from error


def read_executions(connection: apsw.Connection, keys: Sequence[ExecutionKey]) -> LoadedExecutions:
    """Everything of these executions, at one index."""
    with corruption_named(), connection:
        index = connection.execute("SELECT value FROM meta WHERE key = 'applied_index'").get
        headers: dict[ExecutionKey, tuple[int, bytes, bytes]] = {}
        for at in range(0, len(keys), _KEYS_PER_QUERY):
            headers.update(_read_headers(connection, keys[at : at + _KEYS_PER_QUERY]))
        executions: list[list[StoredRow]] = []
        for key in keys:
            header = headers.get(key)
            executions.append([] if header is None else _read_rows(connection, key, *header))
    return LoadedExecutions(index, executions)


def read_residents(connection: apsw.Connection) -> Generator[StoredRow, None, None]:
    """All resident rows, one after the other: META first, then by table."""
    query = "SELECT table_number, key, hash, body FROM resident ORDER BY table_number, key"
    with corruption_named():
        for number, key_bytes, digest, body in connection.execute(query):
            table, key = resident_place(number, key_bytes)
            yield table, key, verified_row(table, key, digest, body)


def content_hash(connection: apsw.Connection) -> int:
    """The content hash by a scan of all rows; each is hashed anew, so damage anywhere shows."""
    total = 0
    names: dict[int, ExecutionKey] = {}
    with corruption_named(), connection:
        for id_, namespace, workflow_id, body in connection.execute(
            "SELECT id, namespace, workflow_id, body FROM execution"
        ):
            names[id_] = (namespace, workflow_id)
            total += row_hash(Table.EXECUTION, (namespace, workflow_id), body)
        for table, name in CHILD_TABLES.items():
            for id_, body in connection.execute(f"SELECT id, body FROM {name}"):
                execution = names.get(id_ >> NUMBER_BITS)
                if execution is None:
                    raise DatabaseCorrupt(f"row {id_} of {table.name} has no execution")
                total += row_hash(table, (*execution, id_ & NUMBER_MAX), body)
        for number, key, body in connection.execute("SELECT table_number, key, body FROM resident"):
            total += row_hash(*resident_place(number, key), body)
    return total % HASH_MODULUS


def resident_place(number: int, key: bytes) -> RowPlace:
    try:
        return Table(number), decode_key(key)
    except (ValueError, RowCorrupt) as error:
        raise DatabaseCorrupt(f"a resident row is not where it was written: {error}") from error


def _read_headers(
    connection: apsw.Connection, keys: Sequence[ExecutionKey]
) -> dict[ExecutionKey, tuple[int, bytes, bytes]]:
    marks = ",".join(["(?,?)"] * len(keys))
    ids, names, lengths, hashes, bodies = connection.execute(
        "SELECT json_group_array(id), json_group_array(json_array(namespace, workflow_id)), "
        "json_group_array(length(body)), CAST(group_concat(hash, '') AS BLOB), CAST(group_concat(body, '') AS BLOB) "
        f"FROM execution WHERE (namespace, workflow_id) IN (VALUES {marks})",
        [part for key in keys for part in key],
    ).fetchone()  # type: ignore[misc]  # an aggregate always has a row
    if hashes is None:
        return {}
    pieces = _cut(hashes, bodies, json.loads(lengths))
    headers = zip(json.loads(ids), json.loads(names), pieces, strict=True)
    return {(namespace, workflow_id): (id_, *piece) for id_, (namespace, workflow_id), piece in headers}


def _read_rows(
    connection: apsw.Connection, execution: ExecutionKey, id_: int, digest: bytes, body: bytes
) -> list[StoredRow]:
    rows: list[StoredRow] = [(Table.EXECUTION, execution, verified_row(Table.EXECUTION, execution, digest, body))]
    first = id_ << NUMBER_BITS
    kinds, numbers, lengths, hashes, bodies = connection.execute(
        _READ_CHILDREN, (first, first | NUMBER_MAX, NUMBER_MAX)
    ).fetchone()  # type: ignore[misc]  # an aggregate always has a row
    if hashes is None:
        return rows
    pieces = _cut(hashes, bodies, json.loads(lengths))
    for kind, number, piece in zip(json.loads(kinds), json.loads(numbers), pieces, strict=True):
        table = Table(kind)
        key = (*execution, number)
        rows.append((table, key, verified_row(table, key, *piece)))
    rows.sort(key=_place)
    return rows


def _cut(hashes: bytes, bodies: bytes, lengths: list[int]) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for position, length in enumerate(lengths):
        yield hashes[position * HASH_BYTES : (position + 1) * HASH_BYTES], bodies[at : at + length]
        at += length


_ORDER = {table: place for place, table in enumerate(EXECUTION_TABLES)}


def lay_over(rows: list[StoredRow], staged: Sequence[Change]) -> list[StoredRow]:
    """The rows of an execution after these changes: the header first, then by table and number."""
    changed: dict[RowPlace, Any] = {(table, key): row for table, key, row in rows}
    for table, key, row, _ in staged:
        if row is None:
            changed.pop((table, key), None)
        else:
            changed[table, key] = row
    return sorted(((table, key, row) for (table, key), row in changed.items()), key=_place)


def _place(row: StoredRow) -> tuple[int, int]:
    table, key, _ = row
    number = key[2] if len(key) > 2 else 0
    assert isinstance(number, int)
    return _ORDER[table], number
