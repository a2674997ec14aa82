"""Starts of one client that wait for their turn while it may not send all of them.

The newest goes first: under a load that lasts, who came late is answered at once and who has waited for long gives up,
while first come, first served would have everybody wait until just before their deadline.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from orchestrator_client.retry import CallRetry
from orchestrator_client.status import Failure, Kind
from orchestrator_client.throttle import StartThrottle

# Turns are given in batches.
TICK_S = 0.005


class Line:
    """There is one from the first start for which the cluster has no room until it has had room for a while."""

    def __init__(self, rng: random.Random, now: Callable[[], float]) -> None:
        self._now = now
        self._throttle = StartThrottle(rng)
        # The last refusal.
        self._refusal: Failure | None = None
        # In the order in which they came.
        self._waiting: dict[asyncio.Future[bool], None] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def turn(self, retry: CallRetry) -> None:
        """Returns when a start may be sent; raises what its caller is to see if it is not worth sending any more."""
        if self._throttle.is_open:
            return
        now = self._now()
        until = retry.worth_until(now, self._throttle.answer_s)
        if now < until and self._throttle.take(now):
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting[turn] = None
        expiry = loop.call_later(until - now, self._expire, turn)
        self._arm(loop)
        try:
            is_given = await turn
        finally:
            expiry.cancel()
            self._waiting.pop(turn, None)
        if not is_given:
            assert self._refusal is not None  # which closed the throttle
            raise retry.given_up(self._refusal)

    def accepted(self, began: float) -> None:
        """A start that was sent then."""
        now = self._now()
        self._throttle.accepted(now, now - began)

    def failed(self, failure: Failure, began: float) -> None:
        """A start that was sent then."""
        if failure.kind is Kind.OVERLOADED:
            now = self._now()
            self._refusal = failure
            self._throttle.refused(now, now - began, failure.retry_after_s)

    def close(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for turn in list(self._waiting):
            turn.cancel()
        self._waiting.clear()

    def _expire(self, turn: asyncio.Future[bool]) -> None:
        self._waiting.pop(turn, None)
        if not turn.done():
            turn.set_result(False)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None and self._waiting:
            self._timer = loop.call_later(max(self._throttle.next_s(self._now()), TICK_S), self._give, loop)

    def _give(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = self._now()
        while self._waiting and self._throttle.take(now):
            turn, _ = self._waiting.popitem()
            if not turn.done():
                turn.set_result(True)
        self._arm(loop)
