"""Ended executions in the order in which they may go, found by indexes, page by page.

What is committed is seen. Ids of rows differ between nodes: places are for this node's own use.
"""

# ruff: noqa: S608 - names of tables and columns are this package's constants; values are bound

from __future__ import annotations

from typing import Any, NamedTuple

import apsw

from orchestrator.engine.model import Execution, Table
from orchestrator.storage.database import Database
from orchestrator.storage.reading import verified_row
from orchestrator.storage.schema import corruption_named

_ROW = "namespace, workflow_id, hash, body"

OwnPlace = tuple[int, int]
"""(when its own retention is over, row id)"""
EndPlace = tuple[int, str, int, int]
"""(end, namespace, when its own retention is over or 0, row id)"""

FIRST_NAME = ("", "")
FIRST_OWN: OwnPlace = (0, 0)
FIRST_END: EndPlace = (0, "", 0, 0)


class Found(NamedTuple):
    """An execution, and its place in the order in which it was looked for."""

    place: Any
    execution: Execution


class EndedExecutions:
    """Queries of the node's database; each is bounded by `limit` and by the indexes it uses."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def used_bytes(self) -> int:
        """What the database holds, without the pages that are free for reuse."""
        return self._database.file_bytes - self._database.free_bytes

    async def oldest_ms(self) -> int:
        """When the oldest of them has ended; 0 if there is none."""
        query = "SELECT ended_ms FROM execution INDEXED BY execution_end WHERE ended_ms > 0 ORDER BY ended_ms LIMIT 1"

        def run(connection: apsw.Connection) -> int:
            with corruption_named():
                return connection.execute(query).get or 0

        return await self._database.search(run)

    async def own_over(self, due_ms: int, after: OwnPlace, limit: int) -> list[Found]:
        """Those whose own retention was over by then, the longest over first; a place is an OwnPlace."""
        query = (
            f"SELECT purge_ms, id, {_ROW} FROM execution INDEXED BY execution_purge "
            "WHERE purge_ms > 0 AND purge_ms <= ? AND (purge_ms, id) > (?, ?) ORDER BY purge_ms, id LIMIT ?"
        )
        rows = await self._rows(query, (due_ms, *after, limit))
        return [Found(row[:2], _read(*row[2:])) for row in rows]

    async def ended_by(self, ended_ms: int, after: EndPlace, limit: int, *, with_own: bool) -> list[Found]:
        """Those that had ended by then, the oldest first; a place is an EndPlace.

        `with_own`: also those that have a retention of their own.
        """
        query = (
            f"SELECT ended_ms, namespace, purge_ms, id, {_ROW} FROM execution INDEXED BY execution_end "
            "WHERE ended_ms > 0 AND ended_ms <= ? AND (ended_ms, namespace, purge_ms, id) > (?, ?, ?, ?) "
            f"{'' if with_own else 'AND purge_ms = 0 '}ORDER BY ended_ms, namespace, purge_ms, id LIMIT ?"
        )
        rows = await self._rows(query, (ended_ms, *after, limit))
        return [Found(row[:4], _read(*row[4:])) for row in rows]

    async def next_name(self, after: tuple[str, str] = FIRST_NAME) -> tuple[str, str] | None:
        """The namespace and name behind these of which anything has ended."""
        query = (
            "SELECT namespace, name FROM execution INDEXED BY execution_name_end "
            "WHERE ended_ms > 0 AND (namespace, name) > (?, ?) ORDER BY namespace, name LIMIT 1"
        )
        rows = await self._rows(query, after)
        return rows[0] if rows else None

    async def newest(self, namespace: str, name: str, skipped: int, limit: int) -> list[Found]:
        """Those of this name, the newest first, but for the first ones; a place is the number of newer ones."""
        query = (
            f"SELECT {_ROW} FROM execution INDEXED BY execution_name_end WHERE ended_ms > 0 "
            "AND namespace = ? AND name = ? ORDER BY ended_ms DESC, id DESC LIMIT ? OFFSET ?"
        )
        rows = await self._rows(query, (namespace, name, limit, skipped))
        return [Found(skipped + at, _read(*row)) for at, row in enumerate(rows)]

    async def _rows(self, query: str, bindings: tuple[Any, ...]) -> list[Any]:
        def run(connection: apsw.Connection) -> list[Any]:
            with corruption_named():
                return connection.execute(query, bindings).fetchall()

        return await self._database.search(run)


def _read(namespace: str, workflow_id: str, digest: bytes, body: bytes) -> Execution:
    row: Execution = verified_row(Table.EXECUTION, (namespace, workflow_id), digest, body)
    return row
