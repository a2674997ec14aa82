"""A few threads for calls that block, of which some may never return: a network file system hangs when its server does.

Threads of their own, so that what hangs keeps nobody else's files waiting; and daemons, so that it does not keep the
process when that stops.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_Job = Callable[[], None]


class Threads:
    """Runs jobs as they come, at most `most` at once; what nobody waits for any more is not begun."""

    def __init__(self, name: str, most: int = 8) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(most)
        ]
        for thread in self._threads:
            thread.start()

    async def __call__(self, job: Callable[[], T], /) -> T:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def work() -> None:
            if future.cancelled():
                return
            result, error = _outcome(job)
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:  # the loop was closed under us: nobody is left to tell
                pass

        self._jobs.put(work)
        return await future

    def close(self) -> None:
        """The threads end when what they do is done; nobody waits for that."""
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _outcome(job: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return job(), None
    except BaseException as error:  # noqa: BLE001 - it is the caller's, in the loop
        return None, error
