"""The report as a picture: what was measured with several numbers of callers, by row and system. SVG, written by hand.

Two charts side by side: completed per second, and the median time, both on logarithmic scales. Rows without times are
left out, and rows with one number of callers unless there are no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tests.benchmarks.measurement import Measurement

CHART_WIDTH, CHART_HEIGHT = 460, 340
LEFT, TOP, GAP, BELOW = 70, 50, 90, 60
LEGEND_LINE = 18
# Distinct on white, also to most who see colours differently; then the dashes begin.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ("", "6 3", "2 3", "9 3 2 3")

Points = list[tuple[int, float]]
"""By callers, ascending."""


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis that ends at marks."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where on the axis, from 0 to 1."""
        if self.high == self.low:
            return 0.5
        return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))


def decades(values: Iterable[float]) -> tuple[Scale, list[float]]:
    """The whole powers of ten around the values, and its marks: those at 1, 2 and 5 if there are few."""
    found = list(values)
    first, last = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    last = max(last, first + 1)
    steps = (1, 2, 5) if last - first <= 2 else (1,)
    marks = [step * 10.0**power for power in range(first, last) for step in steps]
    return Scale(10.0**first, 10.0**last), [*marks, 10.0**last]


def series(measurements: Iterable[Measurement], value: Callable[[Measurement], float]) -> dict[str, Points]:
    """What is drawn, by its name in the legend, in the order of the report."""
    found: dict[str, Points] = {}
    for measurement in measurements:
        number = value(measurement)
        if math.isfinite(number) and number > 0 and measurement.samples_ms and measurement.concurrency:
            found.setdefault(label(measurement), []).append((measurement.concurrency, number))
    callers = {name: len({number for number, _ in points}) for name, points in found.items()}
    several = any(number > 1 for number in callers.values())
    return {name: sorted(points) for name, points in found.items() if callers[name] > 1 or not several}


def label(measurement: Measurement) -> str:
    return f"{measurement.row} · {measurement.system}"


def svg(measurements: Sequence[Measurement]) -> str:
    """The whole picture; empty charts if there is nothing to draw."""
    charts = (
        ("completed per second", series(measurements, lambda each: each.per_second)),
        ("median time, ms", series(measurements, lambda each: each.median_ms)),
    )
    names = list(dict.fromkeys(name for _, lines in charts for name in lines))
    width = 2 * (LEFT + CHART_WIDTH) + GAP
    height = TOP + CHART_HEIGHT + BELOW + LEGEND_LINE * (math.ceil(len(names) / 2) + 1)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for place, (title, lines) in enumerate(charts):
        parts += _chart(LEFT + place * (CHART_WIDTH + GAP), title, lines, names)
    parts += _legend(names)
    return "\n".join([*parts, "</svg>", ""])


def _chart(left: float, title: str, lines: dict[str, Points], names: list[str]) -> list[str]:
    bottom, right = TOP + CHART_HEIGHT, left + CHART_WIDTH
    parts = [
        _text(left + CHART_WIDTH / 2, TOP - 16, title, "middle", weight="bold"),
        _text(left + CHART_WIDTH / 2, bottom + 40, "callers at once", "middle"),
        f'<rect x="{left}" y="{TOP}" width="{CHART_WIDTH}" height="{CHART_HEIGHT}" fill="none" stroke="#888"/>',
    ]
    points = [point for of in lines.values() for point in of]
    if not points:
        return parts
    callers = sorted({number for number, _ in points})
    across, (upward, marks) = Scale(callers[0], callers[-1]), decades(value for _, value in points)

    def x(number: float) -> float:
        # Not on the frame itself.
        return left + 20 + across.share(number) * (CHART_WIDTH - 40)

    def y(value: float) -> float:
        return bottom - upward.share(value) * CHART_HEIGHT

    for number in callers:
        parts.append(_line((x(number), TOP), (x(number), bottom), "#eee"))
        parts.append(_text(x(number), bottom + 18, str(number), "middle"))
    for mark in marks:
        parts.append(_line((left, y(mark)), (right, y(mark)), "#ddd"))
        parts.append(_text(left - 8, y(mark) + 4, f"{mark:,.10g}", "end"))
    for name, of in lines.items():
        parts += _drawn([(x(number), y(value)) for number, value in of], names.index(name))
    return parts


def _drawn(points: list[tuple[float, float]], number: int) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_colour(number)}"/>' for x, y in points]
    return [f'<polyline points="{path}" fill="none" {_stroke(number)}/>', *marks]


def _legend(names: list[str]) -> list[str]:
    parts = []
    rows = math.ceil(len(names) / 2)
    for number, name in enumerate(names):
        x = LEFT + number // max(rows, 1) * (CHART_WIDTH + GAP)
        y = TOP + CHART_HEIGHT + BELOW + LEGEND_LINE * (number % max(rows, 1) + 0.5)
        parts.append(f'<polyline points="{x},{y - 4} {x + 34},{y - 4}" fill="none" {_stroke(number)}/>')
        parts.append(f'<circle cx="{x + 17}" cy="{y - 4}" r="3.5" fill="{_colour(number)}"/>')
        parts.append(_text(x + 42, y, name, "start"))
    return parts


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _stroke(number: int) -> str:
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    return f'stroke="{_colour(number)}" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _line(begin: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    return f'<line x1="{begin[0]:.1f}" y1="{begin[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
