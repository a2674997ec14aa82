"""ClusterService.Backup: a copy of this node's database, piece by piece, as fast as it is read or asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

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

Write = Callable[[pb.BackupResponse], Awaitable[None]]


async def send_backup(backend: Backend, request: pb.BackupRequest, write: Write) -> None:
    """Header, chunks and trailer. Raises RpcFailure, and the errors of the database."""
    if backend.backups is None:
        raise unimplemented("backup", "this node makes no backups")
    await _wait_applied(backend, max(1, request.index_min))
    async with backend.backups.open() as backup:
        await _write(write, pb.BackupResponse(header=_header(backup.header)))
        pace = _Pace(request.bytes_per_second_max)
        offset = 0
        async for piece in backup.pieces():
            chunk = pb.BackupChunk(offset=offset, data=piece, crc32c=google_crc32c.value(piece))
            await _write(write, pb.BackupResponse(chunk=chunk))
            offset += len(piece)
            await pace.after(offset)
        await _write(write, pb.BackupResponse(trailer=pb.BackupTrailer(sha256=backup.sha256)))


async def _wait_applied(backend: Backend, index: int) -> None:
    try:
        async with asyncio.timeout(BEHIND_SECONDS):
            await backend.wait_applied(index)
    except TimeoutError:
        message = f"this node has applied {backend.applied_index()} entries of the {index} that are asked for"
        raise RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "NODE_BEHIND", message) from None


async def _write(write: Write, response: pb.BackupResponse) -> None:
    try:
        async with asyncio.timeout(STALLED_SECONDS):
            await write(response)
    except TimeoutError:
        message = f"nobody took a piece of the backup for {STALLED_SECONDS:.0f} s"
        raise RpcFailure(grpc.StatusCode.ABORTED, "BACKUP_STALLED", message) from None


def _header(header: BackupHeader) -> pb.BackupHeader:
    facts = msgspec.structs.asdict(header)
    return pb.BackupHeader(**facts | {"content_hash": bytes.fromhex(header.content_hash)})


class _Pace:
    """Not faster than so many bytes a second, counted from the beginning; 0: as fast as it goes."""

    def __init__(self, bytes_per_second: int) -> None:
        self._bytes_per_second = bytes_per_second
        self._began = asyncio.get_running_loop().time()

    async def after(self, sent_bytes: int) -> None:
        if self._bytes_per_second:
            due = self._began + sent_bytes / self._bytes_per_second
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
