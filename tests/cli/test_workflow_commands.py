"""What a script gets: exit codes and JSON; what a person gets: the facts, on one screen."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.app import cli
from orchestrator.cli.session import Session
from orchestrator_client import (
    AlreadyExists,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    TaskStatus,
    WorkflowStatus,
    WrongState,
)
from tests.cli.fakes import FakeClient, attempt, execution


@pytest.fixture
def fake() -> FakeClient:
    return FakeClient()


def run(fake: FakeClient, *arguments: str, environment: dict[str, str] | None = None, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, arguments, obj=Session(connect=fake), env=environment, input=stdin)


@pytest.mark.parametrize(("arguments", "call"), [
    ("workflow start order", ("start", "order", {}, {"if_exists": "fail", "idempotency_strategy": "fail",
                                                     "created_by": "cli"})),
    ("workflow start order --idempotency-key k --idempotency-strategy fail_on_running",
     ("start", "order", {}, {"if_exists": "fail", "idempotency_key": "k", "idempotency_strategy": "fail_on_running",
                             "created_by": "cli"})),
    ("workflow start order -i {\"id\":1} --id x --if-exists return --correlation-id c --version 2 --priority 3",
     ("start", "order", {"id": 1}, {"id": "x", "if_exists": "return", "correlation_id": "c", "version": 2,
                                    "idempotency_strategy": "fail", "priority": 3, "created_by": "cli"})),
    ("workflow start order --domain a=east,west --domain *=north --created-by me",
     ("start", "order", {}, {"if_exists": "fail", "idempotency_strategy": "fail", "created_by": "me",
                             "task_to_domain": {"a": "east,west", "*": "north"}})),
    ("workflow get order-1", ("get", "order-1", True)),
    ("workflow get order-1 --no-tasks", ("get", "order-1", False)),
    ("task signal order-1", ("signal_task", "order-1", "COMPLETED", None, 0.0, "TARGET_WORKFLOW")),
    ("task signal order-1 failed -o {\"by\":\"me\"}",
     ("signal_task", "order-1", "FAILED", {"by": "me"}, 0.0, "TARGET_WORKFLOW")),
    ("workflow signal order-1 paid -p {\"by\":\"card\"}", ("signal", "order-1", "paid", {"by": "card"})),
    ("workflow signal order-1 paid", ("signal", "order-1", "paid", {})),
    ("workflow pause order-1", ("pause", "order-1")),
    ("workflow resume order-1", ("resume", "order-1")),
    ("workflow retry order-1", ("retry", "order-1", False)),
    ("workflow terminate order-1", ("terminate", "order-1", "", None)),
    ("workflow terminate order-1 --reason why --compensation skip", ("terminate", "order-1", "why", "skip")),
    ("workflow compensation retry order-1", ("retry_compensation", "order-1")),
    ("workflow compensation skip order-1", ("skip_compensation", "order-1")),
    ("workflow compensation abandon order-1 --reason why", ("abandon_compensation", "order-1", "why")),
])
def test_each_command_asks_for_one_thing_and_says_that_it_was_done(
        fake: FakeClient, arguments: str, call: tuple[Any, ...]) -> None:
    for more in ([], ["--json"]):
        fake.calls.clear()
        result = run(fake, *arguments.split(), *more)
        assert result.exit_code == 0, result.output
        assert fake.calls[1:] == [call] and result.stderr == ""
        assert isinstance(json.loads(result.stdout), dict) if more else result.stdout


def test_definitions_are_unregistered_one_version_or_all_that_were_asked_for(fake: FakeClient) -> None:
    one = run(fake, "workflow", "unregister", "order", "--version", "2")
    assert one.stdout.endswith("unregistered order version 2\n")
    assert run(fake, "workflow", "unregister", "order", "--all-versions").stdout.endswith("unregistered order\n")
    assert run(fake, "task", "unregister", "charge").stdout.endswith("unregistered charge\n")
    assert [call for call in fake.calls if call[0] != "connect"] == [
        ("delete_workflow_definition", "order", 2),
        ("delete_workflow_definition", "order", None),
        ("delete_task_definition", "charge"),
    ]
    fake.calls.clear()
    for options in ([], ["--version", "2", "--all-versions"]):
        assert run(fake, "workflow", "unregister", "order", *options).exit_code == 2
    assert not any(call[0] == "delete_workflow_definition" for call in fake.calls)


def test_files_are_registered(fake: FakeClient, tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text("{}")
    assert run(fake, "workflow", "register", str(file), "--overwrite").exit_code == 0
    assert fake.calls[1] == ("register", (str(file),), True)
    assert run(fake, "task", "register", str(file)).exit_code == 0
    assert run(fake, "workflow", "validate", str(file)).stdout.startswith("✓ valid: ")
    assert fake.calls[-1] == ("validate", str(file))
    assert run(fake, "task", "register", str(tmp_path / "absent")).exit_code == 2


@pytest.mark.parametrize(("error", "code"), [
    (InvalidRequest("bad"), 2), (AlreadyExists("taken"), 4), (WrongState("no", reason="PIVOT_PASSED"), 4),
    (NoLeader("none"), 5), (Overloaded("full"), 5), (OutcomeUnknown("gone"), 5), (DeadlineExceeded("late"), 5),
    (InternalError("bug"), 1),
])
def test_an_error_is_one_line_on_stderr_and_its_exit_code(fake: FakeClient, error: Exception, code: int) -> None:
    fake.fails = error
    result = run(fake, "workflow", "pause", "order-1")
    assert result.exit_code == code and result.stdout == ""
    assert result.stderr.startswith(f"error: {error}") and result.stderr.count("\n") == 1


def test_what_is_not_there_is_not_found(fake: FakeClient) -> None:
    result = run(fake, "workflow", "get", "order-9")
    assert (result.exit_code, result.stderr) == (3, "error: there is no workflow 'order-9' [WORKFLOW_NOT_FOUND]\n")


@pytest.mark.parametrize("arguments", [
    ["workflow", "start", "order", "-i", "[1]"], ["workflow", "start", "order", "-i", "{"],
    ["workflow", "start", "order", "-i", "@/absent"], ["workflow", "list", "--status", "BORED"],
    ["workflow", "terminate", "x", "--compensation", "maybe"], ["workflow", "fly"], ["workflow", "get"],
    ["workflow", "get", "x", "--endpoint", ""], ["workflow", "get", "x", "--timeout", "0"],
])
def test_wrong_usage(fake: FakeClient, arguments: list[str]) -> None:
    result = run(fake, *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_options_are_taken_before_and_after_the_command_and_the_later_wins(fake: FakeClient) -> None:
    environment = {"ORCHESTRATOR_ENDPOINTS": "env:1", "ORCHESTRATOR_NAMESPACE": "shop"}
    run(fake, "workflow", "get", "order-1", environment=environment)
    run(fake, "-e", "a:1,b:2", "--timeout", "3", "workflow", "get", "order-1", environment=environment)
    run(fake, "-e", "a:1", "workflow", "get", "order-1", "-e", "c:3", "-n", "n", environment=environment)
    assert [call for call in fake.calls if call[0] == "connect"] == [
        ("connect", ["env:1"], "shop", 10.0), ("connect", ["a:1", "b:2"], "shop", 3.0), ("connect", ["c:3"], "n", 10.0)]
    before = run(fake, "--json", "workflow", "get", "order-1")
    after = run(fake, "workflow", "get", "order-1", "--json")
    assert before.stdout == after.stdout and json.loads(before.stdout)["output"] == {"tracking": "T1"}


def test_input_from_a_file_and_from_stdin(fake: FakeClient, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"from": "file"}')
    run(fake, "workflow", "start", "order", "-i", f"@{file}")
    run(fake, "workflow", "start", "order", "-i", "@-", stdin='{"from": "stdin"}')
    assert [call[2] for call in fake.calls if call[0] == "start"] == [{"from": "file"}, {"from": "stdin"}]


def test_waiting_answers_how_it_ended(fake: FakeClient) -> None:
    assert run(fake, "workflow", "start", "order", "--wait").exit_code == 0
    assert run(fake, "workflow", "wait", "order-1", "--wait-timeout", "5").exit_code == 0
    assert ("wait", "order-1", 5.0) in fake.calls
    assert run(fake, "workflow", "wait", "order-2").exit_code == 1
    result = run(fake, "workflow", "start", "order", "--id", "order-2", "--if-exists", "return", "--wait", "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["reason"] == "NO_TRUCKS"


def test_one_workflow_for_people(fake: FakeClient) -> None:
    text = run(fake, "workflow", "get", "order-2").stdout
    for words in ("order version 1", "FAILED", "NO_TRUCKS", "failed task", "compensation", "COMPLETE", "undone"):
        assert words in text
    assert any(line.split()[:4] == ["ship", "SIMPLE", "2", "FAILED"] for line in text.splitlines())


def test_one_workflow_for_scripts(fake: FakeClient) -> None:
    document = json.loads(run(fake, "workflow", "get", "order-2", "--json").stdout)
    assert document["status"] == "FAILED" and document["start_time"] == "2026-01-31T12:00:00.000Z"
    assert document["compensation"] == {"state": "COMPLETE", "left": [], "done": [
        {"reference": "charge", "iteration": 0, "outcome_unknown": False, "reason": ""}]}


def test_what_users_stored_can_not_take_over_the_terminal(fake: FakeClient) -> None:
    fake.executions["x"] = execution("x", WorkflowStatus.FAILED, reason="\x1b[2J[red]gone[/red]\nforged",
                                     input={"a": "\x1b[2J"})
    text = run(fake, "workflow", "get", "x").stdout
    assert "\x1b" not in text and "\\x1b[2J[red]gone[/red]\\nforged" in text


def test_the_list_is_filtered_and_bounded_and_says_so(fake: FakeClient) -> None:
    result = run(fake, "workflow", "list", "--name", "order", "--status", "failed", "--status", "RUNNING",
                 "--compensation", "STUCK", "--correlation-id", "c", "--started-from", "2026-01-31T12:00:00+0100",
                 "--limit", "1")
    filters = fake.calls[-1][1]
    assert filters["statuses"] == ("FAILED", "RUNNING") and filters["compensation_states"] == ("STUCK",)
    assert filters["started_from"] == datetime.fromisoformat("2026-01-31T11:00:00+00:00")
    assert "order-1" in result.stdout and "order-2" not in result.stdout and "there are more" in result.stderr
    everything = run(fake, "workflow", "list", "--limit", "0", "--json")
    assert [found["workflow_id"] for found in json.loads(everything.stdout)] == ["order-1", "order-2"]
    assert everything.stderr == ""


def test_watching_prints_what_changed_and_ends_as_the_workflow_did(fake: FakeClient) -> None:
    result = run(fake, "workflow", "watch", "order-2")
    words = [line.split()[1:] for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert words == [["order-2", "RUNNING"], ["charge", "COMPLETED"], ["ship", "#2", "FAILED", "NO_TRUCKS"],
                     ["order-2", "FAILED", "NO_TRUCKS"]]
    lines = run(fake, "workflow", "watch", "order-1", "--json").stdout.splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["RUNNING", "COMPLETED"]


def test_a_compensating_attempt_says_what_it_undoes(fake: FakeClient) -> None:
    fake.executions["x"] = execution("x", WorkflowStatus.COMPENSATING, tasks=[
        attempt("charge_undo", TaskStatus.IN_PROGRESS, compensates="charge")])
    assert "undoes charge" in run(fake, "workflow", "get", "x").stdout


def test_help_documents_the_exit_codes() -> None:
    text = CliRunner().invoke(cli, ["--help"]).stdout
    assert "Exit codes:" in text and "5  the cluster did not answer" in text


def test_queues_are_shown_with_their_limits(fake: FakeClient) -> None:
    result = run(fake, "task", "queues", "pay", "ship")
    assert fake.calls[1:] == [("task_queues", "pay", "ship")]
    heading, row = result.stdout.splitlines()
    assert heading.split() == ["QUEUE", "WAITING", "OLDEST", "WITH", "WORKERS", "LIMITS", "WORKERS"]
    assert " ".join(row.split()) == "eu:pay 3 61.5 s 1 2 at once, 4 of 5 in 1 s (held back) 1"
    [queue] = json.loads(run(fake, "task", "queues", "--json").stdout)
    assert queue["workers"] == [{"worker_id": "p", "slots": 0, "used": 0, "last_poll_age_ms": 12}]


def test_who_polled_a_queue_is_shown(fake: FakeClient) -> None:
    result = run(fake, "task", "queues", "pay", "--workers")
    heading, row = result.stdout.splitlines()
    assert heading.split() == ["QUEUE", "WORKER", "SLOTS", "USED", "LAST", "POLL"]
    assert row.split() == ["eu:pay", "p", "0.0", "s"]


def test_workflows_are_searched(fake: FakeClient) -> None:
    options = ("-q", "status = FAILED", "-f", "truck", "-s", "endTime:DESC", "--limit", "1")
    result = run(fake, "workflow", "search", *options)
    asked = {"query": "status = FAILED", "free_text": "truck", "sort": "endTime:DESC", "page_size": 2}
    assert fake.calls[1:] == [("search", asked)]
    assert len(result.stdout.splitlines()) == 2 and result.stdout.startswith("ID ")
    assert result.stderr == "there are more; these are the first 1 (--limit 0 for all)\n"
    counted = run(fake, "workflow", "search", "-q", "status = FAILED", "--count")
    assert (fake.calls[-1], counted.stdout) == (("count", "status = FAILED", ""), "10000 or more\n")


def test_tasks_are_searched(fake: FakeClient) -> None:
    result = run(fake, "task", "search", "--query", "status = FAILED", "--full")
    assert fake.calls[1:] == [("search_tasks", {"query": "status = FAILED", "full": True, "page_size": 51})]
    heading, first, second = result.stdout.splitlines()
    assert heading.split() == ["TASK", "WORKFLOW", "ID", "TRY", "STATUS", "WORKER", "SCHEDULED", "REASON"]
    assert "charge" in first and "order-2" in second and "NO_TRUCKS" in second
    [_, found] = json.loads(run(fake, "task", "search", "--json").stdout)
    assert (found["workflow_id"], found["task"]["reference"]) == ("order-2", "ship")
    counted = run(fake, "task", "search", "-q", "status = FAILED", "-f", "truck", "--count")
    assert (fake.calls[-1], counted.stdout) == (("count_tasks", "status = FAILED", "truck"), "7\n")
    assert json.loads(run(fake, "task", "search", "--count", "--json").stdout) == {"count": 7, "is_lower_bound": False}


def test_what_is_registered_is_shown(fake: FakeClient) -> None:
    result = run(fake, "workflow", "definitions")
    heading, row = result.stdout.splitlines()
    assert heading.split() == ["WORKFLOW", "V", "TASKS", "DESCRIPTION"]
    assert row.split() == ["order", "2", "1", "sells"]
    assert json.loads(run(fake, "workflow", "definition", "order", "--version", "2").stdout)["name"] == "order"
    assert fake.calls[-1] == ("workflow_definition", "order", 2)
    heading, row = run(fake, "task", "definitions").stdout.splitlines()
    assert (heading.split(), row.split()) == (["TASK", "RETRIES", "TIMEOUT", "DESCRIPTION"], ["pay", "3", "60"])
    assert json.loads(run(fake, "task", "definition", "pay").stdout) == {"name": "pay"}
