"""Availability and latency, by the fault that there was meanwhile; and how much was answered in each second."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.verify.history import Operation

NO_FAULT = "no fault"
# Waits take as long as the work does, and single nodes may refuse probes: how fast the cluster answers they do not say.
UNTIMED = frozenset({"wait", "probe"})


@dataclass
class Window:
    """One fault: `began` with the first command, `healed` when it was undone, `recovered` when callers went on."""

    kind: str
    target: str
    began: float
    healed: float = math.inf
    recovered: float = math.inf

    def overlaps(self, operation: Operation) -> bool:
        until = operation.completed if operation.completed is not None else math.inf
        return operation.invoked < self.recovered and until > self.began


@dataclass(frozen=True)
class Row:
    """Of all operations that were under way during one kind of fault. Times in milliseconds, NaN if there are none."""

    kind: str
    faults: int
    operations: int
    answered: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    # From the first command of a fault to the answer that ended the longest silence, and from its end to progress.
    silence_max_s: float
    recovery_max_s: float

    @property
    def availability(self) -> float:
        return self.answered / self.operations if self.operations else math.nan


@dataclass
class Statistics:
    """Adds up what it is given; operations themselves are not kept."""

    began: float
    windows: list[Window] = field(default_factory=list)
    # From when to when nobody asked for anything, because what was done was being judged.
    rests: list[tuple[float, float]] = field(default_factory=list)
    operations: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    answered_in_second: Counter[int] = field(default_factory=Counter)
    _latencies_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _unanswered: Counter[str] = field(default_factory=Counter)
    _silence_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, operations: Sequence[Operation], windows: Sequence[Window]) -> None:
        """All that was done while these faults came and went, one after the other."""
        for operation in operations:
            self.operations += 1
            self.by_kind[operation.kind] += 1
            if operation.kind in UNTIMED:
                continue
            met = {window.kind for window in windows if window.overlaps(operation)} or {NO_FAULT}
            for kind in met:
                if operation.is_known and operation.completed is not None:
                    self._latencies_ms[kind].append((operation.completed - operation.invoked) * 1000)
                else:
                    self._unanswered[kind] += 1
            if operation.is_known and operation.completed is not None:
                self.answered_in_second[int(operation.completed - self.began)] += 1
        answers = sorted(each.completed for each in operations
                         if each.completed is not None and each.is_known and each.kind not in UNTIMED)
        for window in windows:
            self._silence_s[window.kind].append(longest_silence_s(answers, window))
        self.windows += windows

    def rows(self) -> list[Row]:
        kinds = sorted({*self._latencies_ms, *self._unanswered} - {NO_FAULT})
        return [self._row(kind) for kind in (NO_FAULT, *kinds)]

    def _row(self, kind: str) -> Row:
        ordered = sorted(self._latencies_ms[kind])
        of_kind = [window for window in self.windows if window.kind == kind]
        recoveries = [window.recovered - window.healed for window in of_kind if math.isfinite(window.recovered)]
        return Row(kind, len(of_kind), len(ordered) + self._unanswered[kind], len(ordered), percentile(ordered, 0.5),
                   percentile(ordered, 0.99), ordered[-1] if ordered else math.nan,
                   max(self._silence_s[kind], default=math.nan), max(recoveries, default=math.nan))


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of all do not exceed."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else math.nan


def longest_silence_s(answers: Sequence[float], window: Window) -> float:
    """The longest time without any answer that lies, at least partly, in the window."""
    longest, before = 0.0, window.began
    for at in answers:
        if at <= window.began:
            continue
        longest = max(longest, at - before)
        if at >= window.recovered:
            break
        before = at
    return longest
