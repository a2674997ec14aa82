"""The record of long runs: a page with one row for each chunk of seeds, and their totals at its head.

The page is replaced as a whole after each chunk, so whenever a run is cut off, what is there is valid; the next run
goes on after the last seed in it.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.simulation.run import Result

ROOT = Path(__file__).parents[2]
HEAD = """\
# Long runs

{totals}

A row is a chunk of seeds, all run by the same version; `make simulate SEEDS=500 TABLE=tests/simulation/runs.md` adds
500 seeds after the last. Seconds are virtual, but for those of the CPU; each seed has trouble for a while, and then
peace until all members agree. What is checked, and how to replay a seed: [README.md](README.md).

"""
TITLES = {
    "date": "date (UTC)",
    "version": "version",
    "python": "Python",
    "pysyncobj": "PySyncObj",
    "seeds": "seeds",
    "trouble": "trouble, s",
    "simulated": "simulated, s",
    "shortest": "shortest run, s",
    "faults": "faults",
    "operations": "client calls",
    "checked": "checked",
    "entries": "log entries",
    "cpu": "CPU, s",
    "speed": "simulated s per CPU s",
    "violations": "violations",
}
_SEEDS = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class Versions:
    """Of what is run."""

    version: str
    python: str
    pysyncobj: str


@dataclass(frozen=True)
class Row:
    """What a chunk of seeds showed."""

    date: str
    versions: Versions
    first: int
    last: int
    seeds: int
    trouble_seconds: int
    simulated_seconds: int
    shortest_seconds: int
    faults: int
    operations: int
    checked: int
    entries: int
    cpu_seconds: float
    failing: tuple[int, ...]

    def __str__(self) -> str:
        cells = {
            "date": self.date,
            **{field.name: getattr(self.versions, field.name) for field in fields(Versions)},
            "seeds": f"{self.first}-{self.last}",
            "trouble": f"{self.trouble_seconds:,}",
            "simulated": f"{self.simulated_seconds:,}",
            "shortest": f"{self.shortest_seconds}",
            "faults": f"{self.faults:,}",
            "operations": f"{self.operations:,}",
            "checked": f"{self.checked:,}",
            "entries": f"{self.entries:,}",
            "cpu": f"{self.cpu_seconds:,.1f}",
            "speed": f"{self.simulated_seconds / max(self.cpu_seconds, 0.1):.1f}",
            "violations": ": ".join([str(len(self.failing)), ", ".join(map(str, self.failing))]).rstrip(": "),
        }
        return _line(cells[name] for name in TITLES)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def parse_row(line: str) -> Row | None:
    """None if the line is no row of ours, whole."""
    cells = dict(zip(TITLES, (cell.strip() for cell in line.strip().strip("|").split("|")), strict=False))
    if len(cells) != len(TITLES) or not line.endswith("|") or not (seeds := _SEEDS.fullmatch(cells["seeds"])):
        return None

    def number(name: str) -> int:
        return int(cells[name].replace(",", ""))

    first, last = map(int, seeds.groups())
    return Row(
        cells["date"],
        Versions(cells["version"], cells["python"], cells["pysyncobj"]),
        first,
        last,
        last - first + 1,
        number("trouble"),
        number("simulated"),
        number("shortest"),
        number("faults"),
        number("operations"),
        number("checked"),
        number("entries"),
        float(cells["cpu"].replace(",", "")),
        tuple(map(int, re.findall(r"\d+", cells["violations"])[1:])),
    )


class Table:
    """The page at a path; there may be none yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = [row for line in lines if (row := parse_row(line)) is not None]
        if any(line.startswith("| 2") and parse_row(line) is None for line in lines):
            raise ValueError(f"{path} has a row that is none")

    @property
    def next_seed(self) -> int:
        """After all that were run."""
        return max((row.last + 1 for row in self.rows), default=0)

    def add(self, row: Row) -> None:
        """Appends the row; the file is the old one or the new one at any instant."""
        self.rows.append(row)
        text = HEAD.format(totals=_sentence(self.totals())) + _line(TITLES.values()) + "\n"
        text += _line(["---"] * len(TITLES)) + "\n" + "".join(f"{row}\n" for row in self.rows)
        fresh = self.path.with_name(self.path.name + ".new")
        with fresh.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)

    def totals(self) -> dict[str, Any]:
        """Sums over all rows."""

        def total(name: str) -> Any:
            return sum(getattr(row, name) for row in self.rows)

        return {
            "seeds": total("seeds"),
            "trouble_seconds": total("trouble_seconds"),
            "simulated_seconds": total("simulated_seconds"),
            "shortest_seconds": min((row.shortest_seconds for row in self.rows), default=0),
            "faults": total("faults"),
            "client_operations": total("operations"),
            "operations_checked": total("checked"),
            "entries": total("entries"),
            "cpu_seconds": round(total("cpu_seconds"), 1),
            "failing_seeds": [seed for row in self.rows for seed in row.failing],
        }


def _sentence(totals: dict[str, Any]) -> str:
    hours = totals["simulated_seconds"] / 3600
    seeds = f"{totals['seeds']:,} seeds of {totals['shortest_seconds']} simulated seconds or more: {hours:,.1f} hours"
    done = f"{totals['client_operations']:,} client calls, {totals['entries']:,} log entries"
    checked = f"{totals['operations_checked']:,} checks. Seeds with violations: {len(totals['failing_seeds'])}."
    return f"In all {seeds}, {totals['faults']:,} faults,\n{done} and {checked}"


def row_of(results: list[Result], before: Versions, after: Versions) -> Row:
    """Of seeds that follow each other. If somebody changed what was run meanwhile, it says so."""
    versions = before if before == after else replace(after, version=f"{before.version} to {after.version}")
    return Row(
        date=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        versions=versions,
        first=results[0].seed,
        last=results[-1].seed,
        seeds=len(results),
        trouble_seconds=round(sum(result.trouble_seconds for result in results)),
        simulated_seconds=round(sum(result.simulated_seconds for result in results)),
        shortest_seconds=int(min(result.simulated_seconds for result in results)),
        faults=sum(result.faults.total() for result in results),
        operations=sum(result.operations for result in results),
        checked=sum(result.checked for result in results),
        entries=sum(result.entries for result in results),
        cpu_seconds=round(sum(result.cpu_seconds for result in results), 1),
        failing=tuple(result.seed for result in results if result.violations),
    )


def record(table: Table, results: Iterable[Result], seeds_per_row: int) -> Iterator[Result]:
    """Passes them on, and adds a row for so many of them, and one for the rest."""
    before, chunk = versions_now(table.path), []
    for result in results:
        chunk.append(result)
        if len(chunk) == seeds_per_row:
            table.add(row_of(chunk, before, before := versions_now(table.path)))
            chunk = []
        yield result
    if chunk:
        table.add(row_of(chunk, before, versions_now(table.path)))


def versions_now(table: Path) -> Versions:
    """Those of the working tree; a change of the table does not make it dirty."""
    version = metadata.version("orchestrator-cluster")
    commit = _git("rev-parse", "--short", "HEAD")
    if commit:
        changed = [line for line in _git("status", "--porcelain").splitlines() if not line.endswith(table.name)]
        version += f"+{commit}" + (".dirty" if changed else "")
    return Versions(version, platform.python_version(), metadata.version("pysyncobj"))


def _git(*arguments: str) -> str:
    try:
        told = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told.stdout.strip()
