"""What is said while a run goes on: a line for what happens, and on a terminal one that is always written anew."""

from __future__ import annotations

import time
from typing import TextIO

from orchestrator.verify.trial import Trial

REFRESH_S = 0.5


class Talk:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._began = time.monotonic()
        self._said_at = 0.0
        self._answers = 0

    def event(self, text: str) -> None:
        """Something has happened."""
        self._clear()
        self._stream.write(f"{self._time()} {text}\n")
        self._stream.flush()

    def refresh(self, trial: Trial) -> None:
        """How it goes: on a terminal only, and not more often than one can read."""
        now = time.monotonic()
        if not self._is_terminal or now - self._said_at < REFRESH_S:
            return
        rate = (trial.answers - self._answers) / (now - self._said_at) if self._said_at else 0.0
        self._said_at, self._answers = now, trial.answers
        fault = f"{trial.fault.kind} {trial.fault.target}" if trial.fault is not None else "no fault"
        self._clear()
        self._stream.write(f"{self._time()} round {trial.rounds + 1}: {fault}; {rate:.0f} answers/s, {trial.answers:,} "
                           f"in all, {len(trial.violations)} violations")
        self._stream.flush()

    def end(self) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._is_terminal:
            self._stream.write("\r\x1b[K")

    def _time(self) -> str:
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60:02}:{seconds % 60:02}"
