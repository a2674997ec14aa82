"""The run as a picture: how much was answered in each second, and the faults behind it. SVG, written by hand."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from orchestrator.verify.report import Report
from orchestrator.verify.statistics import Window

WIDTH, HEIGHT = 1_200, 300
LEFT, TOP, BELOW = 70, 66, 60
LEGEND_LINE, LEGEND_COLUMNS = 18, 4
# Distinct on white, also to most who see colours differently; pale, as they lie behind the line.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#999999", "#f0e442")
MARKS = 10
SUBTITLE = "answers in each second, and faults by their numbers; in the gaps callers rest while what they did is judged"


def svg(report: Report) -> str:
    """The whole picture; an empty chart if nothing was answered."""
    kinds = sorted(report.faults)
    seconds = max(report.seconds, 1)
    highest = _nice(max(report.answered_in_second.values(), default=1))
    rows = math.ceil(len(kinds) / LEGEND_COLUMNS)
    height = TOP + HEIGHT + BELOW + LEGEND_LINE * (rows + 1)
    width = LEFT + WIDTH + 30
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(LEFT, TOP - 40, f"seed {report.seed}, {report.began}: {report.verdict}", "start", weight="bold"),
        _text(LEFT, TOP - 24, SUBTITLE, "start"),
    ]
    for window in report.windows:
        number = kinds.index(window.kind)
        parts += _band(window, report.first_second, seconds, COLOURS[number % len(COLOURS)], str(number + 1))
    parts += _axes(seconds, highest)
    parts += _lines(report, seconds, highest)
    for place, kind in enumerate(kinds):
        x = LEFT + place % LEGEND_COLUMNS * (WIDTH / LEGEND_COLUMNS)
        y = TOP + HEIGHT + BELOW + place // LEGEND_COLUMNS * LEGEND_LINE
        colour = COLOURS[place % len(COLOURS)]
        parts.append(f'<rect x="{x:.0f}" y="{y - 10:.0f}" width="12" height="12" fill="{colour}" fill-opacity="0.4"/>')
        parts.append(_text(x + 18, y, f"{place + 1}  {kind} ({report.faults[kind]})", "start"))
    return "\n".join([*parts, "</svg>", ""])


def _x(second: float, seconds: int) -> float:
    return LEFT + min(max(second / seconds, 0.0), 1.0) * WIDTH


def _band(window: Window, began: float, seconds: int, colour: str, label: str) -> list[str]:
    """From the fault to the recovery; what never ended goes to the edge."""
    left, right = _x(window.began - began, seconds), _x(min(window.recovered - began, seconds), seconds)
    title = escape(f"{window.kind}: {window.target}")
    band = (f'<rect class="fault" x="{left:.1f}" y="{TOP}" width="{max(right - left, 1):.1f}" height="{HEIGHT}" '
            f'fill="{colour}" fill-opacity="0.3"><title>{title}</title></rect>')
    return [band, _text((left + right) / 2, TOP - 4, label, "middle")]


def _axes(seconds: int, highest: int) -> list[str]:
    bottom = TOP + HEIGHT
    parts = [f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>',
             _text(LEFT + WIDTH / 2, bottom + 36, "seconds", "middle")]
    for mark in range(MARKS + 1):
        second = seconds * mark / MARKS
        parts.append(_text(_x(second, seconds), bottom + 18, f"{second:.0f}", "middle"))
    for mark in range(5):
        y = bottom - HEIGHT * mark / 4
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + WIDTH}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{highest * mark / 4:,.0f}", "end"))
    return parts


def _lines(report: Report, seconds: int, highest: int) -> list[str]:
    """One for each time between two rests."""
    runs: list[list[str]] = [[]]
    for second in range(seconds):
        middle = report.first_second + second + 0.5
        if any(began <= middle <= ended for began, ended in report.rests):
            runs.append([])
            continue
        y = TOP + HEIGHT - report.answered_in_second.get(second, 0) / highest * HEIGHT
        runs[-1].append(f"{_x(second + 0.5, seconds):.1f},{y:.1f}")
    style = 'fill="none" stroke="black" stroke-width="1.2"'
    return [f'<polyline points="{points}" {style}/>' for points in map(" ".join, runs) if points]


def _nice(value: int) -> int:
    """The next of 4, 8, 20, 40, 80, 200, ... that is not below."""
    step = 1
    while True:
        for factor in (4, 8, 20):
            if factor * step >= value:
                return factor * step
        step *= 10


def _text(x: float, y: float, text: str, anchor: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
