"""Where blocking calls run. A lane runs its jobs one after the other, in the order they were given.

Threads in production; inline in a simulation, where everything happens in one thread.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from orchestrator.storage.errors import StorageClosed

T = TypeVar("T")


Done = Callable[[Any, BaseException | None], None]


class Lane(Protocol):
    def submit(self, job: Callable[[], Any], done: Done) -> None:
        """`done` is called in the loop, with the job's result or its error."""

    def close(self) -> None:
        """Waits for the jobs that were given."""


LaneFactory = Callable[[str], Lane]


async def run_in(lane: Lane, job: Callable[[], T]) -> T:
    """The job's result. A caller that is cancelled does not stop the job."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    lane.submit(job, done)
    return await future


class ThreadLane:
    """One thread."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        if self._closed:
            raise StorageClosed("the database is closed")
        loop = asyncio.get_running_loop()

        def work() -> None:
            result, error = _outcome(job)
            try:
                loop.call_soon_threadsafe(done, result, error)
            except RuntimeError:  # the loop was closed under us: nobody is left to tell
                pass

        self._jobs.put(work)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class InlineLane:
    """Runs jobs where they are given."""

    def __init__(self, name: str) -> None:
        self._closed = False

    def submit(self, job: Callable[[], Any], done: Done) -> None:
        if self._closed:
            raise StorageClosed("the database is closed")
        done(*_outcome(job))

    def close(self) -> None:
        self._closed = True


def _outcome(job: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return job(), None
    except BaseException as error:  # noqa: BLE001 - it is the caller's, in the loop
        return None, error
