"""The door for payloads that are too large for the log: their largest values go to a store before the command does.

Commands are looked at where they are submitted, so that no way in is forgotten. ``whole`` is the way out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple, cast

import grpc
from msgspec.structs import replace

from orchestrator.engine import commands
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.blob_commands import HeldBlob, HoldBlobs
from orchestrator.engine.blob_rows import BlobRow
from orchestrator.engine.blobs import KEY, BlobRef, NothingToTakeOut, externalise, has_reserved_key
from orchestrator.engine.commands import AnyCommand, CompleteTask, RequestIdentity
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX, PayloadInvalid, check_json, is_json_object
from orchestrator.engine.model import Table, TaskStatus
from orchestrator.engine.results import AnyResult, BlobsHeld, Judged, Rejected, Verdict
from orchestrator.engine.state import State
from orchestrator.file_watch import OffLoop
from orchestrator.integrations.blobs.store import BlobCorrupt, BlobFailure, StoreUnavailable
from orchestrator.rpc.blob_access import BlobAccess
from orchestrator.rpc.errors import RpcFailure, invalid, rejected

logger = logging.getLogger(__name__)

# Values, the newest, that are looked at for where they are.
_LATELY: Final = 100
UNAVAILABLE: Final = "BLOB_STORE_UNAVAILABLE"
DELETED: Final = "BLOB_BEING_DELETED"
RETRY_AFTER_MS: Final = 1_000
# What refers to a value that is just being deleted is put again, so often.
TRIES: Final = 5
# How long to wait for a deletion to end before the next try.
AGAIN_SECONDS: Final = 0.2

FIELDS: Final[dict[type[Any], tuple[str, ...]]] = {
    commands.StartWorkflow: ("input",),
    commands.SignalWorkflow: ("payload",),
    commands.PushMessage: ("payload",),
    commands.UpdateVariables: ("variables",),
    commands.UpdateTask: ("output",),
    commands.RerunWorkflow: ("task_input", "workflow_input"),
    commands.SkipTask: ("output",),
    commands.CompleteTask: ("output",),
}
"""The payloads of each command that may be large."""

Fit = Callable[[CompleteTask], CompleteTask]
Submit = Callable[[AnyCommand, RequestIdentity | None], Awaitable[AnyResult]]


class Sizes(NamedTuple):
    """How large a payload may be, in bytes, and what to do about one that is larger."""

    bytes_max: int = PAYLOAD_BYTES_MAX
    advice: str = ""


INLINE: Final = Sizes()
NO_STORE: Final = Sizes(PAYLOAD_BYTES_MAX, "larger ones need a store outside the log: the setting blob_store")
_LEVEL_TOO_LOW: Final = Sizes(PAYLOAD_BYTES_MAX, f"larger ones need behaviour level {STREAMS}: cluster raise-behaviour")


class LargePayloads:
    """`access`: None on a node without a store; `submit` puts a command into the log as it is."""

    def __init__(
        self, access: BlobAccess | None, submit: Submit, state: Callable[[], State], off_loop: OffLoop
    ) -> None:
        self._access = access
        self._submit = submit
        self._state = state
        self._off_loop = off_loop
        self._told: set[str] = set()  # stores

    @property
    def sizes(self) -> Sizes:
        """Of a payload that comes in now."""
        if self._access is None:
            return NO_STORE
        if self._state().meta.behaviour_level < STREAMS:
            return _LEVEL_TOO_LOW
        return Sizes(self._access.bytes_max)

    @property
    def bytes_max(self) -> int:
        """Of a payload that goes out, whole."""
        return PAYLOAD_BYTES_MAX if self._access is None else self._access.bytes_max

    # --- in

    def submit(self, command: AnyCommand, identity: RequestIdentity | None) -> Awaitable[AnyResult]:
        """As the log's own, whatever is in the command."""
        if not _large_fields(command):
            return self._submit(command, identity)
        return self._submit_large(command, identity)

    def submit_result(self, command: CompleteTask, fit: Fit, *, waits: bool) -> Awaitable[AnyResult]:
        """What a worker reports. `fit` takes out of a valid output what must not be in it.

        `waits`: a store that is away holds it up, and the caller does nothing else meanwhile.
        """
        if not _large_fields(command):
            return self._submit(fit(command), None)
        return self._submit_large_result(command, fit, waits)

    async def _submit_large_result(self, command: CompleteTask, fit: Fit, waits: bool) -> AnyResult:
        try:
            await self.check("result.output", command.output)
        except RpcFailure as failure:
            return await self._fail(fit(replace(command, output=b"{}")), failure.message)
        # Looking for values in megabytes takes long.
        fitted = await self._off_loop(partial(fit, command))
        while True:
            try:
                return await self.submit(fitted, None)
            except RpcFailure as failure:
                if not waits or failure.reason not in (UNAVAILABLE, DELETED):
                    raise
            await asyncio.sleep(RETRY_AFTER_MS / 1000)
            lease = self._state().leases.get((command.fencing_token,))
            if lease is None or lease.fenced:
                # Whatever it was, it counts no more.
                return await self._submit(replace(fitted, output=b""), None)

    async def check(self, field: str, text: bytes) -> None:
        """Of a payload that is too large for the log. Raises RpcFailure unless it is a valid one."""
        try:
            await self._off_loop(partial(_check, text))
        except PayloadInvalid as error:
            raise invalid(field, str(error), error.limit) from None

    async def _submit_large(self, command: AnyCommand, identity: RequestIdentity | None) -> AnyResult:
        result: AnyResult | None = None
        for _ in range(TRIES):
            try:
                fitted = await self._fitted(command)
            except RpcFailure as failure:
                if isinstance(command, CompleteTask) and failure.code is grpc.StatusCode.INVALID_ARGUMENT:
                    return await self._fail(command, failure.message)
                raise
            if fitted is not None:
                result = await self._submit(fitted, identity)
                if not (isinstance(result, Rejected) and result.reason == DELETED):
                    return result
            # Somebody deletes it just now; when that is done it is put anew.
            await asyncio.sleep(AGAIN_SECONDS)
        message = "a value of the payload is being deleted from the store, where nothing had used it: try again"
        raise RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, DELETED, message, retry_after_ms=RETRY_AFTER_MS)

    async def _fitted(self, command: AnyCommand) -> AnyCommand | None:
        """The command with its values in the store; None if one of them is being deleted. Raises RpcFailure."""
        sizes, access = self.sizes, self._access
        changed: dict[str, bytes] = {}
        for field in _large_fields(command):
            text: bytes = getattr(command, field)
            if access is None or len(text) > sizes.bytes_max:
                raise too_large(field, len(text), sizes)
            try:
                store_id = await access.prepared_id()
                self._look_for_others(store_id)
                payload, contents = await self._off_loop(partial(_cut, text, store_id))
                if not await self._hold(contents):
                    return None
                await access.put(contents)
            except (PayloadInvalid, NothingToTakeOut) as error:
                raise invalid(field, str(error), getattr(error, "limit", "")) from None
            except BlobFailure as failure:
                raise unavailable(failure) from failure
            changed[field] = payload
        return replace(command, **changed)

    def _look_for_others(self, store_id: str) -> None:
        """Says it, once for each, if other nodes put values into another store, lately."""
        rows = cast(Iterable[BlobRow], reversed(self._state().resident[Table.BLOB].values()))
        for other in sorted({row.store for row in islice(rows, _LATELY)} - self._told - {store_id}):
            self._told.add(other)
            advice = "the values of each can't be read by nodes with the other: are all nodes configured alike?"
            logger.warning("large payloads are in the store %s here, and others in %s: %s", store_id, other, advice)

    async def _hold(self, contents: Iterable[BlobRef]) -> bool:
        """Whether all may be put."""
        held = await self._submit(HoldBlobs(tuple(HeldBlob(ref.store, ref.sha256, ref.size) for ref in contents)), None)
        if isinstance(held, Rejected):
            raise rejected(held)
        if not isinstance(held, BlobsHeld):
            raise TypeError(f"HoldBlobs answered {type(held).__name__}")
        return not held.doomed

    async def _fail(self, command: CompleteTask, why: str) -> AnyResult:
        """The worker would only say the same again: its attempt fails for good, and says why."""
        was_done = command.status in (TaskStatus.COMPLETED, TaskStatus.IN_PROGRESS)
        failed = replace(
            command,
            status=TaskStatus.FAILED_WITH_TERMINAL_ERROR,
            output=b"{}",
            reason=why,
            outcome_unknown=command.outcome_unknown or was_done,
        )
        result = await self._submit(failed, None)
        is_accepted = isinstance(result, Judged) and result.verdict is Verdict.ACCEPTED
        return Judged(Verdict.INVALID, why) if is_accepted else result

    # --- out

    async def contents(self, refs: Iterable[BlobRef]) -> dict[BlobRef, bytes]:
        """The values. Raises BlobMissing, BlobCorrupt and StoreUnavailable."""
        if self._access is None:
            wanted = next(iter(refs), None)
            if wanted is None:
                return {}
            raise StoreUnavailable(f"this node has no store (blob_store), and the value {wanted.sha256} is in one")
        return await self._access.get(refs)

    async def close(self) -> None:
        if self._access is not None:
            await self._access.close()


def _large_fields(command: AnyCommand) -> tuple[str, ...]:
    fields = FIELDS.get(type(command), ())
    return tuple(field for field in fields if is_large(getattr(command, field)))


def is_large(text: bytes) -> bool:
    """Whether the payload is too large for the log, and nobody has looked at it when it came."""
    return len(text) > PAYLOAD_BYTES_MAX


def _cut(text: bytes, store_id: str) -> tuple[bytes, dict[BlobRef, bytes]]:
    """Raises PayloadInvalid, NothingToTakeOut."""
    _check(text)
    return externalise(text, store_id, PAYLOAD_BYTES_MAX)


def _check(text: bytes) -> None:
    check_json(text)
    if not is_json_object(text):
        raise PayloadInvalid("it is not a JSON object")
    if has_reserved_key(text):
        raise PayloadInvalid(f"the key {KEY!r} is reserved")


def too_large(field: str, size: int, sizes: Sizes) -> RpcFailure:
    advice = f"; {sizes.advice}" if sizes.advice else ""
    return invalid(field, f"it has {size} bytes, the limit is {sizes.bytes_max}{advice}", "payload_bytes")


def unavailable(failure: BlobFailure) -> RpcFailure:
    """What could not be put, or not be read for now; nothing has changed."""
    if isinstance(failure, StoreUnavailable):
        message = f"the store of large values is unavailable: {failure}"
        return RpcFailure(
            grpc.StatusCode.UNAVAILABLE, "BLOB_STORE_UNAVAILABLE", message, retry_after_ms=RETRY_AFTER_MS)
    message = f"a large value can't be shown: {failure}"
    if isinstance(failure, BlobCorrupt):
        return RpcFailure(grpc.StatusCode.DATA_LOSS, "BLOB_CORRUPT", message)
    return RpcFailure(grpc.StatusCode.DATA_LOSS, "BLOB_MISSING", message)
