"""Running again, skipping, migrating and explaining by the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator_client import Execution, NotFound, Waiting, WorkflowStatus, WrongState
from tests.cli.fakes import FakeClient, execution
from tests.cli.test_workflow_commands import run

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Operator(FakeClient):
    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[str, list[Waiting]] = {}
        self.obstacles: dict[str, list[str]] = {}

    async def restart(self, workflow_id: str, **options: Any) -> None:
        self._called("restart", workflow_id, _given(options))

    async def rerun(self, workflow_id: str, task_id: str, **options: Any) -> None:
        self._called("rerun", workflow_id, task_id, _given(options))

    async def skip_task(self, workflow_id: str, reference: str, output: Any) -> None:
        self._called("skip_task", workflow_id, reference, output)

    async def migrate(self, workflow_id: str, version: int = 0, *, dry_run: bool = False) -> list[str]:
        self._called("migrate", workflow_id, version, dry_run)
        if workflow_id == "none":
            raise NotFound("no none", reason="WORKFLOW_NOT_FOUND")
        obstacles = self.obstacles.get(workflow_id, [])
        if obstacles and not dry_run:
            raise WrongState("; ".join(obstacles), reason="MIGRATION_UNSAFE")
        return obstacles

    async def explain(self, workflow_id: str) -> list[Waiting]:
        self._called("explain", workflow_id)
        return self.waiting.get(workflow_id, [])

    async def search(self, **conditions: Any) -> AsyncIterator[Execution]:  # type: ignore[override]
        self._called("search", conditions)
        for workflow_id in ("w7", "w8"):
            yield execution(workflow_id, WorkflowStatus.RUNNING)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value}


@pytest.fixture
def fake() -> Operator:
    return Operator()


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ("workflow restart w1", ("restart", "w1", {})),
        (
            "workflow restart w1 --latest --compensate-first",
            ("restart", "w1", {"use_latest_definitions": True, "effects": "compensate_first"}),
        ),
        ("workflow rerun w1", ("rerun", "w1", "", {})),
        (
            'workflow rerun w1 --from t1 --task-input {"a":1} --correlation-id c --keep-effects',
            ("rerun", "w1", "t1", {"task_input": {"a": 1}, "correlation_id": "c", "effects": "keep"}),
        ),
        ('workflow rerun w1 --input {"k":2}', ("rerun", "w1", "", {"workflow_input": {"k": 2}})),
        ("workflow skip-task w1 ship", ("skip_task", "w1", "ship", None)),
        ('workflow skip-task w1 ship --output {"a":1}', ("skip_task", "w1", "ship", {"a": 1})),
        ("workflow migrate w1", ("migrate", "w1", 0, False)),
        ("workflow migrate w1 --to 3 --dry-run", ("migrate", "w1", 3, True)),
        ("workflow explain w1", ("explain", "w1")),
    ],
)
def test_each_command_asks_for_one_thing(fake: Operator, arguments: str, call: tuple[Any, ...]) -> None:
    for more in ([], ["--json"]):
        fake.calls.clear()
        result = run(fake, *arguments.split(), *more)
        assert result.exit_code == 0, result.output
        assert fake.calls[1:] == [call]
        assert isinstance(json.loads(result.stdout), dict) if more else "w1" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "workflow restart",
        "workflow rerun",
        "workflow rerun w1 --input [1]",
        "workflow rerun w1 --task-input x",
        "workflow skip-task w1",
        "workflow skip-task w1 ship --output 7",
        "workflow migrate w1 --to -1",
        "workflow explain",
    ],
)
def test_what_is_wrong_is_wrong_usage(fake: Operator, arguments: str) -> None:
    assert run(fake, *arguments.split()).exit_code == 2
    assert not fake.calls


def test_somebody_is_migrated(fake: Operator) -> None:
    result = run(fake, "workflow", "migrate")
    assert result.exit_code == 2
    assert "name at least one ID" in result.stderr


@pytest.mark.parametrize("arguments", ["workflow restart w1", "workflow rerun w1", "workflow skip-task w1 ship"])
def test_what_is_refused_has_its_own_exit_code(fake: Operator, arguments: str) -> None:
    fake.fails = WrongState("not undone: pay", reason="STEPS_NOT_UNDONE")
    result = run(fake, *arguments.split())
    assert (result.exit_code, result.stderr) == (4, "error: not undone: pay [STEPS_NOT_UNDONE]\n")


def test_of_many_each_is_migrated_for_itself(fake: Operator) -> None:
    fake.obstacles["w2"] = ["pay has begun, and is not there", "ship has begun, and has another type"]
    for more, done, why in (([], "migrated", " [MIGRATION_UNSAFE]"), (["--dry-run"], "can be migrated", "")):
        result = run(fake, "workflow", "migrate", "w1", "w2", "none", *more)
        assert result.exit_code == 1
        assert [line.strip() for line in result.stdout.splitlines()] == [
            f"✓ w1 {done}",
            "✗ w2: pay has begun, and is not there; ship has begun, and has another type" + why,
            "✗ none: no none [WORKFLOW_NOT_FOUND]",
        ]
    values = json.loads(run(fake, "workflow", "migrate", "w1", "none", "--json").stdout)
    assert values == {"w1": "", "none": "no none [WORKFLOW_NOT_FOUND]"}


def test_all_that_run_are_migrated(fake: Operator) -> None:
    result = run(fake, "workflow", "migrate", "--all-of", "order", "w8")
    assert result.exit_code == 0
    assert fake.calls[1:] == [
        ("search", {"name": "order", "statuses": ["RUNNING", "PAUSED"]}),
        ("migrate", "w8", 0, False),
        ("migrate", "w7", 0, False),
    ]


def test_what_is_waited_for_is_followed_through_the_sub_workflows(fake: Operator) -> None:
    fake.waiting = {
        "w1": [Waiting("the workflow c1", NOON, "s", None, "c1"), Waiting("\x1b[2J", NOON, "w", NOON, "")],
        "c1": [Waiting("a worker for 'a': none is connected", NOON, "a", None, "")],
    }
    result = run(fake, "workflow", "explain", "w1")
    assert [call[1] for call in fake.calls[1:]] == ["w1", "c1"]
    assert "a worker for 'a': none is connected" in result.stdout
    assert "\x1b[2J" not in result.stdout
    values = json.loads(run(fake, "workflow", "explain", "w1", "--json").stdout)
    assert [(one["workflow_id"], one["reference"]) for one in values] == [("w1", "s"), ("w1", "w"), ("c1", "a")]
    assert values[1]["until"] == "2026-01-31T12:00:00.000Z"


def test_workflows_that_wait_for_each_other_are_told(fake: Operator) -> None:
    fake.waiting = {
        "w1": [Waiting("the workflow c1", NOON, "s", None, "c1"), Waiting("the workflow c3", NOON, "t", None, "c3")],
        "c1": [Waiting("the workflow c2", NOON, "s", None, "c2")],
        "c2": [Waiting("the workflow c1", NOON, "s", None, "c1")],
    }
    values = json.loads(run(fake, "workflow", "explain", "w1", "--json").stdout)
    said = {(one["workflow_id"], one["reference"]): one["waits_for"] for one in values}
    assert said == {
        ("w1", "s"): "the workflow c1",
        ("w1", "t"): "the workflow c3",
        ("c1", "s"): "the workflow c2, which waits for c1 itself: end one of them, or none goes on",
        ("c2", "s"): "the workflow c1, which waits for c2 itself: end one of them, or none goes on",
    }


def test_what_has_ended_waits_for_nothing(fake: Operator) -> None:
    assert run(fake, "workflow", "explain", "w1").stdout == "✓ w1 has ended: it waits for nothing\n"
