"""How many starts a client sends while the cluster refuses some for want of room. No I/O.

To refuse costs a cluster less than to start, but not nothing, and a client whose callers each ask again and again makes
an overload worse. So all of them share one budget, which begins with the first refusal and ends when there has been
none for a while: so many attempts as were accepted of late, and a few more to find out whether there is more room
(adaptive throttling, as in the chapter "Handling Overload" of Google's SRE book). Where nothing is accepted, one
attempt for each delay that the cluster asks for.
"""

from __future__ import annotations

import random

# For each start that is accepted, while others are refused.
ATTEMPTS_PER_ACCEPTED = 1.5
# Of the attempts, for each interval in which all were sent that might be, and some were accepted and none refused.
GROWTH = 1.5
INTERVAL_S = 0.1
# Over how long it is looked how many are accepted.
LATELY_S = 0.4
# Without refusals for so long there is no budget any more.
OPEN_AFTER_S = 2.0
# If the cluster does not say how long to wait.
DELAY_S = 0.1
# What was not used is kept for so long.
KEPT_S = 0.05


class StartThrottle:
    """The budget. Times are those of one clock that only goes forward."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._per_s: float | None = None
        self._left = 0.0
        self._filled_at = 0.0
        self._delay_s = DELAY_S
        self._refused_at = 0.0
        # In this interval.
        self._began = 0.0
        self._accepted = 0
        self._refused = 0
        self._was_short = False
        self._accepted_per_s = 0.0
        self._answer_s = 0.0

    @property
    def is_open(self) -> bool:
        """No start has to wait for its turn."""
        return self._per_s is None

    @property
    def per_s(self) -> float:
        """How many may be sent now."""
        return float("inf") if self._per_s is None else self._per_s

    @property
    def answer_s(self) -> float:
        """How long answers have taken of late."""
        return self._answer_s

    def accepted(self, now: float, took_s: float) -> None:
        self._look(now)
        self._accepted += 1
        self._answer_s += (took_s - self._answer_s) / 16

    def refused(self, now: float, took_s: float, delay_s: float | None) -> None:
        """For want of room; the cluster asks for a delay."""
        self._look(now)
        self._refused += 1
        self._answer_s += (took_s - self._answer_s) / 16
        self._refused_at = now
        self._delay_s = max(delay_s or 0.0, DELAY_S)
        if self._per_s is None:
            self._per_s = self._budget()
            self._filled_at = now
            # Clients that were refused at one time do not come back at one time.
            self._left = -self._rng.random() / 2

    def take(self, now: float) -> bool:
        """Whether a start may be sent now; then it counts."""
        self._look(now)
        if self._per_s is None:
            return True
        self._fill(now, self._per_s)
        if self._left < 1.0:
            self._was_short = True
            return False
        self._left -= 1.0
        return True

    def next_s(self, now: float) -> float:
        """After how long it is worth asking whether one may be sent."""
        if self._per_s is None:
            return 0.0
        self._fill(now, self._per_s)
        return max(1.0 - self._left, 0.0) / self._per_s

    def _budget(self) -> float:
        return max(ATTEMPTS_PER_ACCEPTED * self._accepted_per_s, 1.0 / self._delay_s)

    def _fill(self, now: float, per_s: float) -> None:
        self._left = min(self._left + (now - self._filled_at) * per_s, max(1.0, KEPT_S * per_s))
        self._filled_at = now

    def _look(self, now: float) -> None:
        passed_s = now - self._began
        if passed_s < INTERVAL_S:
            return
        weight = min(passed_s / LATELY_S, 1.0)
        self._accepted_per_s += (self._accepted / passed_s - self._accepted_per_s) * weight
        if self._per_s is not None:
            self._fill(now, self._per_s)
            if now - self._refused_at > max(OPEN_AFTER_S, 2 * self._delay_s):
                self._per_s = None
            elif self._refused:
                self._per_s = self._budget()
            elif self._was_short and self._accepted:
                self._per_s = max(GROWTH * self._per_s, self._budget())
        self._began = now
        self._accepted = self._refused = 0
        self._was_short = False
