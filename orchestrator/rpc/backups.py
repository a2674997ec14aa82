"""ClusterService.Backup: a copy of this node's database, piece by piece, as fast as it is read or asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import google_crc32c
import grpc
import msgspec

from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import RpcFailure, unimplemented
from orchestrator.storage.backup_file import BackupHeader
from orchestrator_api.v1 import cluster_pb2 as pb

# How long a node that lags may take until it has what is asked for.
BEHIND_SECONDS = 30.0
# Who takes no piece for so long is gone, or stopped: the copy takes room on this node's disk meanwhile.
STALLED_SECONDS = 60.0


async def backup_parts(backend: Backend, request: pb.BackupRequest) -> AsyncGenerator[pb.BackupResponse, None]:
    """Header, chunks and trailer. Raises RpcFailure, and the errors of the database."""
    if backend.backups is None:
        raise unimplemented("backup", "this node makes no backups")
    await _wait_applied(backend, max(1, request.index_min))
    async with backend.backups.open() as backup:
        patience, pace = _Patience(), _Pace(request.bytes_per_second_max)
        with patience:
            yield pb.BackupResponse(header=_header(backup.header))
        offset = 0
        async for piece in backup.pieces():
            with patience:
                chunk = pb.BackupChunk(offset=offset, data=piece, crc32c=google_crc32c.value(piece))
                yield pb.BackupResponse(chunk=chunk)
            offset += len(piece)
            await pace.after(offset)
        with patience:
            yield pb.BackupResponse(trailer=pb.BackupTrailer(sha256=backup.sha256))


async def _wait_applied(backend: Backend, index: int) -> None:
    try:
        async with asyncio.timeout(BEHIND_SECONDS):
            await backend.wait_applied(index)
    except TimeoutError:
        message = f"this node has applied {backend.applied_index()} entries of the {index} that are asked for"
        raise RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "NODE_BEHIND", message) from None


def _header(header: BackupHeader) -> pb.BackupHeader:
    facts = msgspec.structs.asdict(header)
    return pb.BackupHeader(**facts | {"content_hash": bytes.fromhex(header.content_hash)})


class _Patience:
    """Ends the call when what it gives is not taken: somebody may have stopped, and not gone."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._limit: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        if self._task is not None:
            self._limit = asyncio.get_running_loop().call_later(STALLED_SECONDS, self._task.cancel)

    def __exit__(self, *_: object) -> None:
        if self._limit is not None:
            self._limit.cancel()


class _Pace:
    """Not faster than so many bytes a second, counted from the beginning; 0: as fast as it goes."""

    def __init__(self, bytes_per_second: int) -> None:
        self._bytes_per_second = bytes_per_second
        self._began = asyncio.get_running_loop().time()

    async def after(self, sent_bytes: int) -> None:
        if self._bytes_per_second:
            due = self._began + sent_bytes / self._bytes_per_second
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
