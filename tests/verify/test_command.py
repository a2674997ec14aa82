"""What the command refuses before anything is done, and what it answers with."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli import exits
from orchestrator.cli.app import OneLineErrors
from orchestrator.cli.session import Session
from orchestrator.verify import command
from orchestrator.verify.judge import Violation
from tests.verify.test_report import made

ADDRESS = ("--address", "127.0.0.1:1", "--yes-break", "x")
KILL = ("--fault", "kill=true", "--undo", "kill=true")


def run(*arguments: str) -> Result:
    group = OneLineErrors("orchestrator", commands={"verify": command.verify})
    return CliRunner().invoke(group, ["verify", *arguments], obj=Session())


@pytest.mark.parametrize(("arguments", "said"), [
    ((*ADDRESS,), "takes the faults, too"),
    ((*ADDRESS, "--fault", "kill=true"), "each fault has its --undo"),
    ((*ADDRESS, *KILL, "--undo", "cut=true"), "each fault has its --undo"),
    ((*ADDRESS, "--fault", "kill", "--undo", "kill=true"), "KIND=COMMAND"),
    ((*ADDRESS, *KILL, "--fault", "kill=false"), "each kind once"),
    (("--address", "127.0.0.1:1", *KILL), "--yes-break CLUSTER_ID is needed"),
    ((*ADDRESS, *KILL, "--only", "kill all"), "there are kill, kill a worker"),
    (("--only", "cut"), "there are kill the leader, "),
    (KILL, "without --address there is no"),
    (("--yes-break", "x"), "without --address there is no"),
    (("--undo", "kill=true"), "takes one file"),
])
def test_wrong_usage(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == exits.USAGE and said in result.output


def test_a_record_of_another_run_is_not_touched(tmp_path: Path) -> None:
    record = tmp_path / "x.undo"
    record.write_text("kept")
    result = run(*ADDRESS, *KILL, "--record", str(record))
    assert result.exit_code == exits.REJECTED and f"verify --undo {record}" in result.output
    assert record.read_text() == "kept"


def test_a_file_that_is_no_record(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("something else\n")
    result = run("--undo", str(file))
    assert result.exit_code == exits.USAGE and "not a record" in result.output
    assert file.read_text() == "something else\n"


def test_where_no_cluster_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(command.namespaces.ENTERED, raising=False)
    monkeypatch.setattr(command.namespaces, "obstacle", lambda: "no network namespace can be made")
    monkeypatch.setattr(command.os, "geteuid", lambda: 1000)
    result = run()
    assert result.exit_code == exits.UNAVAILABLE and "this needs root" in result.output


def test_the_files_of_another_run_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_enter_namespace", lambda: None)
    (tmp_path / "crowd").mkdir()
    result = run("--keep", str(tmp_path))
    assert result.exit_code == exits.REJECTED and "another run" in result.output


def test_each_outcome_has_its_exit_code() -> None:
    wrong = Violation("order", "", "x")
    for report, code in (
        (made(), exits.DONE), (made(wrong), exits.VIOLATED), (made(wrong, problems=["not undone: x"]), exits.VIOLATED),
        (made(problems=["not undone: x"]), exits.NOT_UNDONE), (made(problems=["not removed: x"]), exits.NOT_UNDONE),
        (made(interrupted=True), exits.INTERRUPTED), (made(problems=["x"]), exits.NOT_WHOLE),
        (made(undecided=1), exits.NOT_WHOLE),
    ):
        assert command._exit_code(report) == code


def test_the_replay_is_a_command() -> None:
    options = {"seed": 7, "minutes": 0.5, "rounds": 2, "kinds": ["kill all"], "faults": [], "undos": [], "address": "",
               "cluster_id": ""}
    assert command._replay(options) == "orchestrator verify --seed 7 --minutes 0.5 --rounds 2 --only 'kill all'"
