"""The page of runs: a section for each, written anew after every round, so that it is whole when a run is cut off."""

from __future__ import annotations

import platform
import re
import statistics
import subprocess
import time
from pathlib import Path

from orchestrator import __version__
from orchestrator.replication.files import RealFiles, replace_file
from tests.cluster.faults.session import Tally

LOST = re.compile(r"and lost|nobody knows any more|had come to")
DOUBLED = re.compile(r"twice|to two attempts|completions were accepted|handed out again|took effect|answered with")


class Section:
    """Of one run, at the end of the page."""

    def __init__(self, page: Path, note: str) -> None:
        self._page = page
        self._before = page.read_text(encoding="utf-8").rstrip("\n") + "\n\n" if page.exists() else ""
        self._began = time.monotonic()
        began = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        self._title = f"{began} UTC, version {__version__}{_commit()}, Python {platform.python_version()}"
        self._note = note

    def write(self, tally: Tally, first: int, last: int) -> None:
        minutes = (time.monotonic() - self._began) / 60
        text = "\n".join([f"### {self._title}", "", *([self._note, ""] if self._note else []),
                          *summary(tally, first, last, minutes), "", *by_fault(tally), ""])
        replace_file(RealFiles(), self._page, (self._before + text).encode())


def summary(tally: Tally, first: int, last: int, minutes: float) -> list[str]:
    counts = tally.counts
    losses, doubles = found(tally)
    cells = {
        "seeds": f"{first}-{last}", "minutes": f"{minutes:.0f}", "rounds": str(tally.rounds.total()),
        "acknowledgements checked": f"{counts['acknowledgements']:,}", "steps executed": f"{counts['executed']:,}",
        "comparisons of all nodes": str(counts["comparisons"]), "elections": str(counts["elections"]),
        "unsynced writes lost in kills": f"{counts['writes lost']:,}",
        "snapshots installed": str(counts["installed"]), "lost": str(losses), "doubled": str(doubles),
        "other violations": str(len(tally.violations) - losses - doubles),
    }
    return [f"| {' | '.join(cells)} |", "|" + "---|" * len(cells), f"| {' | '.join(cells.values())} |"]


def by_fault(tally: Tally) -> list[str]:
    """Seconds from the fault to the acknowledgement that ends the longest pause."""
    rows = ["| fault | rounds | pause, median | pause, worst |", "|---|---|---|---|"]
    for kind in sorted(tally.rounds):
        pauses = tally.failover_s[kind]
        numbers = f"{statistics.median(pauses):.2f} s | {max(pauses):.2f} s" if pauses else "- | -"
        rows.append(f"| {kind} | {tally.rounds[kind]} | {numbers} |")
    return rows


def found(tally: Tally) -> tuple[int, int]:
    """Violations that are losses, and those that are doubles."""
    losses = sum(bool(LOST.search(each)) for each in tally.violations)
    return losses, sum(bool(DOUBLED.search(each)) and not LOST.search(each) for each in tally.violations)


def _commit() -> str:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
                           cwd=Path(__file__).parent)
    return f" ({asked.stdout.strip()})" if asked.returncode == 0 else ""
