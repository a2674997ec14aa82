"""Lines that a task logs, from any thread, until they are said. No I/O."""

from __future__ import annotations

import threading
import time
from collections import deque

from orchestrator_api.v1.workers_pb2 import LogLine

LINES_MAX = 1_000
BYTES_MAX = 128 * 1024
LINE_CHARACTERS_MAX = 8 * 1024


class LogBuffer:
    """Keeps the newest lines, and says how many it could not keep."""

    def __init__(self) -> None:
        self._lines: deque[tuple[LogLine, int]] = deque()
        self._bytes = 0
        self._dropped = 0
        self._lock = threading.Lock()

    def add(self, text: str) -> None:
        """Never waits for the cluster."""
        cut = text[:LINE_CHARACTERS_MAX]
        size = len(cut.encode("utf-8", "replace"))
        now_ms = time.time_ns() // 1_000_000  # noqa: TID251 - for people, who compare it with other logs of this machine
        line = LogLine(time_ms=now_ms, text=cut.encode("utf-8", "replace").decode())
        with self._lock:
            self._lines.append((line, size))
            self._bytes += size
            while len(self._lines) > LINES_MAX or self._bytes > BYTES_MAX:
                self._bytes -= self._lines.popleft()[1]
                self._dropped += 1

    def take(self) -> list[LogLine]:
        """What there is to say, once."""
        with self._lock:
            taken = [line for line, _ in self._lines]
            if self._dropped:
                taken.insert(0, LogLine(time_ms=taken[0].time_ms, text=f"({self._dropped} lines left out)"))
            self._lines.clear()
            self._bytes = self._dropped = 0
        return taken
