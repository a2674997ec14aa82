"""The follower's side of a snapshot transfer: collect, check, install, then move the log; in that order, durably.

A crash at any point leaves either the old database with the old journal, or the new database, to which the journal
is reset at the next start. A snapshot that is not beyond what is committed here is never installed.

What arrived is kept under the snapshot's identity, also over a restart of this node: the transfer goes on where it was.
What the disk made of it is not trusted: at the end all of it is read back, and the checksum of the whole decides.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.replication.errors import SnapshotUnfit
from orchestrator.replication.files import Files, WritableFile
from orchestrator.replication.frames import SnapshotAck, SnapshotBegin, SnapshotChunk
from orchestrator.replication.ports import SnapshotSink
from orchestrator.replication.state import SyncObj
from orchestrator.replication.worker import Worker, call

logger = logging.getLogger(__name__)
PREFIX = "incoming-"
REREAD_BYTES = 1 << 20
# Synced after so many bytes, so that the end needs no long one and a power loss takes little.
SYNC_EVERY_BYTES = 16 << 20


@dataclass(slots=True)
class Incoming:
    begin: SnapshotBegin
    path: Path
    # Whether it is known what an earlier process left: from then on chunks are taken.
    opened: bool = False
    resumed: bool = False
    # Bytes taken in order, written, and synced.
    expected: int = 0
    written: int = 0
    synced: int = 0
    file: WritableFile | None = None
    chunks: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)


def incoming_name(begin: SnapshotBegin) -> str:
    """Of the file that collects it; the index first."""
    return f"{PREFIX}{begin.index}-{begin.snapshot_term}-{begin.size}-{begin.checksum}"


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
        withdrawn: Callable[[], None],
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
        self._withdrawn = withdrawn
        self._installed = installed
        self._on_error = on_error
        self.incoming: Incoming | None = None
        # What an earlier process received of a snapshot, and its index.
        self._leftover: tuple[int, Path] | None = None
        self._busy = False
        self._task: asyncio.Task[None] | None = None

    def take_stock(self) -> None:
        """Blocking; at start. Keeps the newest of what was begun, for the leader may still have the rest."""
        found: list[tuple[int, Path]] = []
        for name in self._files.listdir(self._directory):
            if name.startswith(PREFIX):
                begins = name.removeprefix(PREFIX).partition("-")[0]
                found.append((int(begins) if begins.isdecimal() else -1, self._directory / name))
        newest = max(found, default=None)
        for index, path in found:
            if (index, path) != newest or index <= self._raft.commit_index:
                self._files.remove(path)
            else:
                self._leftover = (index, path)

    def cancel(self) -> None:
        """The node ends; what was received stays."""
        if self._task is not None:
            self._task.cancel()

    def review(self) -> None:
        """Drops what the log has overtaken."""
        commit_index = self._raft.commit_index
        if self._leftover is not None and self._leftover[0] <= commit_index:
            self._drop_leftover()
        if self.incoming is not None and not self._busy and self.incoming.begin.index <= commit_index:
            self._drop_incoming()

    def _drop_leftover(self) -> None:
        leftover, self._leftover = self._leftover, None
        if leftover is not None:
            self._writer.submit(lambda: self._remove(leftover[1]), self._removed)

    def _drop_incoming(self) -> None:
        incoming, self.incoming = self.incoming, None
        if incoming is not None:
            self.cancel()
            self._discard(incoming)

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
        path = self._directory / incoming_name(message)
        if current is not None and current.path == path:
            # What was received but not yet written would be sent again otherwise.
            if current.opened:
                self._answer(message, current.expected)
            return
        self._drop_incoming()
        if self._leftover is not None and self._leftover[1] != path:
            self._drop_leftover()
        self._leftover = None
        self.incoming = Incoming(message, path)
        self._task = asyncio.get_running_loop().create_task(self._run(self.incoming), name="incoming snapshot")

    def on_chunk(self, message: SnapshotChunk) -> None:
        incoming = self.incoming
        if incoming is None or incoming.begin.checksum != message.checksum or message.offset != incoming.expected:
            return
        if not incoming.opened or not message.data or incoming.expected + len(message.data) > incoming.begin.size:
            return
        settings = self._raft.settings
        window = settings.snapshot_chunk_bytes * settings.snapshot_chunks_in_flight
        if incoming.expected - incoming.written >= 2 * window:
            # The disk stands still, and the leader asked again how much has arrived: it will once more.
            return
        incoming.expected += len(message.data)
        incoming.chunks.put_nowait(message.data)

    async def _run(self, incoming: Incoming) -> None:
        try:
            await self._collect(incoming)
            if await self._is_as_announced(incoming):
                await self._install(incoming)
            elif incoming.resumed:
                logger.warning("node %s: what was left of a snapshot is damaged; it begins anew", self._raft.name)
            else:
                self._refuse(incoming, "its checksum is another")
        except asyncio.CancelledError:
            raise
        except SnapshotUnfit as error:
            self._refuse(incoming, str(error))
        except Exception as error:  # noqa: BLE001 - a disk or database that fails stops the node
            self._on_error(error)
            return
        if self.incoming is incoming:
            self.incoming = None
        self._discard(incoming)

    async def _collect(self, incoming: Incoming) -> None:
        await call(self._writer, lambda: self._open(incoming))
        incoming.expected, incoming.opened = incoming.written, True
        self._answer(incoming.begin, incoming.written)
        while incoming.written < incoming.begin.size:
            data = await incoming.chunks.get()
            await call(self._writer, lambda data=data: self._write(incoming, data))  # type: ignore[misc]  # default binds the loop variable
            self._answer(incoming.begin, incoming.written)
        await call(self._writer, lambda: self._close(incoming))

    async def _is_as_announced(self, incoming: Incoming) -> bool:
        """Reads it piece by piece, since the journal's writes wait meanwhile."""
        digest, read_bytes = hashlib.sha256(), 0
        while read := await call(self._writer, lambda: self._read(incoming, read_bytes, digest)):  # noqa: B023 - run now
            read_bytes += read
        return digest.hexdigest() == incoming.begin.checksum

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
        except SnapshotUnfit:
            self._withdrawn()
            raise
        finally:
            self._busy = False
            self._installing(False)
        logger.info("node %s installed a snapshot of index %d", self._raft.name, begin.index)
        self._answer(begin, begin.size, installed=True)

    def _refuse(self, incoming: Incoming, why: str) -> None:
        logger.error("node %s received a snapshot that is no good (%s); asks for another", self._raft.name, why)
        self._answer(incoming.begin, 0, failed=True)

    def _answer(self, begin: SnapshotBegin, offset: int, *, installed: bool = False, failed: bool = False) -> None:
        leader = self._raft.leader
        if leader is not None and leader != self._raft.name:
            self._raft.send(leader, SnapshotAck(self._raft.term, begin.checksum, offset, installed, failed))

    def _discard(self, incoming: Incoming) -> None:
        def discard() -> None:
            if incoming.file is not None:
                incoming.file.close()
            self._remove(incoming.path)

        self._writer.submit(discard, self._removed)

    def _removed(self, error: BaseException | None) -> None:
        if isinstance(error, OSError):
            self._on_error(error)

    # -- on the writer's thread ------------------------------------------------------------------------------------

    def _open(self, incoming: Incoming) -> None:
        if self._files.exists(incoming.path) and self._files.size(incoming.path) > incoming.begin.size:
            self._files.remove(incoming.path)
        incoming.file = self._files.open_append(incoming.path)
        incoming.written = self._files.size(incoming.path)
        incoming.resumed = incoming.written > 0

    def _write(self, incoming: Incoming, data: bytes) -> None:
        assert incoming.file is not None
        incoming.file.write(data)
        incoming.written += len(data)
        if incoming.written - incoming.synced >= SYNC_EVERY_BYTES:
            incoming.file.fdatasync()
            incoming.synced = incoming.written

    def _close(self, incoming: Incoming) -> None:
        """Durable."""
        assert incoming.file is not None
        incoming.file.fdatasync()
        incoming.file.close()
        self._files.sync_directory(self._directory)

    def _read(self, incoming: Incoming, offset: int, digest: hashlib._Hash) -> int:
        """How many bytes there were from `offset` on, at most a piece."""
        data = self._files.read_at(incoming.path, offset, REREAD_BYTES)
        digest.update(data)
        return len(data)

    def _remove(self, path: Path) -> None:
        if self._files.exists(path):
            self._files.remove(path)
