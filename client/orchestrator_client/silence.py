"""Whether a stream's node is still there: it is asked for a sign of life when it has said nothing for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Check = Callable[[], Awaitable[bool]]
"""Asks the node for a sign of life: whether what is said to it is still well placed."""


class Silence:
    """A clock for one stream, which costs nothing for each message."""

    def __init__(
        self, check: Check, patience_s: float, now: Callable[[], float], is_awaited: Callable[[], bool] = lambda: True
    ) -> None:
        self._check = check
        self._is_awaited = is_awaited
        self._patience_s = patience_s
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._heard_at = now()
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        # Done when the node is to be left.
        self.broken: asyncio.Future[None] = self._loop.create_future()

    def heard(self) -> None:
        """The node has said something."""
        self._heard_at = self._now()

    def listen(self) -> None:
        """From now on something is awaited."""
        self._heard_at = self._now()
        if self._timer is None and self._asking is None:
            self._timer = self._loop.call_later(self._patience_s, self._look)

    def end(self) -> None:
        """Nothing is awaited any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def _look(self) -> None:
        self._timer = None
        quiet_s = self._now() - self._heard_at
        if quiet_s < self._patience_s:
            self._timer = self._loop.call_later(self._patience_s - quiet_s, self._look)
        elif self._is_awaited():
            self._asking = self._loop.create_task(self._ask())

    async def _ask(self) -> None:
        heard_at = self._heard_at
        is_there = await self._check()
        self._asking = None
        if is_there or self._heard_at != heard_at:
            self._timer = self._loop.call_later(self._patience_s, self._look)
        elif not self.broken.done():
            self.broken.set_result(None)
