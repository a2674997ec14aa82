"""The leader's side of a snapshot transfer: one copy of the database, streamed to one follower, resumable.

A transfer names its snapshot by (index, term, size, checksum) and pins it, with the journal after it, until the
follower stands at its index or the transfer ends. One that is out of reach for too long ends it: it begins anew later.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import sleep
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.replication.files import Files
from orchestrator.replication.frames import SnapshotAck, SnapshotBegin, SnapshotChunk
from orchestrator.replication.ports import SnapshotCopy, SnapshotSource
from orchestrator.replication.state import SyncObj
from orchestrator.replication.worker import Worker, call

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Transfer:
    peer: str
    copy: SnapshotCopy | None = None
    sent: int = 0
    # None until the follower said how much it has.
    acked: int | None = None
    installed: bool = False
    failed: bool = False
    # `wait_for` may swallow a cancellation that comes together with what it waits for.
    given_up: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class SnapshotSender:
    def __init__(
        self,
        raft: SyncObj,
        source: SnapshotSource,
        files: Files,
        reader: Worker,
        done: Callable[[str, int | None], None],
    ) -> None:
        self._raft = raft
        self._source = source
        self._files = files
        self._reader = reader
        self._done = done
        self.transfers: dict[str, Transfer] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # A follower refused the last copy: the next one is read whole before it is sent.
        self._doubtful = False

    def start(self, name: str) -> None:
        if name not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._run(name), name=f"snapshot to {name}")
            self._tasks[name] = task

    def pinned_index(self) -> int | None:
        """The journal after it is needed by a transfer; 0 while a copy is being made, whose index is not known yet."""
        pins = [transfer.copy.index if transfer.copy else 0 for transfer in self.transfers.values()]
        return min(pins, default=None)

    def give_up(self, name: str) -> None:
        """The peer is gone, or another one by the same name."""
        if (transfer := self.transfers.get(name)) is not None:
            transfer.given_up = True
        if (task := self._tasks.get(name)) is not None:
            task.cancel()

    def cancel(self) -> None:
        for name in list(self._tasks):
            self.give_up(name)

    def on_ack(self, name: str, message: SnapshotAck) -> None:
        """Only answers of the current term get here."""
        self._raft.contacted(name)
        transfer = self.transfers.get(name)
        if transfer is None or transfer.copy is None or transfer.copy.checksum != message.checksum:
            return
        transfer.installed = transfer.installed or message.installed
        transfer.failed = transfer.failed or message.failed
        if transfer.acked is None:
            transfer.sent = message.offset
        transfer.acked = message.offset
        transfer.changed.set()

    async def _run(self, name: str) -> None:
        transfer = self.transfers[name] = Transfer(name)
        index: int | None = None
        began = self._raft.clock.monotonic()
        try:
            transfer.copy = await self._source.copy(check=self._doubtful)
            logger.info(
                "node %s sends a snapshot of index %d (%d bytes) to %s",
                self._raft.name,
                transfer.copy.index,
                transfer.copy.size,
                name,
            )
            await self._stream(transfer, transfer.copy)
            self._doubtful = transfer.failed
            if transfer.failed:
                await self._pause(began)
            index = transfer.copy.index if transfer.installed else None
        except asyncio.CancelledError:
            raise
        except Exception:
            # A copy that cannot be made or read harms one follower; the leader goes on, and tries again.
            logger.exception("node %s could not send a snapshot to %s", self._raft.name, name)
            await self._pause(began)
        finally:
            del self.transfers[name]
            del self._tasks[name]
            self._done(name, index)
            if transfer.copy is not None:
                self._release(transfer.copy)

    async def _pause(self, began: float) -> None:
        """As long as the attempt took, for the next one may come to nothing, too."""
        settings = self._raft.settings
        took_ms = (self._raft.clock.monotonic() - began) * 1000
        await sleep(min(max(took_ms, settings.redial_max_ms), settings.snapshot_patience_ms) / 1000)

    def _release(self, copy: SnapshotCopy) -> None:
        try:
            copy.release()
        except OSError:
            # It takes room until the next start, and that is all.
            logger.exception("node %s could not remove the copy %s", self._raft.name, copy.path)

    async def _stream(self, transfer: Transfer, copy: SnapshotCopy) -> None:
        settings = self._raft.settings
        window = settings.snapshot_chunk_bytes * settings.snapshot_chunks_in_flight
        reached_at = self._raft.clock.monotonic()
        while not transfer.installed and not transfer.failed and not transfer.given_up:
            if self._raft.connected(transfer.peer):
                reached_at = self._raft.clock.monotonic()
            else:
                transfer.acked = None
                if self._raft.clock.monotonic() - reached_at > settings.snapshot_patience_ms / 1000:
                    # A dead follower must not fill this node's disk with a copy, and the journal after it.
                    logger.warning("node %s gives up a snapshot: %s can't be reached", self._raft.name, transfer.peer)
                    return
            if transfer.acked is None:
                self._raft.send(
                    transfer.peer,
                    SnapshotBegin(self._raft.term, copy.index, copy.term, copy.size, copy.checksum, copy.configuration),
                )
            elif transfer.sent < copy.size and transfer.sent - transfer.acked < window:
                await self._send_chunk(transfer, copy)
                continue
            transfer.changed.clear()
            try:
                await asyncio.wait_for(transfer.changed.wait(), settings.election_timeout_max_ms / 1000)
            except TimeoutError:
                # Silence: ask how much arrived and go on from there.
                transfer.acked = None

    async def _send_chunk(self, transfer: Transfer, copy: SnapshotCopy) -> None:
        offset = transfer.sent
        size = min(self._raft.settings.snapshot_chunk_bytes, copy.size - offset)
        data = await call(self._reader, lambda: self._files.read_at(copy.path, offset, size))
        if len(data) != size:
            raise OSError(f"the snapshot {copy.path} is shorter than the {copy.size} bytes it was announced with")
        if transfer.sent == offset and transfer.acked is not None:
            self._raft.send(transfer.peer, SnapshotChunk(self._raft.term, copy.checksum, offset, data))
            transfer.sent = offset + size
