"""One page on a run: what was done, how the cluster fared, what was violated, and how to do it again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.verify.judge import Violation
from orchestrator.verify.statistics import NO_FAULT, Row, Statistics, Window

VIOLATIONS_SHOWN = 5
# What each promise is, in the order of the page.
PROMISES = {
    "acknowledgement": "what was acknowledged is there",
    "refusal": "what was refused for certain is not",
    "order": "the operations on each execution are linearizable",
    "once": "one request takes effect once",
    "attempts": "one completion of each attempt, and none handed out again while its worker lived",
    "compensation": "what is owed is undone, in reverse order, once",
    "timer": "timers fire once, and never early",
    "end": "each workflow comes to what it must",
    "final": "what has ended stays so",
    "replicas": "all nodes hold the same",
    "progress": "callers go on soon after each fault",
    "node": "no node ends that nothing was done to",
    "caller": "no caller meets what it should not",
    "record": "the record is whole",
}


@dataclass
class Report:
    """All numbers are those of when it was made."""

    seed: int
    began: str
    minutes: float
    version: str
    cluster: str
    rounds: int
    faults: dict[str, int]
    operations: int
    by_kind: dict[str, int]
    objects: int
    undecided: int
    lost_sessions: int
    rows: list[Row]
    windows: list[Window]
    rests: list[tuple[float, float]]
    answered_in_second: dict[int, int]
    seconds: int
    first_second: float
    violations: list[Violation]
    replay: str
    interrupted: bool = False
    # What the run could not do, and what is left to be done by hand.
    problems: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        if self.violations:
            return f"{len(self.violations)} VIOLATION{'S' if len(self.violations) > 1 else ''}"
        if self.interrupted or self.problems or self.undecided:
            return "no violation found, but the run is not whole"
        return "no violation"

    def document(self) -> dict[str, Any]:
        """JSON's own types; what is not known is null."""
        rows = [{**asdict(row), "availability": row.availability} for row in self.rows]
        document: dict[str, Any] = _finite({
            "verdict": self.verdict, "seed": self.seed, "replay": self.replay, "began": self.began,
            "minutes": round(self.minutes, 2), "version": self.version, "cluster": self.cluster,
            "interrupted": self.interrupted, "rounds": self.rounds, "faults": self.faults,
            "operations": self.operations, "operations_by_kind": self.by_kind, "objects": self.objects,
            "undecided": self.undecided, "lost_sessions": self.lost_sessions, "by_fault": rows,
            "windows": [asdict(window) for window in self.windows], "rests": self.rests,
            "answered_in_second": {str(second): count for second, count in self.answered_in_second.items()},
            "violations": [asdict(violation) for violation in self.violations], "problems": self.problems,
        })
        return document


def of(statistics: Statistics, **known: Any) -> Report:
    """What the statistics say; `known` is all the rest."""
    faults = Counter(window.kind for window in statistics.windows)
    answered = dict(sorted(statistics.answered_in_second.items()))
    return Report(faults=dict(sorted(faults.items())), operations=statistics.operations,
                  by_kind=dict(sorted(statistics.by_kind.items())), rows=statistics.rows(),
                  windows=list(statistics.windows), rests=list(statistics.rests), answered_in_second=answered,
                  first_second=statistics.began, **known)


def text(report: Report) -> str:
    """The page."""
    struck = f"{sum(report.faults.values())} of {len(report.faults)} kinds, in {report.rounds} rounds that were judged"
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.by_kind.items())
    lines = [
        f"orchestrator verify: {report.verdict}", "",
        f"cluster     {report.cluster}",
        f"version     {report.version}",
        f"began       {report.began}, for {report.minutes:.1f} minutes{', interrupted' if report.interrupted else ''}",
        f"seed        {report.seed}; again: {report.replay}",
        f"faults      {struck}",
        f"operations  {report.operations:,} on {report.objects:,} executions: {kinds}", "",
        *latencies(report.rows), "",
    ]
    if report.undecided:
        lines.append(f"not decided {report.undecided} executions had too many possible orders to look at all")
    if report.lost_sessions:
        lines.append(f"sessions    {report.lost_sessions} sessions of workers that lived have ended")
    lines += [f"problem     {problem}" for problem in report.problems]
    return "\n".join([*lines, *_violations(report.violations)]).rstrip() + "\n"


def latencies(rows: Sequence[Row]) -> list[str]:
    heading = ("fault", "times", "operations", "answered", "p50 ms", "p99 ms", "max ms", "silence s", "recovery s")
    cells = [heading, *(_cells(row) for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(heading))]
    return ["  ".join(cell.rjust(width) if place else cell.ljust(width)
                      for place, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
            for line in cells]


def markdown_row(row: Row) -> str:
    return f"| {' | '.join(_cells(row))} |"


def _cells(row: Row) -> tuple[str, ...]:
    return (row.kind, "" if row.kind == NO_FAULT else str(row.faults), f"{row.operations:,}",
            "-" if math.isnan(row.availability) else f"{row.availability * 100:.2f} %",
            *(_number(value, 1) for value in (row.p50_ms, row.p99_ms, row.max_ms)),
            *(_number(value, 2) for value in (row.silence_max_s, row.recovery_max_s)))


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def _violations(violations: Sequence[Violation]) -> list[str]:
    if not violations:
        return ["violations  none"]
    lines = [f"violations  {len(violations)}"]
    for violation in violations[:VIOLATIONS_SHOWN]:
        lines += ["", f"  {violation}", f"    promised: {PROMISES[violation.promise]}",
                  *(f"    {line}" for line in violation.excerpt)]
    if (more := len(violations) - VIOLATIONS_SHOWN) > 0:
        lines += ["", f"  and {more} more: --json has them all"]
    return lines


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
