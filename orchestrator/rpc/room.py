"""How much of what a worker has said may wait for its answer, so that a fast one can't fill the node's memory."""

from __future__ import annotations

import asyncio

RESULTS_MAX = 2_000
RESULT_BYTES_MAX = 32 << 20


class Room:
    """What may wait for its answer: a number of commands, and their bytes."""

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0
        self._freed = asyncio.Event()

    def take_now(self, size: int) -> bool:
        """Takes it if there is room now, and says whether."""
        if self._count >= RESULTS_MAX or (self._count and self._bytes + size > RESULT_BYTES_MAX):
            return False
        self._count += 1
        self._bytes += size
        return True

    async def take(self, size: int) -> None:
        while not self.take_now(size):
            self._freed.clear()
            await self._freed.wait()

    def give_back(self, size: int) -> None:
        self._count -= 1
        self._bytes -= size
        self._freed.set()
