"""Long runs: what is recorded of them, that a run may be cut off at any instant, and what the command says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.progress import Progress
from tests.simulation.run import Result
from tests.simulation.table import Row, Table, Versions, parse_row, record

ROOT = Path(__file__).parents[2]
ROW = Row(
    date="2026-11-22 16:20",
    versions=Versions("0.1.0+1234abc.dirty", "3.11.7", "0.3.17"),
    first=100,
    last=149,
    seeds=50,
    trouble_seconds=3_000,
    simulated_seconds=4_321,
    shortest_seconds=61,
    faults=1_234,
    operations=50_000,
    checked=7_654_321,
    entries=43_210,
    cpu_seconds=1_234.5,
    failing=(107, 133),
)


def _result(seed: int, *, broken: bool = False) -> Result:
    return Result(
        seed,
        violations=["lost"] * broken,
        simulated_seconds=70.25,
        trouble_seconds=60,
        cpu_seconds=2.5,
        operations=700,
        checks=9_000,
        entries=400,
        faults=Counter(kill=3, pause=2),
    )


@pytest.mark.parametrize("row", [ROW, replace(ROW, failing=()), replace(ROW, failing=(100,), cpu_seconds=0.1)])
def test_a_row_is_read_as_it_was_written(row: Row) -> None:
    assert parse_row(str(row)) == row


def test_what_is_no_row_is_none() -> None:
    for line in ("", "text", "| --- | --- |", str(ROW)[:-30], str(ROW).replace("100-149", "seeds")):
        assert parse_row(line) is None


def test_rows_are_added_and_summed_and_the_next_seed_is_after_all(tmp_path: Path) -> None:
    path = tmp_path / "runs.md"
    assert Table(path).next_seed == 0
    Table(path).add(ROW)
    Table(path).add(replace(ROW, first=0, last=49, shortest_seconds=60, failing=()))
    table = Table(path)
    assert table.next_seed == 150
    assert len(table.rows) == 2
    totals = table.totals()
    assert (totals["seeds"], totals["simulated_seconds"], totals["shortest_seconds"]) == (100, 8_642, 60)
    assert (totals["faults"], totals["failing_seeds"]) == (2_468, [107, 133])
    assert "In all 100 seeds of 60 simulated seconds or more" in path.read_text()
    assert "Seeds with violations: 2." in path.read_text()


def test_what_a_run_that_was_cut_off_leaves_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "runs.md"
    Table(path).add(ROW)
    before = path.read_text()
    (tmp_path / "runs.md.new").write_text(before[:-50])
    Table(path).add(replace(ROW, first=150, last=199))
    assert Table(path).rows[0] == ROW
    assert Table(path).next_seed == 200
    assert sorted(each.name for each in tmp_path.iterdir()) == ["runs.md"]


def test_a_row_that_somebody_has_broken_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "runs.md"
    Table(path).add(ROW)
    path.write_text(path.read_text().replace("100-149", "100 to 149"))
    with pytest.raises(ValueError, match="row"):
        Table(path)


def test_each_chunk_becomes_a_row_as_soon_as_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs.md"
    rows = []
    for result in record(Table(path), (_result(seed, broken=seed == 4) for seed in range(8)), 3):
        rows.append(len(Table(path).rows))
        assert result.seed == len(rows) - 1
    assert rows == [0, 0, 1, 1, 1, 2, 2, 2]
    found = [(row.first, row.last, row.seeds, row.failing) for row in Table(path).rows]
    assert found == [(0, 2, 3, ()), (3, 5, 3, (4,)), (6, 7, 2, ())]
    first = Table(path).rows[0]
    assert (first.simulated_seconds, first.faults, first.operations, first.checked) == (211, 15, 2_100, 29_100)
    assert (first.trouble_seconds, first.shortest_seconds, first.cpu_seconds) == (180, 70, 7.5)
    assert first.versions.version.startswith("0.")


def test_progress_says_how_fast_it_is_and_how_long_it_takes() -> None:
    progress = Progress(100, None)
    for seed in range(25):
        progress.after(_result(seed, broken=seed == 1))
    line = progress.line(100.0)
    assert line.startswith("25 of 100 seeds in 0:01:40; 0.49 simulated hours, 0.0049 simulated hours per second; ")
    assert line.endswith("28 simulated seconds per second of CPU; 1 failing; about 0:05:00 left")


# -- the command ---------------------------------------------------------------------------------------------------


def _simulate(*arguments: str) -> tuple[int, list[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.simulation", *arguments, "--jobs", "1"]
    told = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert told.returncode in (0, 1), told.stderr
    return told.returncode, told.stdout.splitlines()


def test_a_run_goes_on_after_the_last_seed_of_its_table(tmp_path: Path) -> None:
    path = tmp_path / "runs.md"
    short = ("--trouble", "1", "--table", str(path), "--chunk", "1")
    code, lines = _simulate("--seeds", "2", "--from", "5", *short)
    told = json.loads(lines[-1])
    assert (code, told["seeds"], told["violations"]) == (0, 2, 0)
    assert told["simulated_seconds"] > 2
    assert told["operations_checked"] > 100
    assert isinstance(told["faults"], int)
    _simulate("--seeds", "1", "--at-least", "9", *short)
    table = Table(path)
    assert [(row.first, row.last) for row in table.rows] == [(5, 5), (6, 6), (7, 7)]
    assert table.rows[-1].shortest_seconds >= 9
    code, lines = _simulate("--totals", "--table", str(path))
    assert (code, json.loads(lines[-1])) == (0, table.totals())


def test_a_violation_is_told_by_its_seed_how_to_replay_it_its_end_and_the_exit_code() -> None:
    code, lines = _simulate("--seeds", "1", "--from", "3", "--trouble", "2", "--mutant", "skip_fsync")
    told = json.loads(lines[-1])
    assert (code, told["failing_seeds"]) == (1, [3])
    assert "replay: python -m tests.simulation --seed 3 --trouble 2 --mutant skip_fsync" in lines
    assert any(" CHECK " in line for line in lines)


def test_the_table_of_mistakes_is_made_by_a_command() -> None:
    code, lines = _simulate("--mutants", "--mutant", "skip_fsync", "--seeds", "2")
    assert code == 0
    assert lines[0].startswith("| `skip_fsync` | the journal is not synced | 1 | ")
    assert "applied index 1" in lines[0]
    code, lines = _simulate("--mutants", "--mutant", "fire_late", "--seeds", "1", "--trouble", "0.1")
    assert (code, lines) == (1, ["| `fire_late` | timers fire 8 s late | not in 1 |  |"])
