"""The audit log: whole lines in whatever file has the name, and nothing done that could not be told of."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from orchestrator.access import audit as audits
from orchestrator.access.audit import AuditLog, AuditUnavailable

MOMENT_MS = 1_900_000_000_123


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def audit(file: Path) -> AuditLog:
    made = AuditLog(file, node="a", wall_ms=lambda: MOMENT_MS)
    made.open()
    return made


def test_a_line_has_time_and_node_and_what_it_was_given(audit: AuditLog, file: Path) -> None:
    audit.record(principal="alice", method="M", target=["a", "b"], reason="", namespace=None, request_id="x\ny")
    assert lines(file) == [{
        "time": "2030-03-17T17:46:40.123Z", "node": "a", "principal": "alice", "method": "M", "target": ["a", "b"],
        "request_id": "x\ny",
    }]
    assert file.stat().st_mode & 0o137 == 0  # others may not read it


def test_lines_are_added_to_what_is_there(audit: AuditLog, file: Path) -> None:
    file.write_text('{"before":1}\n')
    audit.record(method="M")
    assert len(lines(file)) == 2


def test_a_file_that_was_renamed_or_removed_is_made_anew(audit: AuditLog, file: Path) -> None:
    audit.record(method="1")
    file.rename(file.with_suffix(".1"))
    audit.record(method="2")
    audit.record(method="3")
    file.unlink()
    audit.record(method="4")
    assert [line["method"] for line in lines(file.with_suffix(".1"))] == ["1"]
    assert [line["method"] for line in lines(file)] == ["4"]


def test_what_can_not_be_written_is_kept_and_stands_in_the_log_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    failures: list[None] = []
    audit = AuditLog(folder / "log", node="a", wall_ms=lambda: MOMENT_MS)
    audit.on_failure = lambda: failures.append(None)
    audit.open()
    audit.require()
    folder.rename(tmp_path / "gone")
    audit.record(method="1")
    audit.record(method="2")
    assert len(failures) == 2 and '"method":"1"' in caplog.text
    with pytest.raises(AuditUnavailable, match="No such file"):
        audit.require()
    folder.mkdir()
    audit.require()
    audit.record(method="3")
    assert [line["method"] for line in lines(folder / "log")] == ["1", "2", "3"]


def test_half_a_line_is_taken_back(audit: AuditLog, file: Path) -> None:
    audit.record(method="1")
    whole = audit._file

    class Full:
        def fileno(self) -> int:
            assert whole is not None
            return whole.fileno()

        def write(self, data: bytes) -> int:
            assert whole is not None
            return whole.write(data[:7])

    audit._file = Full()  # type: ignore[assignment]  # a disk that is full
    audit.record(method="2")
    with pytest.raises(AuditUnavailable):
        audit.require()
    assert [line["method"] for line in lines(file)] == ["1"]
    audit._file = whole
    audit.require()
    assert [line["method"] for line in lines(file)] == ["1", "2"]


def test_without_a_file_lines_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    audit = AuditLog(None, node="a", wall_ms=lambda: MOMENT_MS)
    audit.open()
    with caplog.at_level(logging.INFO, audits.LOGGER):
        audit.record(principal="alice", method="M", target="t", outcome="OK", reason="")
    audit.require()
    (record,) = caplog.records
    assert record.name == "orchestrator.audit" and record.getMessage() == "M"
    assert vars(record)["principal"] == "alice" and vars(record)["target"] == "t"


def test_a_node_does_not_start_with_a_log_that_it_can_not_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AuditLog(tmp_path / "none" / "log", node="a", wall_ms=lambda: 0).open()
