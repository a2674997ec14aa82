"""What an operator wants to know of the cluster's work and that nobody keeps: looked up now and then, by the leader.

It costs a pass over what waits for workers, in slices, and two counts by an index; the more there is, the more seldom.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from orchestrator.engine.model import WorkflowStatus
from orchestrator.engine.queues import QueueKey, queue_of
from orchestrator.services.ports import CurrentMachine

EVERY_SECONDS = 5.0
# At most so much of the time is spent with it.
SHARE = 0.02
# Consensus shares the loop.
_SLICE = 5_000

CountStatuses = Callable[[Sequence[WorkflowStatus]], Awaitable[Sequence[int]]]


@dataclass(frozen=True)
class Found:
    paused: int
    compensating: int
    oldest_queued_ms: dict[QueueKey, int]
    """Of each queue, since when the attempt has waited that has waited longest (log time)"""


class Census:
    """Runs while this node leads; `found` is what the last look has found, of this term or of an earlier one."""

    def __init__(self, machine: CurrentMachine, count_statuses: CountStatuses) -> None:
        self._machine = machine
        self._count_statuses = count_statuses
        self.found: Found | None = None

    async def run(self) -> None:
        """Until cancelled."""
        self.found = None
        time = asyncio.get_running_loop().time
        while True:
            began = time()
            await self.look()
            await asyncio.sleep(max(EVERY_SECONDS, (time() - began) / SHARE))

    async def look(self) -> None:
        paused, compensating = await self._count_statuses((WorkflowStatus.PAUSED, WorkflowStatus.COMPENSATING))
        self.found = Found(paused, compensating, await self._oldest())

    async def _oldest(self) -> dict[QueueKey, int]:
        oldest: dict[QueueKey, int] = {}
        for position, ready in enumerate(list(self._machine().state.ready.values())):
            if position % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            queue = queue_of(ready)
            if ready.queued_ms < oldest.get(queue, ready.queued_ms + 1):
                oldest[queue] = ready.queued_ms
        return oldest
