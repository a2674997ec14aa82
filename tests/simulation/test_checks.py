"""The checks by themselves: each finds what it is for, and leaves alone what may be."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.engine.model import CompensationState, Execution, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator_client import execution as seen
from tests.simulation import findings, timing
from tests.simulation.held import Held
from tests.simulation.history import (
    FAILED,
    OK,
    UNKNOWN,
    History,
    Operation,
    View,
    linearizable,
    register_model,
)

# -- what watchers are shown ----------------------------------------------------------------------------------------


class Watched:
    """A history at whose clock one can turn, and a watch that began at 1."""

    def __init__(self) -> None:
        self.now = 1.0
        self.violations: list[str] = []
        self.history = History(lambda: self.now, lambda who, what: None, self.violations.append)
        self.view = self.watch()

    def watch(self) -> View:
        return View(self.history, self.history.invoke("s", "watch", "default/w"))

    def show(self, second: int, status: str = "RUNNING", view: View | None = None, **tasks: str) -> list[str]:
        self.now += 1
        (view or self.view).show(_seen(second, status, tasks))
        return self.violations

    def read(self, second: int, since: float, status: str = "RUNNING") -> list[str]:
        operation = Operation("c", "get", "default/w", "", since, self.now, OK)
        self.history.read(operation, (1, float(second)), "" if status == "RUNNING" else status)
        return self.violations


def _seen(second: int, status: str, tasks: dict[str, str]) -> seen.Execution:
    attempts = [SimpleNamespace(task_id=name, status=seen.TaskStatus(value)) for name, value in tasks.items()]
    fields: Any = dict.fromkeys(seen.Execution.__dataclass_fields__)
    fields |= {"status": seen.WorkflowStatus(status), "run": 1, "tasks": attempts}
    return seen.Execution(**fields | {"update_time": datetime.fromtimestamp(second, UTC)})


def test_a_watcher_may_be_shown_the_same_again_and_what_is_newer() -> None:
    watched = Watched()
    watched.show(10, a="SCHEDULED")
    watched.show(10, a="IN_PROGRESS")
    watched.show(11, a="FAILED")
    watched.show(11, a="COMPLETED_WITH_ERRORS")
    assert not watched.show(12, "COMPLETED", a="COMPLETED_WITH_ERRORS")


def test_a_watcher_is_shown_nothing_older() -> None:
    watched = Watched()
    watched.show(10)
    assert "after" in watched.show(9)[0]


def test_what_has_ended_is_shown_last() -> None:
    watched = Watched()
    watched.show(10, "FAILED")
    assert "after FAILED" in watched.show(11)[0]


@pytest.mark.parametrize("after", [{"a": "IN_PROGRESS"}, {}])
def test_an_attempt_that_has_ended_stays_as_it_is(after: dict[str, str]) -> None:
    watched = Watched()
    watched.show(10, a="COMPLETED")
    assert "a" in watched.show(11, **after)[0]


def test_whoever_reads_after_a_watcher_sees_no_less() -> None:
    watched = Watched()
    watched.show(10)
    assert not watched.read(9, since=1.5)
    assert "an earlier one" in watched.read(9, since=2.5)[0]


def test_the_first_sight_is_as_new_as_any_read_before_the_watch_and_the_others_are_told_when_they_come() -> None:
    watched = Watched()
    watched.show(8)
    watched.now = 5.0
    watched.read(10, since=4.0)
    assert not watched.show(9)
    watched.now = 20.0
    assert "an earlier one" in watched.show(9, view=watched.watch())[0]


# -- the register of the log ----------------------------------------------------------------------------------------


def _calls(*calls: tuple[str, str, str]) -> list[Operation]:
    """One after the other: (kind, value, outcome)."""
    return [
        Operation("c", kind, "default/register", value if kind == "write" else "", 2 * at, 2 * at + 1, outcome, value)
        for at, (kind, value, outcome) in enumerate(calls)
    ]


def test_a_register_keeps_what_was_written_last() -> None:
    assert linearizable(_calls(("write", "1", OK), ("read", "1", OK)), "", register_model)
    for calls in (("write", "1", OK), ("read", "", OK)), (("read", "1", OK), ("write", "1", OK)):
        assert not linearizable(_calls(*calls), "", register_model)


def test_a_write_of_unknown_outcome_may_come_late_and_once() -> None:
    unknown, back = ("write", "1", UNKNOWN), ("write", "2", OK)
    assert linearizable(_calls(unknown, back, ("read", "2", OK), ("read", "1", OK)), "", register_model)
    again = [("read", "1", OK), ("read", "2", OK), ("read", "1", OK)]
    assert not linearizable(_calls(unknown, back, *again), "", register_model)


@pytest.mark.parametrize(
    ("calls", "problems"),
    [
        ([("write", "1", OK), ("write", "2", UNKNOWN), ("read", "1", OK), ("read", "2", OK)], 0),
        ([("write", "1", OK), ("write", "2", FAILED), ("read", "1", OK)], 0),
        ([("write", "1", OK), ("write", "2", FAILED), ("read", "2", OK)], 1),
        ([("write", "1", OK), ("read", "", OK)], 1),
    ],
)
def test_registers_in_a_history(calls: list[tuple[str, str, str]], problems: int) -> None:
    history = Watched().history
    history.operations = _calls(*calls)
    assert len(list(findings._registers(history))) == problems


# -- when things happened -------------------------------------------------------------------------------------------

TASK = {
    "name": "n0",
    "retryCount": 2,
    "retryDelaySeconds": 3,
    "timeoutSeconds": 20,
    "totalTimeoutSeconds": 60,
    "responseTimeoutSeconds": 10,
    "pollTimeoutSeconds": 30,
    "timeoutPolicy": "RETRY",
}
STEP = {"name": "n0", "taskReferenceName": "r1", "type": "SIMPLE", "startDelay": 2, "taskDefinition": TASK}
FORK = {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": [[STEP]]}
WAIT = {"name": "w", "taskReferenceName": "w", "type": "WAIT"}
DOCUMENT = {"name": "d", "timeoutSeconds": 100, "tasks": [FORK, WAIT]}
ATTEMPT = TaskAttempt(
    1, "t1", "r1", "n0", "SIMPLE", TaskStatus.COMPLETED, 1_000, 1_000, started_ms=3_000, ended_ms=4_000
)
EXECUTION = Execution("default", "w", "d", 1, b"", WorkflowStatus.COMPLETED, 1_000, 9_000, ended_ms=9_000)


def _problems(*attempts: TaskAttempt, recovered_ms: int = 0, kind: str = "", **changes: Any) -> list[str]:
    history = Watched().history
    if kind:
        history.invoke("c", kind, "default/w")
    held = Held(replace(EXECUTION, timeout_base_ms=1_000, **changes), list(attempts), {}, [], {})
    return list(timing.problems(held, DOCUMENT, recovered_ms, history))


def _timed_out(code: str, ended_ms: int, **changes: Any) -> TaskAttempt:
    return replace(ATTEMPT, status=TaskStatus.TIMED_OUT, error_code=code, ended_ms=ended_ms, **changes)


@pytest.mark.parametrize(
    ("code", "since_ms", "least_ms"),
    [
        ("TASK_TIMEOUT", 3_000, 22_000),
        ("TOTAL_TIMEOUT", 1_000, 60_000),
        ("POLL_TIMEOUT", 1_000, 28_200),
        ("RESPONSE_TIMEOUT", 3_000, 9_400),
    ],
)
def test_no_attempt_times_out_early(code: str, since_ms: int, least_ms: int) -> None:
    on_time = since_ms + least_ms
    assert not [one for one in _problems(_timed_out(code, on_time)) if code in one and "least" in one]
    assert "the least is" in _problems(_timed_out(code, on_time - 1))[0]


@pytest.mark.parametrize(("ended_ms", "late"), [(19_000, 0), (25_000, 1), (40_000, 2), (80_000, 3)])
def test_in_peace_no_timeout_is_late(ended_ms: int, late: int) -> None:
    """Response, task and total timeout, one after the other; not as long as there was trouble."""
    attempt = replace(ATTEMPT, ended_ms=ended_ms)
    assert len(_problems(attempt)) == late
    assert not _problems(attempt, recovered_ms=ended_ms - 6_000)


def test_an_attempt_is_handed_out_after_its_start_delay() -> None:
    assert not _problems(ATTEMPT)
    assert "handed out" in _problems(replace(ATTEMPT, started_ms=2_999))[0]


@pytest.mark.parametrize(
    ("logic", "made", "delay_ms"),
    [("FIXED", 1, 3_000), ("LINEAR_BACKOFF", 1, 6_000), ("EXPONENTIAL_BACKOFF", 2, 12_000)],
)
def test_retries_wait_for_their_delay(logic: str, made: int, delay_ms: int) -> None:
    step = timing.Step({}, {**TASK, "retryLogic": logic, "retryCount": 9})
    first = replace(ATTEMPT, retry_count=made, status=TaskStatus.FAILED)
    second = replace(ATTEMPT, sequence=2, retry_count=made + 1, scheduled_ms=4_000, started_ms=4_000 + delay_ms)
    assert not list(timing._retries(step, [first, second], by_hand=False))
    early = replace(second, started_ms=second.started_ms - 1)
    assert list(timing._retries(step, [first, early], by_hand=False))
    assert timing.Step({}, {**TASK, "retryLogic": logic, "maxRetryDelaySeconds": 1}).retry_delay_ms(9) == 1_000


def test_each_attempt_has_a_reason_and_comes_after_the_one_before() -> None:
    second = replace(ATTEMPT, sequence=2, retry_count=0, scheduled_ms=4_000, started_ms=6_000, ended_ms=7_000)
    assert "nobody asked" in _problems(ATTEMPT, second)[0]
    assert not _problems(ATTEMPT, second, kind="retry")
    lost = replace(ATTEMPT, status=TaskStatus.TIMED_OUT, error_code="WORKER_LOST")
    assert not _problems(lost, replace(second, losses=1))
    assert "had not ended" in _problems(ATTEMPT, replace(second, scheduled_ms=3_999), kind="retry")[0]
    many = replace(second, retry_count=3, started_ms=20_000, ended_ms=20_001)
    assert "there are 2 retries" in _problems(replace(ATTEMPT, retry_count=2), many)[0]


@pytest.mark.parametrize(("waited_ms", "problem"), [(5_000, ""), (4_999, "instead of"), (11_001, "too long")])
def test_waits_are_neither_short_nor_long(waited_ms: int, problem: str) -> None:
    given = json.dumps({"duration": "5 seconds"}).encode()
    wait = replace(ATTEMPT, reference="w", type="WAIT", input=given, ended_ms=3_000 + waited_ms)
    found = _problems(wait)
    assert bool(found) == bool(problem)
    assert problem in "".join(found)
    signalled = replace(wait, signal="go", ended_ms=3_001)
    assert not _problems(signalled)


def test_a_workflow_times_out_neither_early_nor_late() -> None:
    reason = "Workflow timed out after 100 seconds."
    on_time = {"ended_ms": 101_000, "reason": reason, "compensation": CompensationState.NONE}
    assert not _problems(**on_time)
    assert "too early" in _problems(**{**on_time, "ended_ms": 100_999})[0]
    assert "after its timeout" in _problems(**{**on_time, "ended_ms": 107_001})[0]
    assert not _problems(**{**on_time, "ended_ms": 207_001}, recovered_ms=205_000)
