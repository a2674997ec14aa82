"""Rows to bytes and back, and the hash of a row.

Canonical: equal rows give equal bytes on every node and in every version. The first byte is the format version.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

from orchestrator.codec.errors import RowCorrupt, RowVersionUnsupported
from orchestrator.engine import blob_rows, messages, model, resident
from orchestrator.engine.encoding import encode_struct
from orchestrator.engine.model import Row, RowKey, Table
from orchestrator.engine.triggers import rows

ROW_FORMAT = 1
HASH_BYTES = 16
HASH_MODULUS = 1 << (8 * HASH_BYTES)

ROW_TYPES: dict[Table, type[Row]] = {
    Table.META: model.Meta,
    Table.EXECUTION: model.Execution,
    Table.TASK: model.TaskAttempt,
    Table.RECORD: model.SagaRecord,
    Table.SIGNAL: model.Signal,
    Table.PAYLOAD: model.PayloadRow,
    Table.TASK_LOG: model.TaskLog,
    Table.EXPANSION: model.Expansion,
    Table.WORKFLOW_DEFINITION: resident.WorkflowDefinitionRow,
    Table.TASK_DEFINITION: resident.TaskDefinitionRow,
    Table.BUNDLE: resident.Bundle,
    Table.SESSION: resident.Session,
    Table.LEASE: resident.Lease,
    Table.READY: resident.Ready,
    Table.TIMER: resident.Timer,
    Table.CLIENT_SESSION: resident.ClientSession,
    Table.REQUEST: resident.Request,
    Table.TASK_RATE: resident.TaskRate,
    Table.IDEMPOTENCY: resident.IdempotencyKey,
    Table.WORKFLOW_GROUP: resident.WorkflowGroup,
    Table.WAITING: resident.WaitingExecution,
    Table.POLLER: resident.Poller,
    Table.SERVICE: resident.ServiceRow,
    Table.SCHEMA: resident.SchemaRow,
    Table.SECRET: resident.SecretRow,
    Table.RETENTION: resident.Retention,
    Table.SCHEDULE: rows.ScheduleRow,
    Table.SCHEDULE_RUN: rows.ScheduleRun,
    Table.SCHEDULED: rows.ScheduledExecution,
    Table.SCHEDULING: rows.Scheduling,
    Table.EVENT_HANDLER: rows.EventHandlerRow,
    Table.EVENT: rows.EventRow,
    Table.EVENT_RUN: rows.EventRun,
    Table.EVENT_SEEN: rows.EventSeen,
    Table.OUTBOX: rows.OwedEvent,
    Table.STREAM: rows.StreamRow,
    Table.AWAITING: rows.AwaitingTask,
    Table.KEPT_EVENT: rows.KeptEvent,
    Table.TRAIL: rows.TrailEntry,
    Table.BLOB: blob_rows.BlobRow,
}
"""All tables but MESSAGE, whose rows are the tagged messages themselves."""

_PREFIX = bytes([ROW_FORMAT])
_NUMBERS = [bytes([number]) for number in range(1 + max(Table))]
_MESSAGE_TYPES: tuple[type[messages.Message], ...] = tuple(messages.Message.__subclasses__())
_DECODERS: dict[Table, msgspec.msgpack.Decoder[Any]] = {
    Table.MESSAGE: msgspec.msgpack.Decoder(messages.AnyMessage),
    **{table: msgspec.msgpack.Decoder(kind) for table, kind in ROW_TYPES.items()},
}
_FIELDS_MAX = {
    Table.MESSAGE: 1 + max(len(msgspec.structs.fields(kind)) for kind in _MESSAGE_TYPES),
    **{table: len(msgspec.structs.fields(kind)) for table, kind in ROW_TYPES.items()},
}
_encode_key = msgspec.msgpack.Encoder().encode
_key_decoder: msgspec.msgpack.Decoder[tuple[Any, ...]] = msgspec.msgpack.Decoder(tuple[Any, ...])


def encode_row(row: Row) -> bytes:
    return _PREFIX + encode_struct(row)


def decode_row(table: Table, data: bytes) -> Any:
    """The row, of the type that `table` holds."""
    if data[:1] != _PREFIX:
        raise RowVersionUnsupported(
            f"a row of {table.name} has format {data[:1].hex() or 'none'}, this version reads format {ROW_FORMAT}: "
            "upgrade this node"
        )
    if _array_length(data, 1) > _FIELDS_MAX[table]:
        # Read on, the unknown fields would be lost with the next write, unseen.
        raise RowVersionUnsupported(f"a row of {table.name} has fields this version does not know: upgrade this node")
    try:
        return _DECODERS[table].decode(memoryview(data)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RowCorrupt(f"not a row of {table.name}: {error}") from error


def encode_key(key: RowKey) -> bytes:
    return _encode_key(key)


def decode_key(data: bytes) -> RowKey:
    try:
        return _key_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RowCorrupt(f"not the key of a row: {error}") from error


def row_hash(table: Table, key: RowKey, data: bytes) -> int:
    """128 bits over table, key and row: the sum of all of them, modulo 2^128, is the content hash."""
    return int.from_bytes(row_digest(table, key, data), "big")


def row_digest(table: Table, key: RowKey, data: bytes) -> bytes:
    """The hash as it is stored with the row."""
    # The encoded key says itself where it ends.
    return blake2b(_NUMBERS[table] + _encode_key(key) + data, digest_size=HASH_BYTES).digest()


def _array_length(data: bytes, offset: int) -> int:
    """The number of elements of the msgpack array at `offset`; -1 if there is none."""
    first = data[offset] if len(data) > offset else 0
    if first & 0xF0 == 0x90:
        return first & 0x0F
    if first == 0xDC:
        return int.from_bytes(data[offset + 1 : offset + 3], "big")
    return -1
