"""The tables, how connections are opened, and the stamp that says whose database it is.

An execution's rows lie together: the id of a child row is the execution's row id and the row's number, so reading an
execution is one range per table and needs no second index.
"""

# ruff: noqa: S608 - names of tables and columns are this package's constants; values are bound

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import apsw

from orchestrator import __version__
from orchestrator.engine.model import Table
from orchestrator.storage.errors import (
    DatabaseCorrupt,
    DiskFailed,
    SchemaVersionUnsupported,
    StorageError,
    WrongCluster,
)

SCHEMA_VERSION = 1
# In the table `meta`: the version of the release that had the database last.
SOFTWARE = "software"
# Each page is a call of its own when it is written: with twice the usual size there are fewer.
PAGE_BYTES = 8192
NUMBER_BITS = 25
NUMBER_MAX = (1 << NUMBER_BITS) - 1
EXECUTION_ID_MAX = (1 << (63 - NUMBER_BITS)) - 1

CHILD_TABLES = {
    Table.TASK: "task",
    Table.RECORD: "record",
    Table.SIGNAL: "signal",
    Table.PAYLOAD: "payload",
    Table.TASK_LOG: "task_log",
    Table.EXPANSION: "expansion",
}

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT;
CREATE TABLE execution (
    id INTEGER PRIMARY KEY,
    namespace TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    name TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    started_ms INTEGER NOT NULL,
    status INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    compensation INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    purge_ms INTEGER NOT NULL,
    hash BLOB NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (namespace, workflow_id)
) STRICT;
CREATE INDEX execution_start ON execution (namespace, started_ms);
CREATE INDEX execution_name ON execution (namespace, name, started_ms);
CREATE INDEX execution_status ON execution (namespace, status, started_ms);
CREATE INDEX execution_correlation ON execution (namespace, correlation_id, started_ms) WHERE correlation_id <> '';
CREATE INDEX execution_compensation ON execution (namespace, compensation, started_ms) WHERE compensation > 1;
CREATE INDEX execution_end ON execution (ended_ms, namespace, purge_ms) WHERE ended_ms > 0;
CREATE INDEX execution_name_end ON execution (namespace, name, ended_ms) WHERE ended_ms > 0;
CREATE INDEX execution_purge ON execution (purge_ms) WHERE purge_ms > 0;
CREATE TABLE task (
    id INTEGER PRIMARY KEY,
    task_id TEXT NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    status INTEGER NOT NULL,
    scheduled_ms INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    hash BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX task_id ON task (task_id);
CREATE INDEX task_scheduled ON task (scheduled_ms);
CREATE INDEX task_status ON task (status, scheduled_ms) WHERE status <> 3;
CREATE TABLE record (id INTEGER PRIMARY KEY, hash BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE signal (id INTEGER PRIMARY KEY, hash BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE payload (id INTEGER PRIMARY KEY, hash BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE task_log (id INTEGER PRIMARY KEY, hash BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE expansion (id INTEGER PRIMARY KEY, hash BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE resident (
    id INTEGER PRIMARY KEY,
    table_number INTEGER NOT NULL,
    key BLOB NOT NULL,
    hash BLOB NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (table_number, key)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Applied:
    """Where in the log the database stands, and what it holds there."""

    index: int
    term: int
    configuration: bytes
    chain_hash: bytes
    content_hash: int


class Identity(NamedTuple):
    """Whose database it is."""

    cluster_id: str
    recovery_epoch: int


_DISK_ERRORS: dict[type[apsw.Error], int] = {
    apsw.FullError: errno.ENOSPC,
    apsw.ReadOnlyError: errno.EROFS,
    apsw.CantOpenError: errno.EIO,
    apsw.IOError: errno.EIO,
}


# SQLite calls what the system refuses to write an error of input and output, but for a disk that is full.
_REFUSED = frozenset({errno.EROFS, errno.EDQUOT})


@contextmanager
def corruption_named(connection: apsw.Connection | None = None) -> Iterator[None]:
    """SQLite's own complaints about damage and about the disk, by this package's name; `connection` is what writes."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise DatabaseCorrupt(f"the database is damaged: {error}") from error
    except tuple(_DISK_ERRORS) as error:
        number = next(number for kind, number in _DISK_ERRORS.items() if isinstance(error, kind))
        if connection is not None and isinstance(error, apsw.IOError) and connection.system_errno in _REFUSED:
            number = connection.system_errno
        raise DiskFailed(f"the database can't be read or written ({os.strerror(number)}): {error}", number) from error


def connect(path: str, vfs: str | None, *, cache_bytes: int = 16 << 20, read_only: bool = False) -> apsw.Connection:
    """A connection in WAL mode, whose committed transactions survive power loss."""
    with corruption_named():
        flags = apsw.SQLITE_OPEN_READWRITE | (0 if read_only else apsw.SQLITE_OPEN_CREATE)
        connection = apsw.Connection(path, flags=flags, vfs=vfs)
        connection.set_busy_timeout(10_000)
        # Of a database that is made now.
        connection.pragma("page_size", PAGE_BYTES)
        if connection.pragma("journal_mode", "wal") != "wal":
            raise StorageError(f"{path}: SQLite refuses WAL mode here")
        connection.pragma("synchronous", "FULL")
        connection.pragma("cache_size", -(cache_bytes >> 10))
        connection.pragma("temp_store", "MEMORY")
        if read_only:
            connection.pragma("query_only", 1)
    return connection


def create(connection: apsw.Connection, identity: Identity) -> None:
    """The schema of an empty database, in one transaction."""
    with connection:
        connection.execute(_TABLES)
        write_meta(
            connection,
            {
                "schema_version": SCHEMA_VERSION,
                "cluster_id": identity.cluster_id,
                "recovery_epoch": identity.recovery_epoch,
                **applied_meta(Applied(0, 0, b"", b"", 0)),
            },
        )


def is_blank(connection: apsw.Connection) -> bool:
    with corruption_named():
        return not connection.execute("SELECT count(*) FROM sqlite_schema").get


def check(connection: apsw.Connection, identity: Identity) -> None:
    """Refuses a database that is not this cluster's, or that this version cannot read."""
    meta = read_meta(connection)
    version = meta.get("schema_version")
    if not isinstance(version, int):
        raise DatabaseCorrupt("the database has no schema version")
    if version > SCHEMA_VERSION:
        raise SchemaVersionUnsupported(
            f"the database has schema {version}, last opened by orchestrator {meta.get(SOFTWARE, '(unknown)')}, and "
            f"orchestrator {__version__} reads up to {SCHEMA_VERSION}: upgrade this node"
        )
    if not {"cluster_id", "recovery_epoch"} <= meta.keys():
        raise DatabaseCorrupt("the database does not say whose it is")
    found = Identity(meta["cluster_id"], meta["recovery_epoch"])
    if found != identity:
        raise WrongCluster(
            f"the database belongs to cluster {found.cluster_id}, recovery epoch {found.recovery_epoch}; "
            f"this node to cluster {identity.cluster_id}, recovery epoch {identity.recovery_epoch}"
        )


def full_check(connection: apsw.Connection) -> None:
    """Reads every page and raises if their structure is damaged, or if an index lacks a row or has another."""
    with corruption_named():
        problems = [text for (text,) in connection.execute("PRAGMA integrity_check(5)")]
    if problems != ["ok"]:
        raise DatabaseCorrupt("the database is damaged: " + "; ".join(map(str, problems)))


def read_meta(connection: apsw.Connection) -> dict[str, Any]:
    with corruption_named():
        try:
            return dict(connection.execute("SELECT key, value FROM meta"))
        except apsw.SQLError as error:
            raise DatabaseCorrupt(f"not a database of orchestrator: {error}") from error


def write_meta(connection: apsw.Connection, values: dict[str, Any]) -> None:
    marks = ",".join(["(?,?)"] * len(values))
    bindings = [part for pair in values.items() for part in pair]
    connection.execute(f"REPLACE INTO meta (key, value) VALUES {marks}", bindings)


_APPLIED = ("applied_index", "applied_term", "configuration", "chain_hash", "content_hash")
_APPLIED_HASH = "applied_hash"


def read_applied(connection: apsw.Connection) -> Applied:
    """Raises DatabaseCorrupt unless it is what was written."""
    meta = read_meta(connection)
    values: list[Any] = [meta.get(key) for key in _APPLIED]
    if meta.get(_APPLIED_HASH) != _hash_of(values):
        raise DatabaseCorrupt("the database is damaged: what it says of its place in the log has another hash")
    index, term, configuration, chain_hash, content_hash = values
    return Applied(index, term, configuration, chain_hash, int.from_bytes(content_hash, "big"))


def applied_meta(applied: Applied) -> dict[str, Any]:
    content_hash = applied.content_hash.to_bytes(16, "big")
    values = [applied.index, applied.term, applied.configuration, applied.chain_hash, content_hash]
    return {**dict(zip(_APPLIED, values, strict=True)), _APPLIED_HASH: _hash_of(values)}


def _hash_of(values: list[Any]) -> bytes:
    """Integers and bytes."""
    return blake2b(repr(values).encode(), digest_size=16).digest()
