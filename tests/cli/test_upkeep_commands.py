"""Operating on one workflow and on many, updating, reading logs, and the policy of keeping, by the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator_client import BulkResult, OperationFailure, RetentionPolicy, TaskLogLine, TaskLogs, WrongState
from tests.cli.fakes import FakeClient
from tests.cli.test_workflow_commands import run

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Upkeeper(FakeClient):
    def __init__(self) -> None:
        super().__init__()
        self.policy = RetentionPolicy(timedelta(days=7), None, 10 << 30)

    async def operate(self, operation: str, ids: Any, **options: Any) -> BulkResult:
        self._called("operate", operation, tuple(ids), {key: value for key, value in options.items() if value})
        failed = {one: OperationFailure("WORKFLOW_NOT_FOUND", f"no {one}") for one in ids if one == "none"}
        return BulkResult([one for one in ids if one not in failed], failed)

    async def task_logs(self, workflow_id: str, **options: Any) -> TaskLogs:
        self._called("task_logs", workflow_id, {key: value for key, value in options.items() if value})
        lines = [TaskLogLine(NOON, "pay", 1, "t1", "charging"), TaskLogLine(NOON, "pay", 2, "t2", "\x1b[2J")]
        return TaskLogs(lines, 7)

    async def add_task_logs(self, workflow_id: str, task_id: str, *texts: str) -> bool:
        self._called("add_task_logs", workflow_id, task_id, *texts)
        return task_id == "t1"

    async def retention(self) -> RetentionPolicy:
        return self.policy

    async def set_retention(self, **given: Any) -> RetentionPolicy:
        self._called("set_retention", given)
        return self.policy


@pytest.fixture
def fake() -> Upkeeper:
    return Upkeeper()


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ("workflow pause w1 w2", ("operate", "pause", ("w1", "w2"), {})),
        ("workflow resume w1 w2", ("operate", "resume", ("w1", "w2"), {})),
        ("workflow retry w1 w2", ("operate", "retry", ("w1", "w2"), {})),
        (
            "workflow retry w1 w2 --resume-sub-workflows",
            ("operate", "retry", ("w1", "w2"), {"resume_sub_workflows": True}),
        ),
        ("workflow retry w1 --resume-sub-workflows", ("retry", "w1", True)),
        ('workflow push-message w1 {"a":1}', ("push_message", "w1", {"a": 1})),
        ("task add-log w1 t1 one two", ("add_task_logs", "w1", "t1", "one", "two")),
        (
            "workflow terminate w1 w2 --reason why --compensation run",
            ("operate", "terminate", ("w1", "w2"), {"reason": "why", "compensation": "run"}),
        ),
        (
            "workflow terminate w1 --delete --compensation skip",
            ("operate", "terminate_and_delete", ("w1",), {"compensation": "skip"}),
        ),
        ("workflow delete w1 w2", ("operate", "delete", ("w1", "w2"), {})),
        ("workflow delete w1 w2 --keep-effects", ("operate", "delete", ("w1", "w2"), {"effects": "keep"})),
        ("workflow delete w1", ("delete", "w1", None)),
        ("workflow delete w1 --compensate-first", ("delete", "w1", "compensate_first")),
        ('workflow set-variables w1 {"a":1}', ("update_variables", "w1", {"a": 1})),
        ("task update w1 pay completed", ("update_task", "w1", "pay", "COMPLETED", None, "")),
        (
            'task update w1 pay FAILED -o {"a":1} --reason no',
            ("update_task", "w1", "pay", "FAILED", {"a": 1}, "no"),
        ),
    ],
)
def test_each_command_asks_for_one_thing(fake: Upkeeper, arguments: str, call: tuple[Any, ...]) -> None:
    for more in ([], ["--json"]):
        fake.calls.clear()
        result = run(fake, *arguments.split(), *more)
        assert result.exit_code == 0, result.output
        assert fake.calls[1:] == [call]
        assert isinstance(json.loads(result.stdout), dict) if more else "w1" in result.stdout


def test_of_many_each_is_told(fake: Upkeeper) -> None:
    result = run(fake, "workflow", "pause", "w1", "none", "w2")
    assert result.exit_code == 1
    assert [line.strip() for line in result.stdout.splitlines()] == ["✓ paused w1", "✓ paused w2", "✗ none: no none"]
    values = json.loads(run(fake, "workflow", "pause", "w1", "none", "--json").stdout)
    assert values == {
        "succeeded": ["w1"], "failed": {"none": {"reason": "WORKFLOW_NOT_FOUND", "message": "no none"}},
    }


def test_one_that_is_refused_has_its_own_exit_code(fake: Upkeeper) -> None:
    fake.fails = WrongState("not undone: pay", reason="STEPS_NOT_UNDONE")
    result = run(fake, "workflow", "delete", "w1")
    assert (result.exit_code, result.stderr) == (4, "error: not undone: pay [STEPS_NOT_UNDONE]\n")


def test_lines_are_printed_one_by_one_and_cannot_take_over_the_terminal(fake: Upkeeper) -> None:
    result = run(fake, "task", "logs", "w1", "pay")
    assert fake.calls[1:] == [("task_logs", "w1", {"reference": "pay"})]
    assert result.stderr == "7 older lines are not kept any more\n"
    first, second = result.stdout.splitlines()
    assert first.endswith("  pay  charging") and second.endswith("  pay #2  \\x1b[2J")
    values = json.loads(run(fake, "task", "logs", "w1", "--task-id", "t2", "--json").stdout)
    assert (values["dropped"], values["lines"][0]["time"]) == (7, "2026-01-31T12:00:00.000Z")


def test_the_policy_is_shown_and_changed(fake: Upkeeper) -> None:
    shown = run(fake, "cluster", "retention")
    assert "7 days" in shown.stdout and "any number" in shown.stdout
    assert "10 GiB" in shown.stdout and fake.calls[1:] == []
    assert run(fake, "cluster", "retention", "--days", "0.5", "--bytes", "20GiB").exit_code == 0
    given = {"age": timedelta(hours=12), "count": None, "bytes": 20 << 30}
    assert fake.calls[-1] == ("set_retention", given)
    values = json.loads(run(fake, "cluster", "retention", "--count", "0", "--json").stdout)
    assert values == {"age_s": 604_800.0, "count": 0, "bytes": 10 << 30}


@pytest.mark.parametrize(
    "arguments",
    [
        "workflow delete",
        "workflow set-variables w1 [1]",
        "task update w1 pay DONE",
        "cluster retention --bytes 10GB",
        "cluster retention --bytes x",
        "cluster retention --days -1",
    ],
)
def test_what_is_wrong_is_wrong_usage(fake: Upkeeper, arguments: str) -> None:
    assert run(fake, *arguments.split()).exit_code == 2
    assert not fake.calls


def test_lines_for_a_task_that_is_not_there_are_refused(fake: Upkeeper) -> None:
    result = run(fake, "task", "add-log", "w1", "t9", "one")
    assert result.exit_code != 0
    assert "no task with the id 't9'" in result.stderr
