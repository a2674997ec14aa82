"""How many starts may be under way at once: as many as like, until the commands beside them take too long.

A leader that is asked for more than it can do would do all of it late: executions that have begun would wait for starts
as long as starts for each other. How long a command takes, from when it is taken to when it is applied, shows that
whatever the reason is: the event loop, the disks, the network, a follower. What counts is the least of an interval, as
in CoDel: a burst is over by then, and what stays is a queue that is of no use. Whoever finds it gives way by a part of
what it has, and comes back in small steps (as TCP does), so that the limit neither jumps nor stays.
"""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.replication.sequencer import CommandsApplied

INTERVAL_S = 0.1
# So many intervals in a row are more than a burst.
LATE_INTERVALS = 2
# Starts go on beside anything, though slowly.
LEAST = 48
FALL = 0.7
RISE = 1.1
# Without refusals for so long the limit is gone.
CALM_S = 2.0
# Slow disks and far nodes are no reason to refuse: so many times what a command takes at best is not late.
SLOWER = 4
# What it takes at best is forgotten after one to two of these, of time that was not late: the cluster may have moved.
BEST_S = 300.0


class StartLimit:
    """On the leader, told of each entry that is applied."""

    def __init__(self, *, monotonic: Callable[[], float], target_s: float, most: int) -> None:
        self._monotonic = monotonic
        self._target_s = target_s
        self._most = most
        self.value = most
        self.seconds = 0.0
        """What commands took at least, in the last interval."""
        self._until = monotonic() + INTERVAL_S
        self._least_s: float | None = None
        self._peak = 0
        self._late = 0
        self._refused_at = float("-inf")
        self._was_reached = False
        # What a command took at best: in the present stretch of time, and in the one before.
        self._best_s = self._best_before_s = float("inf")
        self._best_until = monotonic() + BEST_S

    @property
    def target_s(self) -> float:
        """What takes longer is late."""
        best_s = min(self._best_s, self._best_before_s)
        return self._target_s if best_s == float("inf") else max(self._target_s, SLOWER * best_s)

    def reached(self) -> None:
        """A start was refused for it."""
        self._was_reached = True
        self._refused_at = self._monotonic()

    def applied(self, commands: CommandsApplied) -> None:
        self._best_s = min(self._best_s, commands.seconds)
        self._peak = max(self._peak, commands.starts_under_way)
        if commands.has_others and (self._least_s is None or commands.seconds < self._least_s):
            self._least_s = commands.seconds
        now = self._monotonic()
        if now >= self._until:
            self._judge(now)
            self._until = now + INTERVAL_S

    def _judge(self, now: float) -> None:
        is_late = self._least_s is not None and self._least_s > self.target_s
        self.seconds = self._least_s or 0.0
        self._late = self._late + 1 if is_late else 0
        if self._late >= LATE_INTERVALS:
            self.value = max(LEAST, int(FALL * min(self.value, self._peak)))
        elif not is_late and self._was_reached:
            self.value = min(self._most, int(RISE * self.value) + 1)
        elif not is_late and now - self._refused_at > CALM_S:
            self.value = self._most
        if not is_late and now >= self._best_until:
            self._best_before_s, self._best_s = self._best_s, float("inf")
            self._best_until = now + BEST_S
        self._least_s, self._peak, self._was_reached = None, 0, False
