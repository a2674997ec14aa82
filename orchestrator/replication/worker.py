"""Threads for calls that block, and the queue that keeps disk writes in order.

`DiskQueue` promises: jobs run in the order they were added, one batch at a time, each batch closed by one sync;
`done` callbacks run on the loop, in order, only after that sync. The first error is final: nothing runs after it.
Whoever waits is always told: what had not run when a worker was closed ends with `Stopped`.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from orchestrator.replication.errors import Stopped

T = TypeVar("T")

# Who stands by waits at most so long; and after waiting in vain does not for so many jobs.
PATIENCE_S = 0.001
IMPATIENT_JOBS_MIN = 16
IMPATIENT_JOBS_MAX = 1024
Done = Callable[[BaseException | None], None]


class Worker(Protocol):
    """Runs one blocking job after the other away from the loop; `done` is called on the loop, once for each job."""

    def submit(self, job: Callable[[], None], done: Done) -> None: ...
    def stand_by(self) -> None:
        """May wait for the last job, for a moment: if it ends, `done` has been called when this returns."""

    def close(self) -> None: ...


WorkerFactory = Callable[[str], Worker]
"""Makes a worker of this name."""


class _Job:
    """Ends on its thread, and is told of once, on the loop."""

    __slots__ = ("call", "done", "ended", "error", "is_awaited", "is_told")

    def __init__(self, call: Callable[[], None], done: Done) -> None:
        self.call = call
        self.done = done
        self.error: BaseException | None = None
        self.ended = threading.Lock()
        self.ended.acquire()
        self.is_awaited = False
        self.is_told = False

    def end(self, error: BaseException | None) -> bool:
        """Says whether the loop has to be woken for it."""
        self.error = error
        self.ended.release()
        return not self.is_awaited

    def wait(self, timeout_s: float) -> bool:
        """On the loop: whether it ended within that time. If not, whoever ends it wakes the loop."""
        self.is_awaited = True
        if self.ended.acquire(timeout=timeout_s):
            return True
        self.is_awaited = False
        # It may have ended between these two lines, and found that somebody waits.
        return self.ended.acquire(blocking=False)

    def tell(self) -> None:
        if not self.is_told:
            self.is_told = True
            self.done(self.error)


class ThreadWorker:
    """One thread. `close` lets the running job finish; the rest does not run, and is told so.

    To stand by is quicker than to be woken for a job as short as most syncs are: the loop is not turned, and nobody
    else has the interpreter when the thread wants it. It is bounded by PATIENCE_S, and where jobs take longer it is
    mostly left, so that a slow disk delays nothing else.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._last: _Job | None = None
        self._impatient_jobs = 0  # for how many more nobody stands by
        self._impatient_next = IMPATIENT_JOBS_MIN
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None], done: Done) -> None:
        if self._closed:
            self._loop.call_soon(done, Stopped("this node is stopping"))
        else:
            self._last = _Job(job, done)
            self._jobs.put(self._last)

    def stand_by(self) -> None:
        job, self._last = self._last, None
        if job is None:
            return
        if self._impatient_jobs:
            self._impatient_jobs -= 1
        elif job.wait(PATIENCE_S):
            self._impatient_next = IMPATIENT_JOBS_MIN
            job.tell()
        else:
            self._impatient_jobs = self._impatient_next
            self._impatient_next = min(2 * self._impatient_next, IMPATIENT_JOBS_MAX)

    def close(self) -> None:
        self._closed = True
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            error: BaseException | None = None
            try:
                if self._closed:
                    raise Stopped("this node is stopping")
                job.call()
            except BaseException as raised:  # noqa: BLE001 - handed to the loop, which decides
                error = raised
            try:
                if job.end(error):
                    self._loop.call_soon_threadsafe(job.tell)
            except RuntimeError:  # the loop was closed under us: nobody is left to tell
                return


def thread_worker(name: str) -> Worker:
    """For use inside the running loop."""
    return ThreadWorker(asyncio.get_running_loop(), name)


async def call(worker: Worker, job: Callable[[], T]) -> T:
    """Runs `job` on the worker and waits for its result."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    result: list[T] = []

    def done(error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result[0])

    worker.submit(lambda: result.append(job()), done)
    return await future


class DiskQueue:
    """`on_seconds` is told how long each batch took, on the loop."""

    def __init__(
        self,
        worker: Worker,
        on_error: Callable[[BaseException], None],
        monotonic: Callable[[], float] = lambda: 0.0,
        on_seconds: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._worker = worker
        self._on_error = on_error
        self._monotonic = monotonic
        self._on_seconds = on_seconds
        self._pending: list[tuple[Callable[[], None], Callable[[], None] | None]] = []
        self._running = False
        self._failure: BaseException | None = None
        self._draining: list[asyncio.Future[None]] = []
        # Set by the journal: makes everything the batch wrote durable, with one call for all of it.
        self.sync: Callable[[], None] = lambda: None

    def add(self, job: Callable[[], None], done: Callable[[], None] | None = None) -> None:
        """Queues a job; it runs after `kick`."""
        self._pending.append((job, done))

    def kick(self, *, stand_by: bool = False) -> None:
        """Starts a batch of everything queued, unless one is running: then the next starts when it ends.

        `stand_by`: its `done` callbacks may be called before this returns, if it takes no longer than a moment.
        """
        if self._running or self._failure is not None or not self._pending:
            return
        batch, self._pending = self._pending, []
        self._running = True

        took = 0.0

        def run() -> None:
            nonlocal took
            began = self._monotonic()
            for job, _ in batch:
                job()
            self.sync()
            took = self._monotonic() - began

        def finished(error: BaseException | None) -> None:
            self._running = False
            try:
                if error is not None:
                    raise error
                self._on_seconds(took)
                for _, done in batch:
                    if done is not None:
                        done()
            except BaseException as raised:  # noqa: BLE001 - told to the owner, who stops
                self._fail(raised)
            else:
                self.kick()

        self._worker.submit(run, finished)
        if stand_by:
            self._worker.stand_by()

    def _fail(self, error: BaseException) -> None:
        # After a failed fsync the kernel may have dropped the pages: a retry that succeeds proves nothing.
        self._failure = error
        self._on_error(error)
        for future in self._draining:
            if not future.done():
                future.set_exception(error)

    async def drain(self) -> None:
        """Waits until everything added so far is durable; raises what made that impossible."""
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._draining.append(future)
        self.add(lambda: None, lambda: None if future.done() else future.set_result(None))
        self.kick()
        try:
            await future
        finally:
            self._draining.remove(future)
