"""A page of runs, to which each adds a section, written anew after every round: whole also when a run is cut off."""

from __future__ import annotations

from pathlib import Path

from orchestrator.replication.files import RealFiles, replace_file
from orchestrator.verify.report import Report, markdown_row

HEADING = ("| fault | times | operations | answered | p50, ms | p99, ms | max, ms | silence, s | recovery, s |\n"
           "|---|---|---|---|---|---|---|---|---|")


class Section:
    """Of one run, at the end of the page."""

    def __init__(self, page: Path, note: str) -> None:
        self._page = page
        self._before = page.read_text(encoding="utf-8").rstrip("\n") + "\n\n" if page.exists() else ""
        self._note = note

    def write(self, report: Report) -> None:
        replace_file(RealFiles(), self._page, (self._before + section(report, self._note)).encode())


def section(report: Report, note: str) -> str:
    cells = {
        "seed": str(report.seed), "minutes": f"{report.minutes:.0f}", "rounds": str(report.rounds),
        "faults": str(sum(report.faults.values())), "operations checked": f"{report.operations:,}",
        "executions checked": f"{report.objects:,}", "not decided": str(report.undecided),
        "violations": str(len(report.violations)),
    }
    lines = [
        f"### {report.began} UTC, {report.version}", "", *([note, ""] if note else []),
        f"| {' | '.join(cells)} |", "|" + "---|" * len(cells), f"| {' | '.join(cells.values())} |", "",
        HEADING, *(markdown_row(row) for row in report.rows), "",
        *(f"- {violation}" for violation in report.violations), *([""] if report.violations else []),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"
