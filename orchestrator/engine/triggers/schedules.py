"""Schedules: each of their times is run once, whoever leads, and however often the leader changes in between.

A row knows up to where its times are covered and which follow. A timer stands for the next one; its firing covers the
time, arms the timer for the one after, and sends for the execution, all in one step. Times are computed outside; rows
that want some are found by an index, so a new leader owes what the one before did not get to.
"""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from orchestrator.engine import limits
from orchestrator.engine.expressions import assemble_object, dump_string, merge_objects
from orchestrator.engine.messages import Origin, OriginKind, ScheduleDue, StartExecution, TerminateExecution
from orchestrator.engine.model import Table, TimerKind
from orchestrator.engine.resident import Timer
from orchestrator.engine.results import AnyResult, Rejected, Started
from orchestrator.engine.state import State
from orchestrator.engine.step import Step
from orchestrator.engine.triggers.rows import RunState, ScheduledExecution, ScheduleRow, ScheduleRun, Scheduling
from orchestrator.engine.triggers.schedule_documents import OverlapPolicy, ParsedSchedule, validate_schedule

OVERLAPS = "the run before has not ended"
ONE_WAITS = "the run before has not ended, and another one waits for that already"
MISSED = "the time had passed before it could be run"
THERE = "there is an execution with the idempotency key already"
REPLACED = "terminated for the next run of schedule"


def scheduling(state: State) -> Scheduling:
    """Whether all schedules are paused."""
    row = cast(Scheduling | None, state.resident[Table.SCHEDULING].get(()))
    return row or Scheduling(False, "", 0)


def schedule(state: State, namespace: str, name: str) -> ScheduleRow | None:
    return cast(ScheduleRow | None, state.resident[Table.SCHEDULE].get((namespace, name)))


def put(step: Step, row: ScheduleRow) -> ScheduleRow:
    step.write(Table.SCHEDULE, (row.namespace, row.name), row)
    return row


# --- its times


def arm(step: Step, row: ScheduleRow, look_again_ms: int = 0) -> ScheduleRow:
    """The timer for the first time of the row, or else for when to look again, if ever. There is none now."""
    if row.due:
        time_ms = row.due[0][0]
        jitter_ms = validate_schedule(row.document).jitter_ms
        if jitter_ms:
            time_ms += step.ids.number(jitter_ms + 1, "schedule", row.namespace, row.name, time_ms)
    elif look_again_ms and not row.exhausted:
        time_ms = look_again_ms
    else:
        return replace(row, timer=0)
    number = step.timer_number()
    timer = Timer(number, time_ms, TimerKind.SCHEDULE, row.namespace, "", name=row.name)
    step.write(Table.TIMER, (number,), timer)
    return replace(row, timer=number)


def unarmed(step: Step, row: ScheduleRow) -> ScheduleRow:
    """Without its times: they are computed anew, or never, and what was computed until now is for naught."""
    step.disarm(row.timer)
    return replace(row, timer=0, due=(), refill_below=0, exhausted=False, revision=row.revision + 1)


def due(step: Step, message: ScheduleDue) -> None:
    """The schedule's timer has fired, or the run has ended for whose end another one waits."""
    row = schedule(step.state, message.namespace, message.name)
    if row is None:
        return
    if not message.timer:
        _run_buffered(step, row)
    elif row.timer == message.timer:
        _fire(step, replace(row, timer=0))


def broken(step: Step, message: ScheduleDue, result: AnyResult) -> None:
    """What the schedule had to do could not be done, by a fault of ours: it stands still, and says so."""
    row = schedule(step.state, message.namespace, message.name)
    if row is not None and isinstance(result, Rejected):
        put(step, replace(unarmed(step, row), paused=True, paused_reason=result.message))


def _fire(step: Step, row: ScheduleRow) -> None:
    if scheduling(step.state).paused or not row.due:
        put(step, unarmed(step, row))
        return
    parsed = validate_schedule(row.document)
    (time_ms, cron), rest = row.due[0], row.due[1:]
    row = run(step, replace(row, covered_ms=time_ms), parsed, time_ms, str(parsed.crons[cron]))
    if not parsed.catch_up:
        missed = [due for due in rest if due[0] <= step.now]
        if missed:
            row = skip(step, row, missed[-1][0], len(missed))
            rest = rest[len(missed) :]
        # Also what was missed behind these, and is not armed.
        row = replace(row, covered_ms=max(time_ms, step.now))
    put(step, arm(step, replace(row, due=rest)))


# --- its runs


def run(step: Step, row: ScheduleRow, parsed: ParsedSchedule, time_ms: int, cron: str) -> ScheduleRow:
    """A time of the schedule has come: what its overlap policy says. The row is for the caller to write."""
    if row.running and parsed.overlap is OverlapPolicy.SKIP:
        return skip(step, row, time_ms, 1, OVERLAPS, cron)
    if row.running and parsed.overlap is OverlapPolicy.BUFFER_ONE:
        if row.buffered:
            return skip(step, row, time_ms, 1, ONE_WAITS, cron)
        entry = ScheduleRun(row.next_run, step.ids.make(), RunState.BUFFERED, time_ms, step.now, cron)
        return replace(record(step, row, entry), buffered=entry.number)
    entry = ScheduleRun(row.next_run, step.ids.make(), RunState.PENDING, time_ms, step.now, cron)
    return _send(step, record(step, row, entry), parsed, entry)


def skip(
    step: Step, row: ScheduleRow, time_ms: int, count: int, reason: str = MISSED, cron: str = ""
) -> ScheduleRow:
    """Times that are not run. Those that follow each other for the same reason are one record."""
    key = (row.namespace, row.name, row.next_run - 1)
    newest = cast(ScheduleRun | None, step.state.resident[Table.SCHEDULE_RUN].get(key))
    if newest is not None and newest.state is RunState.SKIPPED and newest.reason == reason:
        more = replace(newest, scheduled_ms=time_ms, executed_ms=step.now, count=newest.count + count)
        step.write(Table.SCHEDULE_RUN, key, more)
        return row
    entry = ScheduleRun(
        row.next_run, step.ids.make(), RunState.SKIPPED, time_ms, step.now, cron, reason=reason, count=count
    )
    return record(step, row, entry)


def follow(step: Step, row: ScheduleRow, parsed: ParsedSchedule, number: int, workflow_id: str) -> ScheduleRow:
    """The execution of a run is about to begin, or has: unless runs may overlap, its end is waited for."""
    if parsed.overlap is OverlapPolicy.ALLOW:
        return row
    watched = ScheduledExecution(row.name, number, row.namespace, workflow_id)
    step.write(Table.SCHEDULED, (row.namespace, workflow_id), watched)
    return replace(row, running=workflow_id)


def follow_again(step: Step) -> None:
    """The execution of a run that goes on after its end, on an operator's word, is waited for again."""
    if step.key is None or not step.x.schedule or not step.goes_on_after_end:
        return
    row = schedule(step.state, step.x.namespace, step.x.schedule)
    if row is not None:
        again = follow(step, row, validate_schedule(row.document), step.x.schedule_run, step.x.workflow_id)
        # A run that has begun meanwhile goes on beside it.
        put(step, again if not row.running else row)


def terminate_running(step: Step, row: ScheduleRow) -> None:
    for workflow_id in step.state.triggers.watched_by(row.namespace, row.name):
        step.send(TerminateExecution(row.namespace, workflow_id, f"{REPLACED} {row.name}"))


def input_of(step: Step, row: ScheduleRow, parsed: ParsedSchedule, entry: ScheduleRun) -> bytes:
    """The input of a run's execution: the schedule's own, and which run it is."""
    facts = assemble_object((
        ("_startedByScheduler", dump_string(row.name)),
        ("_scheduledTime", b"%d" % entry.scheduled_ms),
        ("_executedTime", b"%d" % step.now),
        ("_executionId", dump_string(entry.execution_id)),
        ("_schedulerCron", dump_string(entry.cron)),
    ))
    return merge_objects(parsed.request.input, facts)


def _send(step: Step, row: ScheduleRow, parsed: ParsedSchedule, entry: ScheduleRun) -> ScheduleRow:
    if parsed.overlap is OverlapPolicy.TERMINATE_RUNNING:
        terminate_running(step, row)
    workflow_id = step.ids.make()
    entry = replace(entry, state=RunState.PENDING, workflow_id=workflow_id, executed_ms=step.now, reason="")
    step.write(Table.SCHEDULE_RUN, (row.namespace, row.name, entry.number), entry)
    step.send(start_of(step, row, parsed, entry))
    return follow(step, row, parsed, entry.number, workflow_id)


def start_of(step: Step, row: ScheduleRow, parsed: ParsedSchedule, entry: ScheduleRun) -> StartExecution:
    """The start of a run's execution."""
    request = parsed.request
    return StartExecution(
        namespace=row.namespace,
        workflow_id=entry.workflow_id,
        name=request.name,
        version=request.version,
        input=input_of(step, row, parsed, entry),
        correlation_id=request.correlation_id,
        priority=request.priority,
        task_to_domain=request.task_to_domain,
        created_by=request.created_by,
        document=request.document,
        idempotency_key=request.idempotency_key,
        idempotency=request.idempotency,
        origin=Origin(OriginKind.SCHEDULE, row.name, entry.number),
    )


def record(step: Step, row: ScheduleRow, entry: ScheduleRun) -> ScheduleRow:
    """Writes the run; the oldest goes. The row with the number for the next one is for the caller to write."""
    step.write(Table.SCHEDULE_RUN, (row.namespace, row.name, entry.number), entry)
    if entry.number - limits.SCHEDULE_RUNS_KEPT != row.buffered:
        _forget(step, row, entry.number - limits.SCHEDULE_RUNS_KEPT)
    return replace(row, next_run=entry.number + 1)


def delete(step: Step, row: ScheduleRow) -> None:
    """The schedule and its records; executions go on."""
    step.disarm(row.timer)
    for number in (row.buffered, *range(row.next_run - limits.SCHEDULE_RUNS_KEPT, row.next_run)):
        _forget(step, row, number)
    step.write(Table.SCHEDULE, (row.namespace, row.name), None)


def _forget(step: Step, row: ScheduleRow, number: int) -> None:
    key = (row.namespace, row.name, number)
    if key in step.state.resident[Table.SCHEDULE_RUN]:
        step.write(Table.SCHEDULE_RUN, key, None)


def started(step: Step, message: StartExecution, result: AnyResult) -> None:
    """What came of the execution of a run."""
    key = (message.namespace, message.origin.name, message.origin.number)
    entry = cast(ScheduleRun | None, step.state.resident[Table.SCHEDULE_RUN].get(key))
    if entry is not None and entry.workflow_id == message.workflow_id:
        if isinstance(result, Rejected):
            entry = replace(entry, state=RunState.FAILED, reason=result.message[: limits.REASON_CHARS])
        elif isinstance(result, Started) and result.existing:
            entry = replace(entry, state=RunState.SKIPPED, reason=THERE, workflow_id=result.workflow_id)
        else:
            entry = replace(entry, state=RunState.STARTED, reason="")
        step.write(Table.SCHEDULE_RUN, key, entry)
    if not isinstance(result, Started) or result.existing:
        ended(step, message.namespace, message.workflow_id)
    else:
        step.change(schedule=message.origin.name, schedule_run=message.origin.number)


def ended(step: Step, namespace: str, workflow_id: str) -> None:
    """An execution has ended, or did not begin: the run that its schedule keeps back may follow."""
    watched = cast(ScheduledExecution | None, step.state.resident[Table.SCHEDULED].get((namespace, workflow_id)))
    if watched is None:
        return
    step.write(Table.SCHEDULED, (namespace, workflow_id), None)
    row = schedule(step.state, namespace, watched.schedule)
    if row is None or row.running != workflow_id:
        return
    # An operator may have let an older one run again beside it.
    row = replace(row, running=next(iter(step.state.triggers.watched_by(namespace, row.name)), ""))
    put(step, row)
    if row.buffered and not row.running:
        step.send(ScheduleDue(namespace, "", row.name, 0))


def _run_buffered(step: Step, row: ScheduleRow) -> None:
    if row.running or not row.buffered:
        # Another run has begun meanwhile, for whose end this one waits now.
        return
    entry = cast(ScheduleRun, step.state.resident[Table.SCHEDULE_RUN][row.namespace, row.name, row.buffered])
    row = _send(step, replace(row, buffered=0), validate_schedule(row.document), entry)
    if entry.number < row.next_run - limits.SCHEDULE_RUNS_KEPT:
        # It was kept only because it waited.
        _forget(step, row, entry.number)
    put(step, row)
