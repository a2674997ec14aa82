"""Opens journals and hard state the way a node does, on any file layer, for tests of them alone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from orchestrator.replication.files import Files
from orchestrator.replication.hard_state import HardStateFile
from orchestrator.replication.journal import Journal
from orchestrator.replication.worker import DiskQueue, ThreadWorker


class Disk:
    """One journal and one hard state on one queue; errors are kept, as `on_error` would tell them."""

    def __init__(
        self, files: Files, directory: Path, *, segment_bytes: int = 1 << 20, cache_bytes: int = 1 << 20
    ) -> None:
        loop = asyncio.get_running_loop()
        self.errors: list[BaseException] = []
        self.failed = asyncio.Event()
        self.writer = ThreadWorker(loop, "test writer")
        self.reader = ThreadWorker(loop, "test reader")
        self.seconds: list[float] = []
        self.queue = DiskQueue(self.writer, self._error, time.monotonic, self.seconds.append)
        self.durable_moved = 0
        self.journal = Journal(
            files,
            directory,
            self.queue,
            self.reader,
            segment_bytes=segment_bytes,
            cache_bytes=cache_bytes,
            on_durable=self._moved,
        )
        self.hard_state = HardStateFile(files, directory, self.queue, self._moved)
        self.journal.open()

    def _moved(self) -> None:
        self.durable_moved += 1

    def _error(self, error: BaseException) -> None:
        self.errors.append(error)
        self.failed.set()

    def fill(self, first: int, last: int, term: int = 1, size: int = 20) -> None:
        for index in range(first, last + 1):
            self.journal.append(index, term, 0, payload(index, term, size))

    async def read_all(self) -> list[tuple[int, int, bytes]]:
        found: list[tuple[int, int, bytes]] = []
        index = self.journal.first_index
        while index <= self.journal.last_index:
            records = await self.journal.read(index, 1000)
            assert records
            found += [(record.index, record.term, record.data) for record in records]
            index = records[-1].index + 1
        return found

    def close(self) -> None:
        self.writer.close()
        self.reader.close()
        self.journal.close()


def payload(index: int, term: int, size: int = 20) -> bytes:
    return f"{index}/{term}:".encode().ljust(size, b".")
