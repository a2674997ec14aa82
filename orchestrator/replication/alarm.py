"""A timer that is set anew all the time, mostly to a later moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# So late is not a busy loop but a process that stood still; and how long it then reads before the alarm rings.
LATE_S = 0.05
HEARING_S = 0.002


class Alarm:
    """Rings once, at the moment it was set to last. To put it off costs nothing: the timer that runs sees to it."""

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # The timer's moment, and the alarm's, which is not before it.
        self._timer_at = 0.0
        self._at = 0.0
        self._is_put_off = False

    def set(self, after_s: float) -> None:
        self._at = self._loop.time() + after_s
        self._is_put_off = False
        if self._timer is None or self._at < self._timer_at:
            self._start()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self.cancel()
        self._timer_at = self._at
        self._timer = self._loop.call_at(self._timer_at, self._fired)

    def _fired(self) -> None:
        self._timer = None
        if self._at > self._timer_at:
            self._start()
        elif self._loop.time() - self._at > LATE_S and not self._is_put_off:
            # The process stood still. What has come meanwhile is heard first: timers run before sockets are read.
            self.set(HEARING_S)
            self._is_put_off = True
        else:
            self._ring()
