"""Schedules: made, paused, run by hand, and given their times by the leader."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import limits
from orchestrator.engine.commands import (
    ArmSchedule,
    DeleteSchedule,
    PauseSchedule,
    PauseScheduling,
    PutSchedule,
    ResumeSchedule,
    ResumeScheduling,
    RunSchedule,
)
from orchestrator.engine.definitions.errors import DefinitionError
from orchestrator.engine.errors import refuse, refuse_definition
from orchestrator.engine.handlers import starting
from orchestrator.engine.messages import ScheduleDue
from orchestrator.engine.model import Table
from orchestrator.engine.results import AnyResult, Code, Done, Rejected, ScheduleRan
from orchestrator.engine.step import Step
from orchestrator.engine.triggers import schedules
from orchestrator.engine.triggers.index import armed_until
from orchestrator.engine.triggers.rows import RunState, ScheduleRow, ScheduleRun, Scheduling
from orchestrator.engine.triggers.schedule_documents import OverlapPolicy, ParsedSchedule, validate_schedule


def put_schedule(step: Step, command: PutSchedule) -> AnyResult:
    """A change of what its times are made of counts from now on; any other leaves the times as they are."""
    try:
        parsed = validate_schedule(command.document, step.level)
    except DefinitionError as error:
        refuse_definition(error)
    old = schedules.schedule(step.state, command.namespace, parsed.name)
    if old is None:
        if len(step.state.resident[Table.SCHEDULE]) >= limits.SCHEDULES:
            message = f"there are {limits.SCHEDULES} schedules, which is the limit"
            refuse(Code.RESOURCE_EXHAUSTED, "SCHEDULES_FULL", message, limit="schedules")
        row = ScheduleRow(command.namespace, parsed.name, parsed.document, step.now, step.now, covered_ms=step.now)
    else:
        row = replace(old, document=parsed.document, updated_ms=step.now)
        if parsed.timing != validate_schedule(old.document).timing:
            row = replace(schedules.unarmed(step, row), covered_ms=step.now)
    if parsed.paused:
        row = _paused(step, row, parsed.paused_reason)
    elif row.paused:
        row = _resumed(step, row, parsed)
    schedules.put(step, row)
    return Done()


def delete_schedule(step: Step, command: DeleteSchedule) -> AnyResult:
    schedules.delete(step, _require(step, command.namespace, command.name))
    return Done()


def pause_schedule(step: Step, command: PauseSchedule) -> AnyResult:
    row = _require(step, command.namespace, command.name)
    schedules.put(step, _paused(step, row, command.reason))
    return Done()


def resume_schedule(step: Step, command: ResumeSchedule) -> AnyResult:
    row = _require(step, command.namespace, command.name)
    if row.paused:
        schedules.put(step, _resumed(step, row, validate_schedule(row.document)))
    return Done()


def pause_scheduling(step: Step, command: PauseScheduling) -> AnyResult:
    """Timers stay armed: what they would run is held back when they fire."""
    row = Scheduling(True, command.reason[: limits.REASON_CHARS], step.now)
    step.write(Table.SCHEDULING, (), row)
    return Done()


def resume_scheduling(step: Step, command: ResumeScheduling) -> AnyResult:
    if schedules.scheduling(step.state).paused:
        step.write(Table.SCHEDULING, (), Scheduling(False, "", step.now))
    return Done()


def run_schedule(step: Step, command: RunSchedule) -> AnyResult:
    row = _require(step, command.namespace, command.name)
    parsed = validate_schedule(row.document)
    if row.running and (parsed.overlap is OverlapPolicy.SKIP or row.buffered):
        message = f"{schedules.OVERLAPS}: {row.running}, and the overlap policy is {parsed.overlap.value}"
        refuse(Code.FAILED_PRECONDITION, "SCHEDULE_STILL_RUNS", message)
    if row.running and parsed.overlap is OverlapPolicy.BUFFER_ONE:
        entry = ScheduleRun(row.next_run, step.ids.make(), RunState.BUFFERED, step.now, step.now)
        schedules.put(step, replace(schedules.record(step, row, entry), buffered=entry.number))
        return ScheduleRan(entry.execution_id, RunState.BUFFERED, "")
    workflow_id = step.ids.make()
    entry = ScheduleRun(
        row.next_run, step.ids.make(), RunState.STARTED, step.now, step.now, workflow_id=workflow_id
    )
    wanted = schedules.start_of(step, row, parsed, entry)
    there = starting.prior(step, wanted)
    if there is not None:
        entry = replace(entry, state=RunState.SKIPPED, reason=schedules.THERE, workflow_id=there.workflow_id)
        schedules.put(step, schedules.record(step, row, entry))
        return ScheduleRan(entry.execution_id, RunState.SKIPPED, there.workflow_id)
    if parsed.overlap is OverlapPolicy.TERMINATE_RUNNING:
        schedules.terminate_running(step, row)
    result = starting.begin(step, wanted)
    if isinstance(result, Rejected):
        return result
    step.change(schedule=row.name, schedule_run=entry.number)
    row = schedules.record(step, row, entry)
    schedules.put(step, schedules.follow(step, row, parsed, entry.number, workflow_id))
    return ScheduleRan(entry.execution_id, RunState.STARTED, workflow_id)


def schedule_due(step: Step, message: ScheduleDue) -> AnyResult:
    schedules.due(step, message)
    return Done()


def arm_schedule(step: Step, command: ArmSchedule) -> AnyResult:
    row = schedules.schedule(step.state, command.namespace, command.name)
    if row is None or row.revision != command.revision or row.paused or armed_until(row) != command.after_ms:
        # Computed for what the schedule was before, or twice.
        return Done()
    _check(row, command)
    if command.skipped:
        row = schedules.skip(step, row, command.skipped_ms, command.skipped)
    was_armed = bool(row.due)
    row = replace(
        row,
        due=(*row.due, *command.times),
        refill_below=command.refill_below,
        exhausted=command.exhausted,
    )
    if not was_armed:
        step.disarm(row.timer)
        row = schedules.arm(step, row, command.look_again_ms)
    schedules.put(step, row)
    return Done()


def _check(row: ScheduleRow, command: ArmSchedule) -> None:
    """The times are ours to compute: wrong ones are a bug, and must not come true."""
    crons = len(validate_schedule(row.document).crons)
    times = [time_ms for time_ms, _ in command.times]
    if len(times) > limits.SCHEDULE_TIMES or times != sorted(set(times)) or (times and times[0] <= command.after_ms):
        raise ValueError("times out of order")
    if any(not 0 <= cron < crons for _, cron in command.times):
        raise ValueError("a time of no expression")
    if not (row.due or times or command.exhausted or command.look_again_ms):
        raise ValueError("nothing to wait for")


def _paused(step: Step, row: ScheduleRow, reason: str) -> ScheduleRow:
    row = row if row.paused else schedules.unarmed(step, row)
    return replace(row, paused=True, paused_reason=reason[: limits.REASON_CHARS])


def _resumed(step: Step, row: ScheduleRow, parsed: ParsedSchedule) -> ScheduleRow:
    """What it has missed is run if it catches up, and else is past."""
    covered_ms = row.covered_ms if parsed.catch_up else step.now
    return replace(row, paused=False, paused_reason="", covered_ms=covered_ms, revision=row.revision + 1)


def _require(step: Step, namespace: str, name: str) -> ScheduleRow:
    row = schedules.schedule(step.state, namespace, name)
    if row is None:
        refuse(Code.NOT_FOUND, "SCHEDULE_NOT_FOUND", f"there is no schedule {name!r}")
    return row
