"""Leaves faults out of a failing run until every one that is left is needed: delta debugging.

The seed decides everything, and each fault has dice of its own; so a run without some of its faults is another run of
the same story, and repeats itself as exactly. A smaller run counts when it is broken in the same way.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.run import Result

RUNS_MAX = 80
SECONDS_MAX = 240.0
_KIND_WORDS = 6

Run = Callable[[float, frozenset[int]], Result]
"""(seconds of faults, which of them) -> what that run showed."""


@dataclass
class Shrunk:
    """The smallest run that is still broken in the same way."""

    result: Result
    trouble_seconds: float
    numbers: tuple[int, ...]
    runs: int
    # Whether the search came to its end: no single fault can be left out.
    is_minimal: bool


def kind_of(violation: str) -> str:
    """What is the same in two breaches of one kind: the words without names, numbers and what they say in detail."""
    words = re.findall(r"(?<![\w-])[A-Za-z]+(?![\w-])", violation.partition(" s: ")[2] or violation)
    return " ".join(words[:_KIND_WORDS])


def shrink(run: Run, whole: Result, *, runs_max: int = RUNS_MAX, seconds_max: float = SECONDS_MAX) -> Shrunk:
    """Of the whole run, which is broken; bounded in runs and in real seconds."""
    # As long as it was, in what can be written down; and a breach in the midst of trouble comes before its end.
    trouble_seconds = round(whole.trouble_seconds + 0.0004, 3)
    search = _Search(run, trouble_seconds, whole, runs_max, time.monotonic() + seconds_max)
    search.shorten()
    search.leave_out()
    search.shorten()
    return Shrunk(search.best, search.trouble_seconds, search.numbers, search.runs, is_minimal=not search.is_over)


@dataclass
class _Search:
    run: Run
    trouble_seconds: float
    best: Result
    runs_max: int
    ends_at: float
    runs: int = 0
    is_over: bool = False
    _tried: dict[tuple[float, tuple[int, ...]], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._kind = kind_of(self.best.violations[0])

    @property
    def numbers(self) -> tuple[int, ...]:
        """The faults that happened before the run was broken: others have no part in it."""
        return tuple(sorted(happened.number for happened in self.best.happened))

    def fails(self, trouble_seconds: float, numbers: tuple[int, ...]) -> bool:
        """Whether these faults alone break the run in the same way. If so, that run is the best so far."""
        chosen = (trouble_seconds, numbers)
        if chosen in self._tried:
            return self._tried[chosen]
        if self.runs >= self.runs_max or time.monotonic() > self.ends_at:
            self.is_over = True
            return False
        self.runs += 1
        result = self.run(trouble_seconds, frozenset(numbers))
        failed = self._tried[chosen] = bool(result.violations) and kind_of(result.violations[0]) == self._kind
        if failed:
            self.best, self.trouble_seconds = result, trouble_seconds
        return failed

    def shorten(self) -> None:
        """Ends the trouble with its last fault, or soon after it, or when the run is broken."""
        last = max((happened.after_seconds for happened in self.best.happened), default=0.0)
        ends = {math.ceil(last + 0.1), math.ceil(last + 2.0), math.ceil(self.best.simulated_seconds)}
        for seconds in sorted(float(end) for end in ends):
            if seconds < self.trouble_seconds and self.fails(seconds, self.numbers):
                return

    def leave_out(self) -> None:
        """All faults, then halves, quarters and so on, then one by one until no single one can be left out."""
        size = len(self.numbers)
        while self.numbers and not self.is_over:
            before = self.numbers
            at = 0
            while at < len(self.numbers):
                numbers = self.numbers
                if not self.fails(self.trouble_seconds, numbers[:at] + numbers[at + size :]):
                    at += size
            if size == 1 and self.numbers == before:
                return
            size = max(size // 2, 1)
