"""Who polls: for people in this node's memory, and for the choice of domains told to all from time to time.

After a change of the leader the memory of the last polls is empty; what the choice of domains depends on is not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator.engine import limits
from orchestrator.engine.commands import NotePollers, PollTasks

# Polls follow each other closely: those who have not polled for so long have gone.
REMEMBERED_SECONDS = 3600.0
_QUEUES_MAX = 10_000
_WORKERS_MAX = 1_000

QueueKey = tuple[str, str, str]


class PollData:
    """The last poll of each worker, by queue."""

    def __init__(self, note: Callable[[NotePollers], Awaitable[object]], monotonic: Callable[[], float]) -> None:
        self._note = note
        self._monotonic = monotonic
        self._polls: dict[QueueKey, dict[str, float]] = {}
        self._noted: dict[tuple[str, str, tuple[str, ...]], float] = {}

    async def seen(self, poll: PollTasks) -> None:
        """Somebody polls, or still waits for an answer."""
        now = self._monotonic()
        for name in poll.task_names:
            # The newest last, so that those that have gone are found first.
            queue = (poll.namespace, poll.domain, name)
            workers = self._polls[queue] = self._polls.pop(queue, {})
            workers.pop(poll.worker_id, None)
            workers[poll.worker_id] = now
            _drop_oldest(workers, _WORKERS_MAX)
        _drop_oldest(self._polls, _QUEUES_MAX)
        if poll.domain:
            await self._tell(poll, now)

    async def _tell(self, poll: PollTasks, now: float) -> None:
        key = (poll.namespace, poll.domain, poll.task_names)
        last = self._noted.get(key)
        if last is not None and now - last < limits.POLLS_NOTED_MS / 1000:
            return
        self._noted.pop(key, None)
        self._noted[key] = now
        _drop_oldest(self._noted, _QUEUES_MAX)
        await self._note(NotePollers(*key))

    def queues(self, namespace: str) -> list[QueueKey]:
        """Those that were polled."""
        return [queue for queue in self._polls if queue[0] == namespace and self.of(queue)]

    def of(self, queue: QueueKey) -> dict[str, int]:
        """How many milliseconds ago each worker polled the queue."""
        now = self._monotonic()
        workers = self._polls.get(queue, {})
        return {
            worker: int((now - at) * 1000) for worker, at in workers.items() if now - at < REMEMBERED_SECONDS
        }


def _drop_oldest(kept: dict[Any, Any], most: int) -> None:
    while len(kept) > most:
        del kept[next(iter(kept))]
