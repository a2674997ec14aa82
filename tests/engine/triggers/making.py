"""Schedules and event handlers for tests, and what is known of them."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from orchestrator.engine.behaviour import LOWEST
from orchestrator.engine.commands import ArmSchedule, PutEventHandler, PutSchedule, RunSchedule
from orchestrator.engine.expressions import fields_of, text_of
from orchestrator.engine.model import Table
from orchestrator.engine.triggers import schedules
from orchestrator.engine.triggers.index import armed_until
from orchestrator.engine.triggers.rows import EventRun, RunState, ScheduleRow, ScheduleRun
from tests.engine.driver import Driver, simple, workflow

MINUTE = 60_000
Made = dict[str, Any]


def busy_driver(level: int = LOWEST) -> Driver:
    """The workflow `report` has one task, `a`, and no worker."""
    driver = Driver(level=level)
    driver.register(workflow("report", simple("a", undo="undo_a"), simple("b")))
    return driver


def document(**fields: Any) -> Made:
    return {
        "name": "s",
        "cronExpression": "0 * * * * *",
        "startWorkflowRequest": {"name": "report", "input": {"given": 1}},
        **fields,
    }


def put(driver: Driver, **fields: Any) -> Any:
    return driver.do(PutSchedule("default", msgspec.json.encode(document(**fields))))


def row(driver: Driver, name: str = "s") -> ScheduleRow:
    found = schedules.schedule(driver.state, "default", name)
    assert found is not None, f"no schedule {name}"
    return found


def arm(driver: Driver, *after_ms: int, name: str = "s", **fields: Any) -> None:
    """Gives the schedule times so long after now, as the leader does."""
    kept = row(driver, name)
    times = tuple((driver.now_ms + each, 0) for each in after_ms)
    driver.ok(ArmSchedule("default", name, kept.revision, armed_until(kept), times, **fields))


def run_now(driver: Driver, name: str = "s") -> Any:
    return driver.do(RunSchedule("default", name))


def runs(driver: Driver, name: str = "s") -> list[ScheduleRun]:
    """The oldest first."""
    rows = cast(dict[tuple[str, str, int], ScheduleRun], driver.state.resident[Table.SCHEDULE_RUN])
    return [kept for key, kept in sorted(rows.items()) if key[:2] == ("default", name)]


def states(driver: Driver, name: str = "s") -> list[RunState]:
    return [kept.state for kept in runs(driver, name)]


def started(driver: Driver) -> list[str]:
    """The ids of the executions, in the order of their schedules' runs."""
    return [kept.workflow_id for kept in runs(driver) if kept.workflow_id]


def input_of(driver: Driver, workflow_id: str) -> dict[str, Any]:
    kept = driver.header(workflow_id).input
    assert isinstance(kept, bytes)
    return dict(msgspec.json.decode(kept))


def end(driver: Driver, workflow_id: str) -> None:
    """Workers do all of the execution's tasks."""
    if ("w",) not in driver.state.sessions:
        driver.worker("w", "a", "b", "undo_a", slots=100)
    driver.give("a", workflow_id=workflow_id)
    driver.give("b", workflow_id=workflow_id)


def handler(*actions: Made, **fields: Any) -> Made:
    return {"name": "h", "event": "paid", "active": True, "actions": list(actions), **fields}


def put_handler(driver: Driver, *actions: Made, **fields: Any) -> Any:
    return driver.do(PutEventHandler("default", msgspec.json.encode(handler(*actions, **fields))))


def action(kind: str, expand: bool = False, **parameters: Any) -> Made:
    made: Made = {"action": kind, kind: parameters}
    return {**made, "expandInlineJSON": True} if expand else made


def event_runs(driver: Driver) -> list[EventRun]:
    rows = cast(dict[tuple[int], EventRun], driver.state.resident[Table.EVENT_RUN])
    return [kept for _, kept in sorted(rows.items())]


def field(text: bytes, key: str) -> str:
    return text_of(fields_of(text)[key])
