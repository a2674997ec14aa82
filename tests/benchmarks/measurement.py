"""One row of the report: what was measured, against what budget, and how it is written as text and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.arithmetic import median, percentile

SYSTEM = "orchestrator-cluster"


@dataclass(frozen=True)
class Budget:
    """An upper limit, exclusive."""

    what: str
    limit: float
    unit: str
    value: float

    @property
    def kept(self) -> bool:
        return self.value < self.limit

    def __str__(self) -> str:
        return f"{self.what} < {self.limit:g} {self.unit}"


@dataclass(frozen=True)
class Measurement:
    row: str
    concurrency: int
    samples_ms: tuple[float, ...]  # ascending
    per_second: float
    cpu_s_per_1000: dict[str, float] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    faults: tuple[str, ...] = ()  # what must not happen at any speed
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        return not self.faults and all(budget.kept for budget in self.budgets)

    @property
    def verdict(self) -> str:
        if self.faults:
            return "WRONG"
        if not self.budgets:
            return "-"
        return "kept" if self.kept else "MISSED"

    def at(self, share: float) -> float:
        return percentile(self.samples_ms, share)

    @property
    def median_ms(self) -> float:
        return median(self.samples_ms)

    @property
    def worst_ms(self) -> float:
        return self.samples_ms[-1] if self.samples_ms else math.nan

    def document(self) -> dict[str, Any]:
        """As JSON has it: numbers that could not be measured are null."""
        values: dict[str, Any] = {
            "row": self.row,
            "system": SYSTEM,
            "concurrency": self.concurrency,
            "per_second": _number(self.per_second),
            "p50_ms": _number(self.median_ms),
            "p99_ms": _number(self.at(0.99)),
            "p999_ms": _number(self.at(0.999)),
            "worst_ms": _number(self.worst_ms),
            "samples": len(self.samples_ms),
            "cpu_s_per_1000": _number(sum(self.cpu_s_per_1000.values())) if self.cpu_s_per_1000 else None,
            "cpu_s_per_1000_by_part": {part: _number(value) for part, value in self.cpu_s_per_1000.items()},
            "budgets": [
                {"what": str(budget), "value": _number(budget.value), "kept": budget.kept} for budget in self.budgets
            ],
            "faults": list(self.faults),
            "settings": self.settings,
        }
        return values


_HEAD = ("row", "c", "n", "per s", "p50 ms", "p99", "p99.9", "worst", "CPU s/1000", "budget", "verdict")


def table(measurements: Sequence[Measurement]) -> str:
    lines = [_HEAD, *(_cells(measurement) for measurement in measurements)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    texts = []
    for line in lines:
        # Numbers to the right, words to the left.
        cells = [
            cell.ljust(width) if column in (0, 9, 10) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        texts.append("  ".join(cells).rstrip())
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])


def remarks(measurements: Iterable[Measurement]) -> list[str]:
    """What does not fit into the table."""
    found: list[str] = []
    for measurement in measurements:
        name = f"{measurement.row} c={measurement.concurrency}"
        found += [f"{name}: WRONG: {fault}" for fault in measurement.faults]
        found += [f"{name}: {note}" for note in measurement.notes]
        if measurement.cpu_s_per_1000:
            parts = " + ".join(f"{part} {value:.2f}" for part, value in measurement.cpu_s_per_1000.items())
            found.append(f"{name}: CPU-seconds per 1,000: {parts}")
    return found


def to_json(measurements: Iterable[Measurement]) -> str:
    return json.dumps([measurement.document() for measurement in measurements], indent=2, allow_nan=False) + "\n"


def _cells(measurement: Measurement) -> tuple[str, ...]:
    cpu = f"{sum(measurement.cpu_s_per_1000.values()):.2f}" if measurement.cpu_s_per_1000 else "-"
    return (
        measurement.row,
        str(measurement.concurrency),
        str(len(measurement.samples_ms)),
        _text(measurement.per_second),
        _text(measurement.median_ms),
        _text(measurement.at(0.99)),
        _text(measurement.at(0.999)),
        _text(measurement.worst_ms),
        cpu,
        "; ".join(map(str, measurement.budgets)) or "-",
        measurement.verdict,
    )


def _text(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
