"""Before anything else of a database is read it says at which level it is, and who had it last."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from orchestrator import __version__
from orchestrator.codec.rows import ROW_FORMAT
from orchestrator.engine.model import Meta, Table
from orchestrator.storage.database import Database
from orchestrator.storage.errors import DatabaseCorrupt, SchemaVersionUnsupported
from orchestrator.storage.stamps import Stamp, _level, stamp_of
from tests.storage.samples import CLUSTER, Store
from tests.storage.test_database import tamper


async def test_the_level_is_that_of_the_row_and_the_release_whoever_signs(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    assert stamp_of(path) == Stamp(1, "")
    store.stage([(Table.META, (), Meta(log_time_ms=5, behaviour_level=3), False)], 1)
    await store.flusher.drain()
    store.database.sign("7.1")
    applied = store.database.applied()
    await store.close()
    assert stamp_of(path) == Stamp(3, "7.1")
    again = Database.open(path, cluster_id=CLUSTER)
    assert again.applied() == applied  # no row is another one
    await again.close()


async def test_a_newer_schema_is_refused_by_the_names_of_both(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    store.database.sign("7.1")
    await store.close()
    tamper(path, "UPDATE meta SET value = 2 WHERE key = 'schema_version'")
    said = rf"schema 2, .* 7\.1, and orchestrator {__version__} .* up to 1"
    with pytest.raises(SchemaVersionUnsupported, match=said):
        Database.open(path, cluster_id=CLUSTER)


def test_the_level_is_read_whatever_else_is_in_the_row() -> None:
    def row(*fields: object) -> bytes:
        return bytes([ROW_FORMAT]) + msgspec.msgpack.encode(fields)

    assert _level(None) == _level(row()) == _level(row(5)) == 1
    assert _level(row(5, 4, *range(40), "what is this")) == 4
    for damaged in (row(5, "x"), bytes([ROW_FORMAT]) + b"\xc1", bytes([ROW_FORMAT])):
        with pytest.raises(DatabaseCorrupt):
            _level(damaged)
