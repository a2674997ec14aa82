"""A leader whose wall clock is off hands over to a member whose clock is not.

There is no hurry, for log time follows the median whoever leads. So a leader waits before its first look, and who takes
over must be clearly nearer to the median than would make it hand over as well: else members that are off themselves, or
see the median differently, would pass the lead to and fro, and no learner would get its snapshot from any of them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Container

from orchestrator.replication.clock import LogClock
from orchestrator.replication.ports import Clock

logger = logging.getLogger(__name__)

# From the beginning of a lead, or the last attempt, to the next.
PAUSE_SECONDS = 5.0


class SkewWatch:
    """One per node. `hand_over` gives the lead to one of those named, if any of them can take it."""

    def __init__(
        self,
        log_clock: LogClock,
        clock: Clock,
        hand_over: Callable[[Container[str]], Awaitable[bool]],
        limit_ms: int,
    ) -> None:
        self._log_clock = log_clock
        self._clock = clock
        self._hand_over = hand_over
        self._limit_ms = limit_ms
        self._due_at: float | None = None

    async def look(self, *, leading: bool) -> None:
        """Called a few times a second."""
        if not leading:
            self._due_at = None
            return
        now = self._clock.monotonic()
        if self._due_at is None:
            self._due_at = now + PAUSE_SECONDS
        skew_ms = self._log_clock.skew_ms()
        if now < self._due_at or abs(skew_ms) <= self._limit_ms:
            return
        nearer = self._log_clock.peers_within_ms(self._limit_ms / 2)
        logger.warning(
            "this node's clock is off the members' median: hands over",
            extra={"skew_ms": skew_ms, "to_one_of": ",".join(sorted(nearer))},
        )
        await self._hand_over(nearer)
        self._due_at = self._clock.monotonic() + PAUSE_SECONDS
