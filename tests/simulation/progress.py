"""How far a sweep has come, how fast it is, and how long it will take."""

from __future__ import annotations

import time

from tests.simulation.run import Result

SILENT_SECONDS = 15.0


class Progress:
    """Of a sweep of so many seeds, or of so many seconds, or without an end."""

    def __init__(self, seeds: int | None, seconds: float | None) -> None:
        self._seeds = seeds
        self._seconds = seconds
        self._began = self._said = time.monotonic()
        self._done = 0
        self._simulated_seconds = 0.0
        self._cpu_seconds = 0.0
        self._failing = 0

    def is_late(self) -> bool:
        """The time is over."""
        return self._seconds is not None and time.monotonic() - self._began > self._seconds

    def after(self, result: Result) -> str:
        """What there is to say, now and then."""
        self._done += 1
        self._simulated_seconds += result.simulated_seconds
        self._cpu_seconds += result.cpu_seconds
        self._failing += bool(result.violations)
        now = time.monotonic()
        if now - self._said < SILENT_SECONDS:
            return ""
        self._said = now
        return self.line(now - self._began)

    def line(self, elapsed_seconds: float) -> str:
        """After so many seconds."""
        hours = self._simulated_seconds / 3600
        left = f" of {self._seeds}" if self._seeds else ""
        parts = [
            f"{self._done}{left} seeds in {_clock(elapsed_seconds)}",
            f"{hours:.2f} simulated hours, {hours / max(elapsed_seconds, 1e-9):.4f} simulated hours per second",
            f"{self._simulated_seconds / max(self._cpu_seconds, 1e-9):.0f} simulated seconds per second of CPU",
            f"{self._failing} failing",
        ]
        if self._seconds is not None:
            parts.append(f"{_clock(max(self._seconds - elapsed_seconds, 0))} left")
        elif self._seeds:
            parts.append(f"about {_clock(elapsed_seconds / self._done * (self._seeds - self._done))} left")
        return "; ".join(parts)


def _clock(seconds: float) -> str:
    hours, minutes = divmod(int(seconds) // 60, 60)
    return f"{hours}:{minutes:02}:{int(seconds) % 60:02}"
