"""DESIGN.md says what is so: its diagrams are those of the tables, and each cell of its decision table is run.

`REWRITE=1 pytest tests/engine/test_design.py` writes them anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestrator.engine import choices, transitions
from orchestrator.engine import commands as c
from orchestrator.engine.model import CompensationState, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Rejected
from tests.engine.driver import Driver, simple, workflow

PAGE = Path(__file__).resolve().parents[2] / "orchestrator" / "engine" / "DESIGN.md"
ONE = ("default", "w")


def diagram(initial: Any, table: dict[Any, tuple[Any, ...]]) -> list[str]:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {initial.name}"]
    for before, many in table.items():
        lines += [f"    {before.name} --> {after.name}" for after in many]
        if not many:
            lines.append(f"    {before.name} --> [*]")
    return [*lines, "```"]


def diagrams() -> str:
    both = [
        "Workflow:",
        "",
        *diagram(WorkflowStatus.RUNNING, transitions.WORKFLOW),
        "",
        "Attempt of a task:",
        "",
        *diagram(TaskStatus.SCHEDULED, transitions.TASK),
    ]
    return "\n".join(both)


# --- the decision table

OPERATIONS: dict[str, Any] = {
    "pause": c.PauseWorkflow(*ONE),
    "resume": c.ResumeWorkflow(*ONE),
    "signal": c.SignalWorkflow(*ONE, "go", b"{}"),
    "terminate": c.TerminateWorkflow(*ONE, "stop", choices.TerminateCompensation.UNSET),
    "terminate RUN": c.TerminateWorkflow(*ONE, "stop", choices.TerminateCompensation.RUN),
    "terminate SKIP": c.TerminateWorkflow(*ONE, "stop", choices.TerminateCompensation.SKIP),
    "retry": c.RetryWorkflow(*ONE),
    "compensation retry": c.RetryCompensation(*ONE),
    "compensation skip": c.SkipCompensation(*ONE),
    "compensation abandon": c.AbandonCompensation(*ONE, "enough"),
    "update variables": c.UpdateVariables(*ONE, b'{"v":1}'),
    "update task": c.UpdateTask(*ONE, "a", TaskStatus.IN_PROGRESS, b"{}"),
    "push message": c.PushMessage(*ONE, b"{}"),
    "skip task": c.SkipTask(*ONE, "c"),
    "migrate": c.MigrateWorkflow(*ONE, 2),
    "restart": c.RestartWorkflow(*ONE),
    "restart KEEP": c.RestartWorkflow(*ONE, effects=choices.DeleteEffects.KEEP),
    "restart COMPENSATE_FIRST": c.RestartWorkflow(*ONE, effects=choices.DeleteEffects.COMPENSATE_FIRST),
    "rerun": c.RerunWorkflow(*ONE),
    "rerun KEEP": c.RerunWorkflow(*ONE, effects=choices.DeleteEffects.KEEP),
    "rerun COMPENSATE_FIRST": c.RerunWorkflow(*ONE, effects=choices.DeleteEffects.COMPENSATE_FIRST),
    "delete": c.DeleteWorkflow(*ONE, choices.DeleteEffects.UNSET),
    "delete KEEP": c.DeleteWorkflow(*ONE, choices.DeleteEffects.KEEP),
    "delete COMPENSATE_FIRST": c.DeleteWorkflow(*ONE, choices.DeleteEffects.COMPENSATE_FIRST),
}


def running(driver: Driver) -> None:
    undo = {"name": "undo", "type": "SIMPLE", "retryCount": 0}
    tasks = [simple("a"), {**simple("b"), "compensateWith": undo}, simple("p", pivot=True), simple("c", retryCount=0)]
    driver.register(workflow("w", *tasks), {**workflow("w", *tasks), "version": 2})
    driver.worker("s", "a", "b", "p", "c", "undo", slots=9)
    driver.ok(c.StartWorkflow("default", "w", 1, "w", choices.IfExists.FAIL, b"{}"))


def owed(driver: Driver) -> None:
    running(driver)
    driver.give("a")
    driver.give("b")


def pivot(driver: Driver) -> None:
    owed(driver)
    driver.give("p")


def paused(driver: Driver) -> None:
    running(driver)
    driver.ok(OPERATIONS["pause"])


def paused_owed(driver: Driver) -> None:
    owed(driver)
    driver.ok(OPERATIONS["pause"])


def compensating(driver: Driver) -> None:
    owed(driver)
    driver.give("p", status=TaskStatus.FAILED_WITH_TERMINAL_ERROR)


def compensating_paused(driver: Driver) -> None:
    compensating(driver)
    driver.ok(OPERATIONS["pause"])


def stuck(driver: Driver) -> None:
    compensating(driver)
    driver.fail(driver.undoing("b"))


def stuck_paused(driver: Driver) -> None:
    stuck(driver)
    driver.ok(OPERATIONS["pause"])


def completed(driver: Driver) -> None:
    pivot(driver)
    driver.give("c")


def completed_without_pivot(driver: Driver) -> None:
    running(driver)
    driver.ok(c.SkipTask(*ONE, "p"))
    for reference in ("a", "b", "c"):
        driver.give(reference)


def failed(driver: Driver) -> None:
    running(driver)
    driver.give("a", status=TaskStatus.FAILED_WITH_TERMINAL_ERROR)


def failed_after_pivot(driver: Driver) -> None:
    pivot(driver)
    driver.fail("c")


def compensated(driver: Driver) -> None:
    compensating(driver)
    driver.give(driver.undoing("b"))


def incomplete(driver: Driver) -> None:
    stuck(driver)
    driver.ok(OPERATIONS["compensation abandon"])


def timed_out(driver: Driver) -> None:
    running(driver)
    driver.ok(c.ExpireSession("s"))
    for number in range(9):
        driver.worker(f"t{number}", "a")
        driver.wait(600_000)
        driver.ok(c.ExpireSession(f"t{number}"))
        if driver.header().ended_ms:
            return


def terminated(driver: Driver) -> None:
    owed(driver)
    driver.ok(OPERATIONS["terminate SKIP"])


STATES: dict[str, tuple[str, Callable[[Driver], None]]] = {
    "RUNNING": ("RUNNING", running),
    "RUNNING, owed": ("RUNNING", owed),
    "RUNNING, pivot": ("RUNNING", pivot),
    "PAUSED": ("PAUSED", paused),
    "PAUSED, owed": ("PAUSED", paused_owed),
    "COMPENSATING, RUNNING": ("COMPENSATING, RUNNING", compensating),
    "COMPENSATING, STUCK": ("COMPENSATING, STUCK", stuck),
    "PAUSED, RUNNING": ("PAUSED, RUNNING", compensating_paused),
    "PAUSED, STUCK": ("PAUSED, STUCK", stuck_paused),
    "COMPLETED, owed": ("COMPLETED", completed_without_pivot),
    "COMPLETED, pivot": ("COMPLETED", completed),
    "FAILED": ("FAILED", failed),
    "FAILED, pivot": ("FAILED", failed_after_pivot),
    "FAILED, COMPLETE": ("FAILED, COMPLETE", compensated),
    "FAILED, INCOMPLETE": ("FAILED, INCOMPLETE", incomplete),
    "TIMED_OUT": ("TIMED_OUT", timed_out),
    "TERMINATED, owed": ("TERMINATED", terminated),
}


def shown(driver: Driver) -> str:
    if driver.state.execution(ONE) is None:
        return "gone"
    header = driver.header()
    state = header.compensation
    return header.status.name + ("" if state is CompensationState.NONE else f", {state.name}")


def cell(state: str, operation: str) -> str:
    driver = Driver()
    expected, prepare = STATES[state]
    prepare(driver)
    assert shown(driver) == expected
    driver.now_ms += 1
    command = OPERATIONS[operation]
    if isinstance(command, c.RerunWorkflow):
        # From the newest task that went forward: what was before it stays.
        newest = [one for one in driver.hot().tasks.values() if not one.compensates][-1]
        command = replace(command, task_id=newest.task_id)
    result = driver.do(command)
    return result.reason if isinstance(result, Rejected) else shown(driver)


def table() -> str:
    lines = [f"| | {' | '.join(OPERATIONS)} |", "|---" * (len(OPERATIONS) + 1) + "|"]
    for state in STATES:
        cells = [cell(state, operation) for operation in OPERATIONS]
        lines.append(f"| **{state}** | {' | '.join(cells)} |")
    return "\n".join(lines)


@pytest.mark.parametrize(("name", "make"), [("diagrams", diagrams), ("operations", table)])
def test_the_page_shows_what_is_so(name: str, make: Callable[[], str]) -> None:
    text = PAGE.read_text()
    opening, closing = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    head, _, rest = text.partition(opening)
    _, _, tail = rest.partition(closing.lstrip("\n"))
    wanted = head + opening + make() + closing + tail
    if os.environ.get("REWRITE"):
        PAGE.write_text(wanted)
    assert wanted == PAGE.read_text(), "if this is what is wanted: REWRITE=1"


def cells() -> dict[tuple[str, str], str]:
    """What the page says of each state and operation."""
    _, _, *rows = PAGE.read_text().partition("<!-- operations -->\n")[2].partition("\n<!-- /")[0].split("\n")
    found = {}
    for row in rows:
        state, *said = (one.strip(" *") for one in row.strip("|").split("|"))
        found.update({(state, one): cell for one, cell in zip(OPERATIONS, said, strict=True)})
    return found


@pytest.mark.parametrize(("state", "operation"), [(state, one) for state in STATES for one in OPERATIONS])
def test_each_cell_of_the_decision_table(state: str, operation: str) -> None:
    """The decision table (status x compensation state x operation) stands in DESIGN.md; one test runs each cell."""
    assert cell(state, operation) == cells()[state, operation]


def test_the_tables_name_every_status() -> None:
    assert set(transitions.TASK) == set(TaskStatus)
    assert set(transitions.WORKFLOW) == set(WorkflowStatus)
    assert {one for one in TaskStatus if one not in (TaskStatus.SCHEDULED, TaskStatus.IN_PROGRESS)} == set(
        transitions.TASK_TERMINAL
    )
    with pytest.raises(transitions.ImpossibleTransition):
        transitions.check_task(TaskStatus.COMPLETED, TaskStatus.FAILED)
    with pytest.raises(transitions.ImpossibleTransition):
        transitions.check_workflow(WorkflowStatus.COMPLETED, WorkflowStatus.PAUSED)
