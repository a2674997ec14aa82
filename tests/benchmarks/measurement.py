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
    """An upper limit, exclusive; the aim is where it should be one day."""

    what: str
    limit: float
    unit: str
    value: float
    aim: float | None = None

    @property
    def kept(self) -> bool:
        return self.value < self.limit

    @property
    def verdict(self) -> str:
        if not self.kept:
            return "MISSED"
        return "aim reached" if self.aim is not None and self.value <= self.aim else "kept"

    def __str__(self) -> str:
        return f"{self.what} < {self.limit:g} {self.unit}".rstrip()

    def document(self) -> dict[str, Any]:
        return {"what": str(self), "value": _number(self.value), "kept": self.kept, "aim": self.aim}


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
    system: str = SYSTEM

    @property
    def name(self) -> str:
        own = f"{self.row} c={self.concurrency}"
        return own if self.system == SYSTEM else f"{self.system}: {own}"

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
            "system": self.system,
            "concurrency": self.concurrency,
            "per_second": _number(self.per_second),
            "p50_ms": _number(self.median_ms),
            "p99_ms": _number(self.at(0.99)),
            "p999_ms": _number(self.at(0.999)),
            "worst_ms": _number(self.worst_ms),
            "samples": len(self.samples_ms),
            "cpu_s_per_1000": _number(sum(self.cpu_s_per_1000.values())) if self.cpu_s_per_1000 else None,
            "cpu_s_per_1000_by_part": {part: _number(value) for part, value in self.cpu_s_per_1000.items()},
            "budgets": [budget.document() for budget in self.budgets],
            "faults": list(self.faults),
            "settings": self.settings,
        }
        return values


def failed(row: str, error: BaseException) -> Measurement:
    """A row that was not measured, because of an error, or of several in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return Measurement(row, 0, (), math.nan, faults=(f"not measured: {type(error).__name__}: {error}",))


_HEAD = ("row", "system", "c", "n", "per s", "p50 ms", "p99", "p99.9", "worst", "CPU s/1000", "verdict")
_WORDS = ("row", "system", "verdict")
_BUDGET_HEAD = ("target of", "what", "measured", "must be below", "aim", "verdict")
_BUDGET_WORDS = ("target of", "what", "verdict")


def table(measurements: Sequence[Measurement]) -> str:
    return _columns(_HEAD, _WORDS, [_cells(measurement) for measurement in measurements])


def targets(measurements: Iterable[Measurement]) -> str:
    """What was promised of the rows, beside what was measured; empty if nothing was."""
    lines = [
        _budget_cells(measurement, budget) for measurement in measurements for budget in measurement.budgets
    ]
    return _columns(_BUDGET_HEAD, _BUDGET_WORDS, lines) if lines else ""


def remarks(measurements: Iterable[Measurement]) -> list[str]:
    """What does not fit into the tables."""
    found: list[str] = []
    for measurement in measurements:
        found += [f"{measurement.name}: WRONG: {fault}" for fault in measurement.faults]
        found += [f"{measurement.name}: {note}" for note in measurement.notes]
        if measurement.cpu_s_per_1000:
            parts = " + ".join(f"{part} {value:.2f}" for part, value in measurement.cpu_s_per_1000.items())
            found.append(f"{measurement.name}: CPU-seconds per 1,000: {parts}")
    return found


def to_json(measurements: Iterable[Measurement]) -> str:
    return json.dumps([measurement.document() for measurement in measurements], indent=2, allow_nan=False) + "\n"


def _columns(head: Sequence[str], words: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Numbers to the right, words to the left."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    texts = []
    for line in lines:
        cells = [
            cell.ljust(width) if title in words else cell.rjust(width)
            for title, cell, width in zip(head, line, widths, strict=True)
        ]
        texts.append("  ".join(cells).rstrip())
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])


def _cells(measurement: Measurement) -> tuple[str, ...]:
    cpu = f"{sum(measurement.cpu_s_per_1000.values()):.2f}" if measurement.cpu_s_per_1000 else "-"
    return (
        measurement.row,
        measurement.system,
        str(measurement.concurrency),
        str(len(measurement.samples_ms)),
        _text(measurement.per_second),
        _text(measurement.median_ms),
        _text(measurement.at(0.99)),
        _text(measurement.at(0.999)),
        _text(measurement.worst_ms),
        cpu,
        measurement.verdict,
    )


def _budget_cells(measurement: Measurement, budget: Budget) -> tuple[str, ...]:
    unit = f" {budget.unit}" if budget.unit else ""
    aim = f"{budget.aim:g}{unit}" if budget.aim is not None else "-"
    return (
        measurement.name, budget.what, f"{_text(budget.value)}{unit}", f"{budget.limit:g}{unit}", aim, budget.verdict,
    )


def _text(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
