"""Deletes values outside the log that nothing has used for long enough.

Which version of each is there is looked up before the log says that it is being deleted; only what is found so after
that is deleted, and only in that version. So a leader that wakes up late, when another has deleted the value and
somebody has put it again, finds another version and leaves it alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from orchestrator.engine import limits
from orchestrator.engine.blob_commands import BlobsDeleted, DeleteBlobs
from orchestrator.engine.blob_rows import BlobRow, BlobState
from orchestrator.engine.blob_uses import row_of
from orchestrator.engine.blobs import BlobRef
from orchestrator.engine.commands import AnyCommand
from orchestrator.engine.results import Rejected
from orchestrator.integrations.blobs.store import BlobFailure, BlobStore
from orchestrator.services.ports import CurrentMachine, Submit

logger = logging.getLogger(__name__)

ROUND_SECONDS = 30.0
PER_COMMAND = 100


class BlobCollector:
    """A leader's. `log_time_ms`: now."""

    def __init__(
        self,
        submit: Submit,
        machine: CurrentMachine,
        store: BlobStore,
        log_time_ms: Callable[[], int],
        on_failure: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._submit = submit
        self._machine = machine
        self._store = store
        self._log_time_ms = log_time_ms
        self._on_failure = on_failure
        self._told = ""

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            while await self.round():
                pass

    async def round(self) -> bool:
        """Deletes what may go, as much as one command takes; whether there may be more."""
        blobs = self._machine().state.blobs
        if not (blobs.unused or blobs.doomed_numbers()):
            return False
        try:
            await self._store.prepare()
            gone = await self._delete(self._due(self._store.store_id))
        except BlobFailure as failure:
            self._on_failure(type(failure).__name__)
            if str(failure) != self._told:
                logger.warning("values that nothing uses are not deleted: %s", failure)
            self._told = str(failure)
            return False
        self._told = ""
        return gone == PER_COMMAND

    def _due(self, store_id: str) -> list[BlobRow]:
        """Of this store: what is to be deleted, or may be."""
        state = self._machine().state
        before_ms = self._log_time_ms() - limits.BLOB_UNUSED_MS
        rows = []
        for number in (*state.blobs.doomed_numbers(), *state.blobs.unused_numbers()):
            row = row_of(state, number)
            if row is None or row.store != store_id:
                continue
            if row.state is BlobState.DELETING or row.changed_ms <= before_ms:
                rows.append(row)
                if len(rows) == PER_COMMAND:
                    break
        return rows

    async def _delete(self, rows: list[BlobRow]) -> int:
        """How many are gone. Raises BlobFailure."""
        if not rows:
            return 0
        found = [(row, ref, await self._store.version(ref)) for row in rows for ref in [_ref(row)]]
        await self._said(DeleteBlobs(tuple(row.number for row in rows)))
        gone = []
        for row, ref, version in found:
            now = row_of(self._machine().state, row.number)
            if now is None or now.state is not BlobState.DELETING:
                continue
            if version:
                await self._store.delete(ref, version)
            gone.append(row.number)
        if gone:
            await self._said(BlobsDeleted(tuple(gone)))
            logger.info("values that nothing used are deleted", extra={"values": len(gone)})
        return len(gone)

    async def _said(self, command: AnyCommand) -> None:
        result = await self._submit(command)
        if isinstance(result, Rejected):
            raise RuntimeError(f"{type(command).__name__} was refused: {result.message}")


def _ref(row: BlobRow) -> BlobRef:
    return BlobRef(row.store, row.sha256, row.size)
