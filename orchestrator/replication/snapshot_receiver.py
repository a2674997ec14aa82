"""The follower's side of a snapshot transfer: collect, check, install, then move the log; in that order, durably.

A crash at any point leaves either the old database with the old journal, or the new database, to which the journal
is reset at the next start. A snapshot that is not beyond what is committed here is never installed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.replication.files import Files, WritableFile
from orchestrator.replication.frames import SnapshotAck, SnapshotBegin, SnapshotChunk
from orchestrator.replication.ports import SnapshotSink
from orchestrator.replication.state import SyncObj
from orchestrator.replication.worker import Worker, call

logger = logging.getLogger(__name__)
PREFIX = "incoming-"


@dataclass(slots=True)
class Incoming:
    begin: SnapshotBegin
    path: Path
    # Bytes taken in order, and bytes written.
    expected: int = 0
    written: int = 0
    file: WritableFile | None = None
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    chunks: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)


class SnapshotReceiver:
    def __init__(
        self,
        raft: SyncObj,
        sink: SnapshotSink,
        files: Files,
        directory: Path,
        writer: Worker,
        *,
        installing: Callable[[bool], None],
        preparing: Callable[[int, int], Awaitable[None]],
        installed: Callable[[int, int, bytes], Awaitable[None]],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._raft = raft
        self._sink = sink
        self._files = files
        self._directory = directory
        self._writer = writer
        self._installing = installing
        self._preparing = preparing
        self._installed = installed
        self._on_error = on_error
        self.incoming: Incoming | None = None
        self._busy = False
        self._task: asyncio.Task[None] | None = None

    def remove_leftovers(self) -> None:
        """Blocking; at start."""
        for name in self._files.listdir(self._directory):
            if name.startswith(PREFIX):
                self._files.remove(self._directory / name)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def on_begin(self, message: SnapshotBegin) -> None:
        raft = self._raft
        if message.index <= raft.commit_index:
            # Until it is durable too, silence: the leader asks again.
            if message.index <= raft.journal.durable_index:
                self._answer(message, message.size, installed=True)
            return
        if self._busy:
            return
        current = self.incoming
        if current is not None and current.begin.checksum == message.checksum and current.begin.index == message.index:
            # What was received but not yet written would be sent again otherwise.
            self._answer(message, current.expected)
            return
        self.cancel()
        path = self._directory / f"{PREFIX}{message.index}-{message.checksum[:16]}"
        self.incoming = Incoming(message, path)
        self._task = asyncio.get_running_loop().create_task(self._run(self.incoming), name="incoming snapshot")

    def on_chunk(self, message: SnapshotChunk) -> None:
        incoming = self.incoming
        if incoming is None or incoming.begin.checksum != message.checksum or message.offset != incoming.expected:
            return
        if not message.data or incoming.expected + len(message.data) > incoming.begin.size:
            return
        incoming.expected += len(message.data)
        incoming.chunks.put_nowait(message.data)

    async def _run(self, incoming: Incoming) -> None:
        try:
            await call(self._writer, lambda: self._open(incoming))
            self._answer(incoming.begin, 0)
            while incoming.written < incoming.begin.size:
                data = await incoming.chunks.get()
                await call(self._writer, lambda data=data: self._write(incoming, data))  # type: ignore[misc]  # default binds the loop variable
                self._answer(incoming.begin, incoming.written)
            if not await call(self._writer, lambda: self._close(incoming)):
                logger.error("node %s received a snapshot with a wrong checksum; asking for another", self._raft.name)
                self._answer(incoming.begin, 0, failed=True)
                return
            await self._install(incoming)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a disk or database that fails stops the node
            self._on_error(error)
        finally:
            if self.incoming is incoming:
                self.incoming = None
            self._writer.submit(lambda: self._remove(incoming), lambda error: None)

    async def _install(self, incoming: Incoming) -> None:
        begin = incoming.begin
        if begin.index <= self._raft.commit_index:  # the log has overtaken it
            return
        self._busy = True
        self._installing(True)
        try:
            await self._preparing(begin.index, begin.snapshot_term)
            await self._sink.install(incoming.path, begin.index, begin.snapshot_term)
            await self._installed(begin.index, begin.snapshot_term, begin.configuration)
        finally:
            self._busy = False
            self._installing(False)
        logger.info("node %s installed a snapshot of index %d", self._raft.name, begin.index)
        self._answer(begin, begin.size, installed=True)

    def _answer(self, begin: SnapshotBegin, offset: int, *, installed: bool = False, failed: bool = False) -> None:
        leader = self._raft.leader
        if leader is not None and leader != self._raft.name:
            self._raft.send(leader, SnapshotAck(self._raft.term, begin.checksum, offset, installed, failed))

    # -- on the writer's thread ------------------------------------------------------------------------------------

    def _open(self, incoming: Incoming) -> None:
        if self._files.exists(incoming.path):
            self._files.remove(incoming.path)
        incoming.file = self._files.open_append(incoming.path)

    def _write(self, incoming: Incoming, data: bytes) -> None:
        assert incoming.file is not None
        incoming.file.write(data)
        incoming.digest.update(data)
        incoming.written += len(data)

    def _close(self, incoming: Incoming) -> bool:
        """Durable, and whether it is what was announced."""
        assert incoming.file is not None
        incoming.file.fdatasync()
        incoming.file.close()
        self._files.sync_directory(self._directory)
        return incoming.digest.hexdigest() == incoming.begin.checksum

    def _remove(self, incoming: Incoming) -> None:
        if incoming.file is not None:
            incoming.file.close()
        if self._files.exists(incoming.path):
            self._files.remove(incoming.path)
