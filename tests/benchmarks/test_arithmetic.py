"""What the benchmarks compute, on numbers whose answer is known."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.engine.model import Execution, Table, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.resident import Bundle
from orchestrator.storage import schema
from orchestrator.storage.reading import content_hash, read_executions, read_residents
from orchestrator.storage.staged import make_batch
from orchestrator.storage.writing import Writer
from tests.benchmarks.arithmetic import (
    cpu_per_1000,
    growth,
    highest_bucket,
    histogram,
    longest_pause,
    median,
    percentile,
)
from tests.benchmarks.finished import add_copies
from tests.benchmarks.measurement import Budget, Measurement, failed, remarks, table, targets, to_json
from tests.benchmarks.memory import log_costs, metrics_of_page, own_bytes_of_status
from tests.benchmarks.offer import Outcomes
from tests.benchmarks.processes import cpu_of_stat


def test_a_percentile_is_a_sample_that_enough_others_do_not_exceed() -> None:
    samples = list(range(1, 101))
    assert [percentile(samples, share) for share in (0.5, 0.99, 0.999, 1)] == [50, 99, 100, 100]
    assert percentile([7.0], 0.5) == percentile([7.0], 0.999) == 7.0
    assert math.isnan(percentile([], 0.5))


def test_the_median_lies_between_the_two_in_the_middle() -> None:
    assert median([1, 2, 9]) == 2
    assert median([1, 2, 4, 9]) == 3
    assert math.isnan(median([]))


def test_a_pause_counts_from_the_last_acknowledgement_before_the_kill() -> None:
    assert longest_pause([1.0, 2.0, 2.9, 4.0, 4.1], 3.0, 4.1) == pytest.approx(1.1)


def test_a_pause_that_ended_before_the_kill_is_not_its_own() -> None:
    assert longest_pause([0.0, 5.0, 5.1, 5.3], 5.05, 5.3) == pytest.approx(0.2)


def test_a_pause_that_has_not_ended_counts_up_to_the_end() -> None:
    assert longest_pause([1.0, 2.0], 2.5, 9.0) == 7.0
    assert longest_pause([], 2.5, 9.0) == 6.5
    assert longest_pause([20.0], 2.5, 9.0) == 6.5


def test_a_moment_after_the_window_ends_no_pause_in_it() -> None:
    assert longest_pause([1.0, 2.0, 3.0, 30.0], 1.5, 4.0) == 1.0


def test_growth_is_that_of_the_line_through_the_values() -> None:
    assert growth([10.0, 15.0, 20.0]) == pytest.approx(2)
    assert growth([5.0] * 7) == pytest.approx(1)
    assert growth([20.0, 15.0, 10.0]) == pytest.approx(0.5)
    # One bad moment in the middle is no growth.
    assert growth([10.0, 10.0, 90.0, 10.0, 10.0]) == pytest.approx(1)
    assert all(math.isnan(growth(values)) for values in ([], [1.0], [0.0, 0.0], [-5.0, 5.0]))


def test_cpu_time_is_of_the_window_only() -> None:
    spent = cpu_per_1000({"leader": 2.0}, {"leader": 3.0, "workers": 0.5}, 500)
    assert spent == {"leader": 2.0, "workers": 1.0}
    assert cpu_per_1000({}, {"leader": 1.0}, 0) == {}


def test_the_highest_bucket_is_of_the_window_only() -> None:
    before = {0.01: 5.0, 0.1: 5.0, 1.0: 6.0, math.inf: 6.0}
    assert highest_bucket(before, {0.01: 8.0, 0.1: 9.0, 1.0: 10.0, math.inf: 10.0}) == 0.1
    assert highest_bucket({}, before) == 1.0
    assert highest_bucket(before, before) == highest_bucket({}, {}) == 0


def test_cpu_time_is_read_whatever_the_process_is_called() -> None:
    text = "17 (a b) c) S 1 17 17 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 4 0 99 1 1\n"
    assert cpu_of_stat(text, 100) == 3.0


def test_what_became_of_an_offer_is_added_up_over_processes() -> None:
    one = Outcomes(Counter(accepted=2, refused=1), [1.0, 2.0], [9.0], 3.0)
    total = Outcomes(Counter(accepted=1), [4.0], [], 5.0)
    total.add(json.loads(json.dumps(vars(one))))
    assert total == Outcomes(Counter(accepted=3, refused=1), [4.0, 1.0, 2.0], [9.0], 5.0)


def test_memory_is_what_no_file_has() -> None:
    assert own_bytes_of_status("Name:\tpython\nVmRSS:\t   2048 kB\nRssAnon:\t     10 kB\nRssFile:\t 9 kB\n") == 10_240
    with pytest.raises(ValueError, match="RssAnon"):
        own_bytes_of_status("VmRSS:\t 5 kB\n")


def test_series_of_one_name_are_added() -> None:
    page = """# HELP a_total about
a_total{node="a",reason="x"} 2.0
a_total{node="a",reason="y"} 3.0
b{node="a"} 7.0
c_bucket{le="1"} 5.0
"""
    assert metrics_of_page(page) == {"a_total": 5.0, "b": 7.0}


def test_what_the_log_cost_is_of_the_window_only() -> None:
    names = ("entry_commands_count", "entry_commands_sum", "workflows_started_total", "apply_seconds_sum")
    before = dict(zip((f"orchestrator_{name}" for name in names), (10.0, 20.0, 5.0, 1.0), strict=True))
    after = dict(zip((f"orchestrator_{name}" for name in names), (20.0, 120.0, 30.0, 1.01), strict=True))
    said = "4.0 commands a workflow, 10.0 commands an entry, 100 us to apply a command"
    assert log_costs(before, after) == said
    commits = {"orchestrator_commit_seconds_sum": 0.02, "orchestrator_commit_seconds_count": 10.0}
    assert log_costs(before, after | commits) == f"{said}, 2.00 ms to commit one"
    assert log_costs(after, after) == ""


def test_the_histogram_has_a_line_for_empty_steps_too() -> None:
    assert histogram([10, 20, 350], 100) == [
        "      0 to   100  " + "#" * 40 + " 2",
        "    100 to   200   0",
        "    200 to   300   0",
        "    300 to   400  " + "#" * 20 + " 1",
    ]
    assert histogram([], 100) == []


def test_a_budget_is_kept_below_its_limit_only() -> None:
    assert Budget("median", 5, "ms", 4.99).kept
    assert not Budget("median", 5, "ms", 5.0).kept
    assert not Budget("median", 5, "ms", math.nan).kept
    assert str(Budget("median", 5, "ms", 1)) == "median < 5 ms"
    verdicts = [Budget("median", 5, "ms", value, aim=2).verdict for value in (1.9, 2.0, 2.1, 5.0, math.nan)]
    assert verdicts == ["aim reached", "aim reached", "kept", "MISSED", "MISSED"]
    assert Budget("median", 5, "ms", 1).verdict == "kept"


def test_verdicts() -> None:
    kept, missed = Budget("median", 5, "ms", 1), Budget("worst", 5, "ms", 9)
    assert Measurement("a", 1, (), 0).verdict == "-"
    assert Measurement("a", 1, (), 0, budgets=(kept,)).verdict == "kept"
    assert Measurement("a", 1, (), 0, budgets=(kept, missed)).verdict == "MISSED"
    assert Measurement("a", 1, (), 0, budgets=(kept,), faults=("lost",)).verdict == "WRONG"


def test_the_report_has_every_row_as_text_and_as_json() -> None:
    measured = Measurement("w3", 16, (1.0, 2.0, 3.0), 12.5, {"leader": 0.5, "workers": 0.25}, notes=("a note",))
    empty = Measurement("start", 1, (), 0.0)
    assert table([measured, empty]).splitlines()[2].split() == [
        "w3", "orchestrator-cluster", "16", "3", "12.5", "2.00", "3.00", "3.00", "3.00", "0.75", "-",
    ]
    assert remarks([measured]) == ["w3 c=16: a note", "w3 c=16: CPU-seconds per 1,000: leader 0.50 + workers 0.25"]
    first, second = json.loads(to_json([measured, empty]))
    assert (first["row"], first["system"], first["concurrency"]) == ("w3", "orchestrator-cluster", 16)
    assert (first["per_second"], first["p50_ms"], first["p99_ms"], first["cpu_s_per_1000"]) == (12.5, 2.0, 3.0, 0.75)
    assert second["p50_ms"] is second["cpu_s_per_1000"] is None


def test_a_row_that_could_not_be_measured_is_wrong_and_says_why() -> None:
    row = failed("w3", ExceptionGroup("several", [ExceptionGroup("more", [RuntimeError("workflow 7 answered 8")])]))
    assert (row.verdict, row.faults) == ("WRONG", ("not measured: RuntimeError: workflow 7 answered 8",))
    assert json.loads(to_json([row]))[0]["per_second"] is None


def test_targets_stand_beside_what_was_measured() -> None:
    budgets = (Budget("median", 5, "ms", 1.5, aim=2), Budget("elections", 1, "", 0))
    lines = targets([Measurement("w3", 1, (), 0, budgets=budgets), Measurement("start", 1, (), 0)]).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["w3", "c=1", "median", "1.50", "ms", "5", "ms", "2", "ms", "aim", "reached"],
        ["w3", "c=1", "elections", "0.00", "1", "-", "kept"],
    ]
    assert targets([Measurement("start", 1, (), 0)]) == ""
    assert Measurement("w3", 1, (), 0, system="other").name == "other: w3 c=1"


def database(path: Path, status: WorkflowStatus) -> Path:
    connection = schema.connect(str(path), None)
    schema.create(connection, schema.Identity("c", 0))
    header = Execution("default", "0", "w3", 1, b"d", status, 1000, 1000)
    task = TaskAttempt(1, "t" * 26, "a", "a", "SIMPLE", TaskStatus.COMPLETED, 1, 1, idempotency_key="k" * 26)
    changes = [
        (Table.EXECUTION, ("default", "0"), header, False),
        (Table.TASK, ("default", "0", 1), task, False),
        (Table.BUNDLE, (b"d",), Bundle(b"d", b"{}", 1), False),
    ]
    Writer(connection).commit([make_batch(changes, 7, 1, b"", b"chain", checkpoint=False)])
    connection.close()
    return path


def test_copies_are_what_the_nodes_would_have_written(tmp_path: Path) -> None:
    paths = [database(tmp_path / name, WorkflowStatus.COMPLETED) for name in ("a.db", "b.db")]
    add_copies(paths, ("default", "0"), 3)
    hashes = set()
    for path in paths:
        connection = schema.connect(str(path), None)
        applied = schema.read_applied(connection)
        assert (applied.index, applied.chain_hash) == (7, b"chain")
        assert applied.content_hash == content_hash(connection)
        hashes.add(applied.content_hash)
        keys = [("default", f"0-copy-{number}") for number in (1, 2, 3)]
        loaded = read_executions(connection, keys).executions
        assert [[table for table, _, _ in rows] for rows in loaded] == [[Table.EXECUTION, Table.TASK]] * 3
        assert len({rows[1][2].task_id for rows in loaded}) == 3
        [bundle] = [row for table, _, row in read_residents(connection) if table is Table.BUNDLE]
        assert bundle.executions == 4
        connection.close()
    assert len(hashes) == 1


def test_what_still_runs_is_not_copied(tmp_path: Path) -> None:
    path = database(tmp_path / "a.db", WorkflowStatus.RUNNING)
    with pytest.raises(ValueError, match="not finished"):
        add_copies([path], ("default", "0"), 1)
