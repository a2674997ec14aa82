"""A node whose wall clock is off does not lead while another can: a leader hands over, a follower holds back.

There is no hurry, for log time follows the median whoever leads. So a leader waits before its first look, and who takes
over must be clearly nearer to the median than would make it hand over as well: else members that are off themselves, or
see the median differently, would pass the lead to and fro, and no learner would get its snapshot from any of them.

Of two clocks that differ nobody knows which is right. What was found with three is remembered when two are left.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Container, Mapping

from orchestrator.replication.clock import LogClock
from orchestrator.replication.frames import GossipValue
from orchestrator.replication.ports import Clock

logger = logging.getLogger(__name__)

# From the beginning of a lead, or the last attempt, to the next.
PAUSE_SECONDS = 5.0
# So many clocks can tell which of them is off.
VOICES = 3


class SkewWatch:
    """One per node. `hand_over` gives the lead to one of those named, if any of them can take it."""

    def __init__(
        self,
        log_clock: LogClock,
        clock: Clock,
        hand_over: Callable[[Container[str]], Awaitable[bool]],
        limit_ms: int,
        peers: Callable[[], Mapping[str, Mapping[str, GossipValue]]] = dict,
    ) -> None:
        self._log_clock = log_clock
        self._clock = clock
        self._hand_over = hand_over
        self._limit_ms = limit_ms
        # What they say of themselves.
        self._peers = peers
        self._due_at: float | None = None
        # Whether this node's clock is over the limit off the median.
        self.is_off = False

    async def look(self, *, leading: bool) -> None:
        """Called a few times a second."""
        self._judge()
        if not leading:
            self._due_at = None
            return
        now = self._clock.monotonic()
        if self._due_at is None:
            self._due_at = now + PAUSE_SECONDS
        if now < self._due_at or not self.is_off:
            return
        nearer = self._nearer()
        logger.warning(
            "this node's clock is off the members' median: hands over",
            extra={"skew_ms": self._log_clock.skew_ms(), "to_one_of": ",".join(sorted(nearer))},
        )
        await self._hand_over(nearer)
        self._due_at = self._clock.monotonic() + PAUSE_SECONDS

    def _nearer(self) -> set[str]:
        if self._log_clock.voices < VOICES:
            # This clock is known to be off, and of the other one nothing, unless its node stands back itself.
            gossip = self._peers()
            return {name for name in self._log_clock.skews_ms() if not gossip.get(name, {}).get("stands_back")}
        return self._log_clock.peers_within_ms(self._limit_ms / 2)

    def _judge(self) -> None:
        if self._log_clock.voices < VOICES:
            return
        skew_ms = self._log_clock.skew_ms()
        is_off = abs(skew_ms) > self._limit_ms
        if is_off and not self.is_off:
            logger.warning(
                "this node's clock is off the members' median: it will not lead while another node can. "
                "Correct the clock of this machine (NTP)", extra={"skew_ms": skew_ms}
            )
        elif self.is_off and not is_off:
            logger.info("this node's clock agrees with the members' median again", extra={"skew_ms": skew_ms})
        self.is_off = is_off
