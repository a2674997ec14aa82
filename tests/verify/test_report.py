"""What a run says of itself: numbers by fault, the page, JSON, the picture, and the section of the table."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from orchestrator.verify import plot, report
from orchestrator.verify.judge import Violation
from orchestrator.verify.models import DONE
from orchestrator.verify.report import Report
from orchestrator.verify.statistics import NO_FAULT, Statistics, Window, longest_silence_s, percentile
from orchestrator.verify.table import Section
from tests.verify.making import operation

KILL = Window("kill the leader", "a", 10.0, 12.0, 13.0)


def statistics() -> Statistics:
    found = Statistics(0.0)
    found.add([
        *(operation("write", at, at + 0.1, DONE) for at in (1.0, 2.0, 9.0)),
        operation("write", 9.9, 11.9, DONE),  # it began before the fault
        operation("write", 10.5, None),
        operation("read", 12.5, 12.6, {"is": "shown"}),
        operation("wait", 10.0, 12.8, {"is": "shown"}),
        operation("probe", 10.0, 10.1, outcome="none"),
    ], [KILL])
    found.rests.append((4.2, 5.9))
    return found


def made(*violations: Violation, **more: Any) -> Report:
    known: dict[str, Any] = {
        "seed": 7, "began": "2026-11-23 08:00", "minutes": 0.25, "version": "orchestrator 1", "cluster": "x",
        "rounds": 1, "objects": 3, "undecided": 0, "lost_sessions": 0, "seconds": 15, "violations": list(violations),
        "replay": "orchestrator verify --seed 7",
    }
    return report.of(statistics(), **(known | more))


def test_operations_belong_to_the_faults_that_they_met() -> None:
    calm, killed = statistics().rows()
    assert (calm.kind, calm.operations, calm.answered, calm.faults) == (NO_FAULT, 3, 3, 0)
    assert (killed.kind, killed.operations, killed.answered, killed.faults) == ("kill the leader", 3, 2, 1)
    assert round(killed.availability, 3) == 0.667 and round(killed.max_ms) == 2000
    assert round(killed.silence_max_s, 1) == 1.9 and killed.recovery_max_s == 1.0
    assert statistics().operations == 8


def test_percentiles_are_samples() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0 and percentile([1.0, 2.0], 0.99) == 2.0
    assert math.isnan(percentile([], 0.5))


def test_a_silence_counts_from_the_fault_and_across_its_end() -> None:
    assert longest_silence_s([9.0, 10.5, 14.0, 20.0], KILL) == 3.5
    assert longest_silence_s([11.0, 12.0, 13.0, 30.0], KILL) == 1.0
    assert longest_silence_s([9.0], KILL) == 0.0


def test_the_page() -> None:
    page = report.text(made())
    assert page.startswith("orchestrator verify: no violation\n") and page.endswith("violations  none\n")
    assert "seed        7; again: orchestrator verify --seed 7" in page
    assert "66.67 %" in page and "1 of 1 kinds, in 1 rounds" in page
    assert all(len(line) < 200 for line in page.splitlines())


def test_the_page_of_a_violation_has_its_excerpt() -> None:
    page = report.text(made(Violation("order", "v-register-0x1", "it went back", ("1.0 to 2.0  c1.0  read -> 7",))))
    assert page.startswith("orchestrator verify: 1 VIOLATION\n")
    assert "  order: v-register-0x1: it went back" in page and "    1.0 to 2.0  c1.0  read -> 7" in page
    many = report.text(made(*[Violation("order", str(number), "x") for number in range(7)]))
    assert "and 2 more" in many


def test_a_run_that_is_not_whole_says_so() -> None:
    for more in ({"interrupted": True}, {"problems": ["x"]}, {"undecided": 1}):
        assert "not whole" in made(**more).verdict
    assert "VIOLATION" in made(Violation("order", "", "x"), interrupted=True).verdict


def test_the_document_is_plain_json() -> None:
    never = made(Violation("order", "v", "x", ("line",)))
    never.windows.append(Window("partition", "b", 14.0))
    document = json.loads(json.dumps(never.document(), allow_nan=False))
    assert document["windows"][1]["recovered"] is None and document["by_fault"][0]["silence_max_s"] is None
    assert document["violations"] == [{"promise": "order", "subject": "v", "what": "x", "excerpt": ["line"]}]
    assert document["operations"] == 8 and document["seed"] == 7


def test_the_picture_has_each_fault_where_it_was() -> None:
    picture = ElementTree.fromstring(plot.svg(made()))
    name = "{http://www.w3.org/2000/svg}"
    [band] = [each for each in picture.iter(f"{name}rect") if each.get("class") == "fault"]
    left, width = float(band.get("x", 0)), float(band.get("width", 0))
    assert abs(left - (plot.LEFT + plot.WIDTH * 10 / 15)) < 1 and abs(width - plot.WIDTH * 3 / 15) < 1
    assert [len((line.get("points") or "").split()) for line in picture.iter(f"{name}polyline")] == [4, 9]
    assert "1  kill the leader (1)" in plot.svg(made())


def test_a_picture_of_nothing() -> None:
    empty = report.of(Statistics(0.0), seed=1, began="", minutes=0, version="", cluster="", rounds=0, objects=0,
                      undecided=0, lost_sessions=0, seconds=0, violations=[], replay="")
    ElementTree.fromstring(plot.svg(empty))


def test_a_section_is_added_and_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "runs.md"
    page.write_text("# Runs\n\nOne.\n")
    section = Section(page, "On a quiet machine.")
    section.write(made())
    section.write(made(Violation("order", "v", "x")))
    text = page.read_text()
    assert text.startswith("# Runs\n\nOne.\n\n### 2026-11-23 08:00 UTC, orchestrator 1\n\nOn a quiet machine.\n")
    assert text.count("###") == 1 and "- order: v: x" in text
    assert "| kill the leader | 1 | 3 | 66.67 % |" in text
    Section(page, "").write(made())
    assert page.read_text().count("###") == 2
