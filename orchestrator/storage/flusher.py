"""Writes staged rows to the database in the background, in order, never ahead of the node's own journal.

`flushed_index` is durable in the database: the journal may be cut below it. Batches that wait are merged into one
transaction; a batch that is a checkpoint ends its transaction, so that the content hash at its index is known.
The first error is final: it goes to `on_fatal`, and nothing is written after it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from orchestrator.storage.database import Database
from orchestrator.storage.errors import StorageClosed
from orchestrator.storage.schema import Applied
from orchestrator.storage.staged import Batch, Change, make_batch


@dataclass(frozen=True)
class FlusherSettings:
    interval_ms: int = 1_000  # between transactions: the longer, the more changes of one row become one write
    gap_ms: int = 50  # between transactions that somebody waits for
    hurry_bytes: int = 8 << 20  # with so much staged, transactions follow each other
    transaction_bytes_max: int = 16 << 20
    dirty_bytes_max: int = 256 << 20  # `wait_room` waits above it


class Flusher:
    def __init__(
        self, database: Database, *, durable_index: Callable[[], int], wait_durable: Callable[[int], Awaitable[None]],
        on_flushed: Callable[[int], None], on_fatal: Callable[[BaseException], None],
        on_checkpoint: Callable[[int, int], None] = lambda index, content_hash: None,
        settings: FlusherSettings | None = None,
        on_flush_seconds: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.database = database
        self._durable_index = durable_index
        self._wait_durable = wait_durable
        self._on_flushed = on_flushed
        self._on_fatal = on_fatal
        self._on_checkpoint = on_checkpoint
        self._on_flush_seconds = on_flush_seconds
        self._settings = settings or FlusherSettings()
        self._pending: deque[Batch] = deque()
        self._dirty_bytes = 0
        self._staged_index = self._flushed_index = database.applied().index
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._work = asyncio.Event()
        self._wanted = asyncio.Event()  # somebody waits
        self._room = asyncio.Event()
        self._room.set()
        self._hurry = False
        self._failure: BaseException | None = None
        self._writing = asyncio.Lock()
        self._flushed_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    @property
    def flushed_index(self) -> int:
        """Everything up to here is durable in the database."""
        return self._flushed_index

    @property
    def staged_index(self) -> int:
        return self._staged_index

    @property
    def dirty_bytes(self) -> int:
        """Staged and not yet durable in the database."""
        return self._dirty_bytes

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="flusher")

    def stage(
        self, changes: Iterable[Change], index: int, term: int, configuration: bytes, chain_hash: bytes,
        *, checkpoint: bool = False,
    ) -> None:
        """Takes over all rows that changed up to `index`; readers see them from now on."""
        if self._failure is not None:
            raise StorageClosed("the database failed") from self._failure
        if index <= self._staged_index:
            # Left over from before a snapshot was installed; the snapshot has it.
            return
        batch = make_batch(changes, index, term, configuration, chain_hash, checkpoint=checkpoint)
        self._staged_index = index
        self._pending.append(batch)
        self._dirty_bytes += batch.bytes
        self.database.overlay.add(batch)
        self.database.names.add(batch.executions_there())
        self._work.set()
        if self._dirty_bytes >= self._settings.hurry_bytes:
            self._wanted.set()
        if self._dirty_bytes > self._settings.dirty_bytes_max:
            self._room.clear()

    @property
    def has_room(self) -> bool:
        """Whether `wait_room` returns at once."""
        return self._failure is None and self._room.is_set()

    async def wait_room(self) -> None:
        """Returns once less than `dirty_bytes_max` is staged."""
        await self._room.wait()
        if self._failure is not None:
            raise StorageClosed("the database failed") from self._failure

    async def flush_now(self) -> None:
        """Waits until everything staged so far is durable in the database; calls share transactions."""
        if self._failure is not None:
            raise StorageClosed("the database failed") from self._failure
        if self._staged_index <= self._flushed_index:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((self._staged_index, future))
        self._wanted.set()
        await future

    async def drain(self) -> None:
        """As `flush_now`, without pause: for the end."""
        self._hurry = True
        self._wanted.set()
        await self.flush_now()

    async def close(self) -> None:
        """Stops; what is staged stays in the journal."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        async with self._writing:
            self._fail(StorageClosed("the flusher is closed"))

    @asynccontextmanager
    async def suspended(self) -> AsyncIterator[None]:
        """Nothing is written inside; afterwards what was staged is forgotten, and the database says where it stands.

        For replacing the database by one that is ahead of everything staged.
        """
        async with self._writing:
            yield
            self._pending.clear()
            self.database.overlay.clear()
            self._dirty_bytes = 0
            applied = self.database.applied()
            self._staged_index = applied.index
            self._tell_flushed(applied)

    # -- the background task ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                await self._work.wait()
                await self._pace()
                if self._pending and self._durable_index() < self._pending[0].index:
                    await self._wait_durable(self._pending[0].index)
                async with self._writing:
                    batches = self._take()
                    if batches:
                        await self._write(batches)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, this node must not go on
            self._fail(error)
            self._on_fatal(error)

    async def _pace(self) -> None:
        settings = self._settings
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._flushed_at + settings.interval_ms / 1000):
                await self._wanted.wait()
        loop = asyncio.get_running_loop()
        gap = self._flushed_at + settings.gap_ms / 1000 - loop.time()
        if gap > 0 and not self._hurry and self._dirty_bytes < settings.hurry_bytes:
            await asyncio.sleep(gap)

    def _take(self) -> list[Batch]:
        """The batches of the next transaction: durable in the journal, up to the size limit or a checkpoint."""
        durable = self._durable_index()
        taken: list[Batch] = []
        size = 0
        for batch in self._pending:
            if batch.index > durable or (taken and size + batch.bytes > self._settings.transaction_bytes_max):
                break
            taken.append(batch)
            size += batch.bytes
            if batch.checkpoint:
                break
        return taken

    async def _write(self, batches: list[Batch]) -> None:
        # Asked for from here on, a flush means another transaction.
        self._wanted.clear()
        time = asyncio.get_running_loop().time
        began = time()
        committed = await self.database.commit(batches)
        self._on_flush_seconds(time() - began)
        for batch in batches:
            self._pending.popleft()
            self._dirty_bytes -= batch.bytes
            self.database.overlay.retire(batch)
        self._tell_flushed(committed.applied)
        if batches[-1].checkpoint:
            self._on_checkpoint(committed.applied.index, committed.applied.content_hash)

    def _tell_flushed(self, applied: Applied) -> None:
        self._flushed_at = asyncio.get_running_loop().time()
        self._flushed_index = applied.index
        waiting: list[tuple[int, asyncio.Future[None]]] = []
        for index, future in self._waiters:
            if index > applied.index:
                waiting.append((index, future))
            elif not future.done():
                future.set_result(None)
        self._waiters = waiting
        if not self._pending:
            self._work.clear()
            self._hurry = False
        if waiting or self._dirty_bytes >= self._settings.hurry_bytes:
            self._wanted.set()
        if self._dirty_bytes <= self._settings.dirty_bytes_max:
            self._room.set()
        self._on_flushed(applied.index)

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None:
            return
        self._failure = error
        self._room.set()
        for _, future in self._waiters:
            if not future.done():
                failed = StorageClosed("the database failed")
                failed.__cause__ = error
                future.set_exception(failed)
        self._waiters.clear()
