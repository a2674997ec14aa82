"""Seconds since the run began."""

from __future__ import annotations

import time


class Stopwatch:
    """Zero until it is started; stands still once it is stopped."""

    def __init__(self) -> None:
        self._started_s: float | None = None
        self._stopped_s: float | None = None

    def start(self) -> None:
        self._started_s = time.monotonic()

    def stop(self) -> None:
        self._stopped_s = time.monotonic()

    @property
    def s(self) -> float:
        if self._started_s is None:
            return 0.0
        return (time.monotonic() if self._stopped_s is None else self._stopped_s) - self._started_s
