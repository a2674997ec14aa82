"""Rows to store, a database with a flusher over them, and a dumb model of what must be stored."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.codec.rows import encode_row, row_hash
from orchestrator.engine.model import (
    EXECUTION_TABLES,
    CompensationState,
    Execution,
    Meta,
    PayloadRow,
    Row,
    RowKey,
    SessionKind,
    Table,
    TaskAttempt,
    TaskStatus,
    TimerKind,
    WorkflowStatus,
)
from orchestrator.engine.resident import Bundle, Session, Timer
from orchestrator.storage.database import Database, DatabaseSettings
from orchestrator.storage.flusher import Flusher, FlusherSettings
from orchestrator.storage.reading import content_hash
from orchestrator.storage.schema import connect
from orchestrator.storage.staged import Change

CLUSTER = "cluster-a"
# The log is moved into the database often, so that tests see it happen.
SMALL = DatabaseSettings(cache_bytes=1 << 20, wal_pages=20)
PROMPT = FlusherSettings(interval_ms=0, gap_ms=0)


def execution(workflow_id: str, **fields: Any) -> Execution:
    values: dict[str, Any] = {
        "namespace": "default", "name": "order", "version": 1, "bundle": b"d", "status": WorkflowStatus.RUNNING,
        "created_ms": 1000, "updated_ms": 1000,
    }
    return Execution(workflow_id=workflow_id, **{**values, **fields})


def put_execution(workflow_id: str, **fields: Any) -> Change:
    row = execution(workflow_id, **fields)
    return Table.EXECUTION, (row.namespace, workflow_id), row, True


def put_task(workflow_id: str, sequence: int, reason: str = "") -> Change:
    row = TaskAttempt(sequence, f"t{sequence}", "a", "a", "SIMPLE", TaskStatus.SCHEDULED, 1, 1, reason=reason)
    return Table.TASK, ("default", workflow_id, sequence), row, True


def put_session(session_id: str, namespace: str = "default", kind: SessionKind = SessionKind.STREAM) -> Change:
    row = Session(session_id, kind, namespace, "", "worker", ("a",), 1, 0, 10_000, 1)
    return Table.SESSION, (session_id,), row, True


def put_payload(workflow_id: str, number: int, data: bytes) -> Change:
    return Table.PAYLOAD, ("default", workflow_id, number), PayloadRow(data), True


def put_timer(number: int, fire_ms: int = 5) -> Change:
    return Table.TIMER, (number,), Timer(number, fire_ms, TimerKind.WAIT, "default", "w"), True


def put_meta(log_time_ms: int) -> Change:
    return Table.META, (), Meta(log_time_ms=log_time_ms), True


def put_bundle(digest: bytes) -> Change:
    return Table.BUNDLE, (digest,), Bundle(digest, b"{}", 1), True


def gone(change: Change) -> Change:
    return change[0], change[1], None, True


def new(change: Change) -> Change:
    """Of which it is known that there was none before."""
    return *change[:3], False


class Model:
    """What must be stored, in a dict."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Table, RowKey], Row] = {}

    def change(self, changes: Iterable[Change]) -> None:
        for table, key, row, _ in changes:
            if row is None:
                self.rows.pop((table, key), None)
            else:
                self.rows[table, key] = row

    def content_hash(self) -> int:
        hashes = (row_hash(table, key, encode_row(row)) for (table, key), row in self.rows.items())
        return sum(hashes) % (1 << 128)

    def of_execution(self, namespace: str, workflow_id: str) -> dict[tuple[Table, RowKey], Row]:
        return {
            (table, key): row
            for (table, key), row in self.rows.items()
            if table in EXECUTION_TABLES and key[:2] == (namespace, workflow_id)
        }

    def resident(self) -> dict[tuple[Table, RowKey], Row]:
        return {(table, key): row for (table, key), row in self.rows.items() if table not in EXECUTION_TABLES}

    def random_changes(self, dice: random.Random, count: int) -> list[Change]:
        """Changes that an engine could make: children only with their execution, and gone before it."""
        before = dict(self.rows)
        changed: dict[tuple[Table, RowKey], Row | None] = {}
        for _ in range(count):
            workflow_id = f"w{dice.randrange(12)}"
            for change in self._step(dice, workflow_id):
                changed[change[0], change[1]] = change[2]
                self.change([change])
        # That there may have been a row is always a good answer.
        return [(*place, row, place in before or dice.randrange(4) == 0) for place, row in changed.items()]

    def _step(self, dice: random.Random, workflow_id: str) -> list[Change]:
        key = ("default", workflow_id)
        match dice.randrange(8):
            case 0:
                return [(*place, None, True) for place in reversed(list(self.of_execution(*key)))]
            case 1:
                timer = dice.randrange(20)
                return [put_timer(timer, dice.randrange(1000)), put_meta(dice.randrange(1 << 40))]
            case 2:
                return [gone(put_timer(dice.randrange(20)))]
        changes: list[Change] = [self._execution(dice, workflow_id)]
        number = dice.randrange(1, 6)
        changes.append(put_task(workflow_id, number, "r" * dice.randrange(300)))
        if dice.randrange(3) == 0:
            changes.append(put_payload(workflow_id, number, dice.randbytes(dice.randrange(20_000))))
        elif dice.randrange(3) == 0:
            changes.append(gone(put_payload(workflow_id, number, b"")))
        return changes

    def _execution(self, dice: random.Random, workflow_id: str) -> Change:
        known = self.rows.get((Table.EXECUTION, ("default", workflow_id)))
        created = known.created_ms if isinstance(known, Execution) else dice.randrange(1000)
        return put_execution(
            workflow_id, created_ms=created, name=dice.choice(["order", "refund"]),
            status=dice.choice(list(WorkflowStatus)), ended_ms=dice.randrange(2) * 2000,
            compensation=dice.choice(list(CompensationState)), correlation_id=dice.choice(["", "c1"]),
        )


class Journal:
    """The flusher's side of a journal: what is durable in it is moved by the test."""

    def __init__(self, index: int = 1 << 60) -> None:
        self.index = index
        self.asked = asyncio.Event()
        self._moved = asyncio.Event()

    def durable_index(self) -> int:
        return self.index

    async def wait_durable(self, index: int) -> None:
        while self.index < index:
            self.asked.set()
            await self._moved.wait()
            self._moved.clear()

    def move(self, index: int) -> None:
        self.index = index
        self._moved.set()


class Store:
    """A database and its flusher; what they told."""

    def __init__(
        self, path: Path, *, settings: FlusherSettings = PROMPT, journal: Journal | None = None, **options: Any
    ) -> None:
        self.database = Database.open(
            path, cluster_id=options.pop("cluster_id", CLUSTER), settings=SMALL, **options
        )
        self.flushed: list[int] = []
        self.checkpoints: list[tuple[int, int]] = []
        self.errors: list[BaseException] = []
        self.seconds: list[float] = []
        journal = journal or Journal()
        self.flusher = Flusher(
            self.database, durable_index=journal.durable_index, wait_durable=journal.wait_durable,
            on_flushed=self.flushed.append, on_fatal=self.errors.append,
            on_checkpoint=lambda index, content: self.checkpoints.append((index, content)), settings=settings,
            on_flush_seconds=self.seconds.append,
        )
        self.flusher.start()

    def stage(self, changes: Iterable[Change], index: int, *, checkpoint: bool = False) -> None:
        self.flusher.stage(changes, index, 1, b"config", b"chain%d" % index, checkpoint=checkpoint)

    async def close(self) -> None:
        await self.flusher.close()
        await self.database.close()


def scan(database: Database) -> int:
    """The content hash by reading every row."""
    connection = connect(str(database.path), database.vfs)
    try:
        return content_hash(connection)
    finally:
        connection.close()


async def everything(database: Database, model: Model) -> dict[tuple[Table, RowKey], Row]:
    """All rows, read as the applier reads them; `model` names the executions to look for."""
    rows = {(table, key): row for table, key, row in database.load_resident()}
    names = {key[:2] for table, key in model.rows if table in EXECUTION_TABLES}
    names |= {("default", f"w{number}") for number in range(12)}
    for namespace, workflow_id in names:
        loaded = await database.load_execution(str(namespace), str(workflow_id))
        rows.update({(table, key): row for table, key, row in loaded})
    return rows
