"""Values that are kept outside the log: held, to be deleted, gone. See `blob_commands`."""

from __future__ import annotations

import re
from typing import Final, cast

from msgspec.structs import replace

from orchestrator.engine import limits
from orchestrator.engine.blob_commands import BlobsDeleted, DeleteBlobs, HeldBlob, HoldBlobs
from orchestrator.engine.blob_rows import BlobRow, BlobState
from orchestrator.engine.blob_uses import put, row_of
from orchestrator.engine.blobs import is_store_id
from orchestrator.engine.errors import refuse
from orchestrator.engine.model import Table
from orchestrator.engine.results import AnyResult, BlobsHeld, Code, Done
from orchestrator.engine.step import Step

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def hold_blobs(step: Step, command: HoldBlobs) -> AnyResult:
    """Those that are being deleted can't be held: the answer says which."""
    if len(command.blobs) > limits.BLOBS_PER_COMMAND:
        message = f"at most {limits.BLOBS_PER_COMMAND} values are held at a time"
        refuse(Code.INVALID_ARGUMENT, "INVALID_FIELD", message, field="blobs")
    doomed = []
    for position, blob in enumerate(command.blobs):
        number = step.state.blobs.number_of(blob.store, blob.sha256)
        row = row_of(step.state, number) if number else None
        if row is None:
            _make(step, blob)
        elif row.state is not BlobState.LIVE:
            doomed.append(position)
        elif not row.uses:
            put(step, replace(row, changed_ms=step.now))
    return BlobsHeld(tuple(doomed))


def _make(step: Step, blob: HeldBlob) -> None:
    if not is_store_id(blob.store) or not _SHA256.fullmatch(blob.sha256) or not 0 <= blob.size <= limits.BLOB_BYTES:
        refuse(Code.INVALID_ARGUMENT, "INVALID_FIELD", f"{blob} names no value in a store", field="blobs")
    if len(step.state.resident[Table.BLOB]) >= limits.BLOBS:
        message = f"the cluster keeps {limits.BLOBS} values outside the log, which is as many as it may"
        refuse(Code.RESOURCE_EXHAUSTED, "BLOBS_FULL", message, limit="blobs")
    meta = step.meta
    number = meta.next_blob
    meta.next_blob = number + 1
    put(step, BlobRow(number, blob.store, blob.sha256, blob.size, BlobState.LIVE, changed_ms=step.now))


def delete_blobs(step: Step, command: DeleteBlobs) -> AnyResult:
    oldest = min((cast(int, key[0]) for key in step.state.messages), default=None)
    for number in command.numbers[: limits.BLOBS_PER_COMMAND]:
        row = row_of(step.state, number)
        if row is None or row.state is not BlobState.LIVE or row.uses:
            continue
        if row.changed_ms + limits.BLOB_UNUSED_MS > step.now:
            continue
        if oldest is not None and oldest < row.behind:
            # It may refer to the value, and who gets it would.
            continue
        put(step, replace(row, state=BlobState.DELETING, changed_ms=step.now, behind=0))
    return Done()


def blobs_deleted(step: Step, command: BlobsDeleted) -> AnyResult:
    for number in command.numbers[: limits.BLOBS_PER_COMMAND]:
        row = row_of(step.state, number)
        if row is not None and row.state is BlobState.DELETING:
            step.write(Table.BLOB, (number,), None)
    return Done()
