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


class Lane(Protocol):
    async def run(self, job: Callable[[], T]) -> T:
        """The job's result. A caller that is cancelled does not stop the job."""

    def close(self) -> None:
        """Waits for the jobs that were given."""


LaneFactory = Callable[[str], Lane]


class ThreadLane:
    """One thread."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[], T]) -> T:
        if self._closed:
            raise StorageClosed("the database is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - it is the caller's, in the loop
                _tell(loop, future, None, error)
            else:
                _tell(loop, future, result, None)

        self._jobs.put(work)
        return await future

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

    async def run(self, job: Callable[[], T]) -> T:
        if self._closed:
            raise StorageClosed("the database is closed")
        return job()

    def close(self) -> None:
        self._closed = True


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any, error: BaseException | None
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop was closed under us: nobody is left to tell
        pass
