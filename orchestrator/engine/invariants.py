"""What is always true between steps: named checks over rows alone, run by tests after every step.

Each yields a sentence for each breach. The indexes of the state are checked against what they index, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from orchestrator.engine import blob_invariants, throttle
from orchestrator.engine.attempts import has_effect
from orchestrator.engine.definitions.model import WORKED
from orchestrator.engine.evaluations import is_waiting
from orchestrator.engine.messages import (
    ChildEnded,
    ClearExecution,
    ContinueExecution,
    JoinExecution,
    RemoveRows,
    StartAnswered,
    StartExecution,
    TaskLeased,
    WorkerLost,
)
from orchestrator.engine.model import (
    CompensationState,
    ExecutionKey,
    RowKey,
    SessionKind,
    Table,
    TaskAttempt,
    TaskStatus,
    TimerKind,
    WorkflowStatus,
)
from orchestrator.engine.state import State
from orchestrator.engine.transitions import TASK_TERMINAL, WORKFLOW_TERMINAL
from orchestrator.engine.triggers import invariants as triggers

Check = Callable[[State], Iterator[str]]


def slots_used_are_leases(state: State) -> Iterator[str]:
    for _, session in sorted(state.sessions.items()):
        held = sum(1 for lease in state.leases.values() if lease.session_id == session.id)
        if session.used != held:
            yield f"session {session.id} uses {session.used} slots and has {held} leases"
        if session.kind is SessionKind.POLL and session.used == 0:
            yield f"poll session {session.id} is empty and still there"
    for _, lease in sorted(state.leases.items()):
        if (lease.session_id,) not in state.sessions:
            yield f"lease {lease.token} is of a session that is gone"


def nothing_ready_meets_a_free_slot(state: State) -> Iterator[str]:
    for queue in state.queues.waiting():
        if not throttle.is_open(state, queue) or throttle.is_turning(state, queue):
            continue
        for _, session in sorted(state.sessions.items()):
            serves = session.kind is SessionKind.STREAM and queue[2] in session.task_names
            if serves and queue[:2] == (session.namespace, session.domain) and session.slots > session.used:
                yield f"{queue} waits while session {session.id} has a free slot"


def ready_rows_are_scheduled_attempts(state: State) -> Iterator[str]:
    for _, ready in sorted(state.ready.items()):
        hot = state.execution((ready.namespace, ready.workflow_id))
        attempt = None if hot is None else hot.tasks.get(ready.task_sequence)
        if hot is not None and (
            attempt is None
            or not (attempt.status is TaskStatus.SCHEDULED or is_waiting(attempt))
            or attempt.ready != ready.number
        ):
            yield f"ready row {ready.number} is of {attempt}"


def attempts_in_progress_are_leased(state: State) -> Iterator[str]:
    unfenced: dict[ExecutionKey, dict[int, list[int]]] = {}
    for _, lease in sorted(state.leases.items()):
        if not lease.fenced and lease.started:
            of_execution = unfenced.setdefault((lease.namespace, lease.workflow_id), {})
            of_execution.setdefault(lease.task_sequence, []).append(lease.token)
    for key, hot in state.hot_executions():
        held = unfenced.get(key, {})
        for sequence, attempt in hot.tasks.items():
            tokens = held.get(sequence, [])
            is_lent = attempt.fencing_token > 0 or (
                attempt.type in WORKED and not attempt.signal and not attempt.is_looked_at
            )
            is_lent = is_lent and (attempt.status is TaskStatus.IN_PROGRESS or attempt.is_looked_at)
            if is_lent:
                if tokens != [attempt.fencing_token] and not _is_lost(state, key, attempt):
                    yield f"{key} #{sequence} is in progress under {attempt.fencing_token}, its leases are {tokens}"
            elif tokens:
                yield f"{key} #{sequence} is {attempt.status.name} and has the leases {tokens}"


def counters_are_counts(state: State) -> Iterator[str]:
    for key, hot in state.hot_executions():
        header = hot.execution
        if header.deleted or header.clearing:
            continue
        is_open = [attempt for attempt in hot.tasks.values() if attempt.status not in TASK_TERMINAL]
        if header.open_tasks != len(is_open) or hot.open.keys() != {one.sequence for one in is_open}:
            yield f"{key} counts {header.open_tasks} open tasks and has {len(is_open)}"
        lines, size = sum(len(row.lines) for row in hot.logs.values()), sum(row.bytes for row in hot.logs.values())
        if (header.log_lines, header.log_bytes) != (lines, size):
            yield f"{key} counts {header.log_lines} logged lines of {header.log_bytes} bytes, not {lines} of {size}"
        if header.signals != len(hot.signals):
            yield f"{key} counts {header.signals} signals and has {len(hot.signals)}"
        phase = header.paused_from or header.status
        awaited = [one for one in is_open if one.fencing_token and not one.compensates and has_effect(one)]
        if phase is WorkflowStatus.COMPENSATING and not header.settled and header.settling != len(awaited):
            yield f"{key} awaits {header.settling} attempts and has {len(awaited)}"
        for numbers in hot.attempts_of.values():
            if len(numbers) > 1 and numbers != sorted(numbers):
                yield f"{key} has attempts out of order: {numbers}"


def ended_executions_are_quiet(state: State) -> Iterator[str]:
    rows: dict[ExecutionKey, list[tuple[Table, RowKey]]] = {}
    for table in (Table.READY, Table.TIMER):
        for number, row in sorted(state.resident[table].items()):
            rows.setdefault((row.namespace, row.workflow_id), []).append((table, number))
    for key, hot in state.hot_executions():
        header = hot.execution
        if header.status not in WORKFLOW_TERMINAL:
            continue
        if header.open_tasks:
            yield f"{key} has ended with {header.open_tasks} open tasks"
        for table, number in rows.get(key, []):
            yield f"{key} has ended with {table.name} {number}"
        for attempt in hot.tasks.values():
            if attempt.timers:
                yield f"{key} #{attempt.sequence} has ended with timers"


def timers_are_known(state: State) -> Iterator[str]:
    known: set[int] = set()
    for _, hot in state.hot_executions():
        for attempt in hot.tasks.values():
            known.update(attempt.timers)
        known.update((hot.execution.workflow_timer, hot.execution.grace_timer))
    for _, timer in sorted(state.timers.items()):
        is_hot = state.is_hot((timer.namespace, timer.workflow_id))
        if is_hot and timer.number not in known:
            yield f"timer {timer.number} ({timer.kind.name}) of {timer.workflow_id} is nobody's"


def live_executions_are_counted(state: State) -> Iterator[str]:
    # Only where all are hot, as in tests.
    live = sum(1 for _, hot in state.hot_executions() if hot.execution.status not in WORKFLOW_TERMINAL)
    if state.meta.live_executions != live:
        yield f"{state.meta.live_executions} executions are counted as live, there are {live}"
    stuck = sum(1 for _, hot in state.hot_executions() if hot.execution.compensation is CompensationState.STUCK)
    if state.meta.stuck_compensations != stuck:
        yield f"{state.meta.stuck_compensations} compensations are counted as stuck, there are {stuck}"


def bundles_are_counted(state: State) -> Iterator[str]:
    # Only where all are hot, as in tests.
    for _, bundle in sorted(state.resident[Table.BUNDLE].items()):
        running = sum(1 for _, hot in state.hot_executions() if hot.execution.bundle == bundle.digest)
        if bundle.executions != running or not running:
            yield f"a bundle counts {bundle.executions} executions and has {running}"


def whatever_is_owed_will_move(state: State) -> Iterator[str]:
    """Guarantee of progress: a workflow that has not ended always waits for something that exists."""
    moved: set[tuple[object, ...]] = set()
    for rows in (state.leases, state.ready, state.timers, state.messages, state.waiting):
        moved.update((row.namespace, row.workflow_id) for row in rows.values())
    for key, hot in state.hot_executions():
        header = hot.execution
        if header.status in WORKFLOW_TERMINAL or header.status is WorkflowStatus.PAUSED or key in moved:
            continue
        if header.compensation is CompensationState.STUCK:
            continue
        is_open = [hot.tasks[sequence] for sequence in sorted(hot.open)]
        if not any(attempt.signal or _waits_for_another(state, key, attempt) for attempt in is_open):
            yield f"{key} is {header.status.name} and waits for nothing"


def _waits_for_another(state: State, key: ExecutionKey, attempt: TaskAttempt) -> bool:
    """Whether the attempt waits for an execution that is under way, or about to begin."""
    child = state.execution((key[0], attempt.child)) if attempt.child else None
    if child is not None and child.execution.status not in WORKFLOW_TERMINAL:
        return True
    if child is None and attempt.child and _is_one_cold(state):
        # It may be this one.
        return True
    messages = [message for message in state.messages.values() if message.namespace == key[0]]
    starting = [message.origin.name for message in messages if isinstance(message, StartExecution)]
    return key[1] in starting or any(message.workflow_id == attempt.child for message in messages)


def _is_one_cold(state: State) -> bool:
    """Whether an execution that has not ended is not in memory."""
    hot = sum(one.execution.status not in WORKFLOW_TERMINAL for _, one in state.hot_executions())
    return hot < state.meta.live_executions


def who_has_joined_is_told(state: State) -> Iterator[str]:
    """An attempt that waits for another's execution is known there, or is about to hear of it."""
    for key, hot in state.hot_executions():
        for sequence in sorted(hot.open):
            attempt = hot.tasks[sequence]
            joined = state.execution((key[0], attempt.child)) if attempt.joined and not attempt.is_looked_at else None
            if joined is None or (key[1], sequence) in joined.execution.joined_by:
                continue
            if not _has_message(state, key, ChildEnded, StartAnswered) and not _has_message(
                state, (key[0], attempt.child), JoinExecution
            ):
                yield f"{key} #{sequence} waits for {attempt.child}, which does not know of it"


def leftovers_are_continued(state: State) -> Iterator[str]:
    for key, hot in state.hot_executions():
        header = hot.execution
        if header.clearing:
            if not _has_message(state, key, ClearExecution):
                yield f"{key} is being cleared and will never run"
            continue
        if header.ending is None and (header.status is not WorkflowStatus.RUNNING or header.waits):
            continue
        if (header.agenda or header.ending is not None) and not _has_message(state, key, ContinueExecution):
            yield f"{key} has something left to do and nothing to go on with"


def executions_are_cleared_before_they_run(state: State) -> Iterator[str]:
    for key, hot in state.hot_executions():
        header = hot.execution
        if header.clearing and (header.status is not WorkflowStatus.RUNNING or header.ending is not None):
            yield f"{key} is being cleared and is {header.status.name}"
        if not header.clearing and _has_message(state, key, ClearExecution):
            yield f"{key} runs and is to be cleared"


def deleted_executions_go(state: State) -> Iterator[str]:
    for key, hot in state.hot_executions():
        if hot.execution.deleted and not _has_message(state, key, RemoveRows):
            yield f"{key} is deleted and its rows will stay"
        if hot.execution.deleted and hot.execution.status not in WORKFLOW_TERMINAL:
            yield f"{key} is deleted and has not ended"


def _has_message(state: State, key: ExecutionKey, *kinds: type) -> bool:
    return any((m.namespace, m.workflow_id) == key and isinstance(m, kinds) for m in state.messages.values())


def _is_lost(state: State, key: ExecutionKey, attempt: TaskAttempt) -> bool:
    """Whether its session has ended and it is yet to be told."""
    return any(
        isinstance(message, WorkerLost) and message.token == attempt.fencing_token
        for message in state.messages.values()
        if (message.namespace, message.workflow_id) == key
    )


def leases_not_taken_up_have_a_message(state: State) -> Iterator[str]:
    told = {message.token for message in state.messages.values() if isinstance(message, TaskLeased)}
    for _, lease in sorted(state.leases.items()):
        if not lease.started and lease.token not in told:
            yield f"lease {lease.token} will never be taken up"


def windows_turn(state: State) -> Iterator[str]:
    """Hand-outs that count no longer are forgotten, and at once where somebody waits for it."""
    for key, rate in sorted(state.task_rates.items()):
        timer = state.timers.get((rate.timer,))
        if timer is None or timer.kind is not TimerKind.TASK_RATE or timer.name != rate.name:
            yield f"the window of {key} never turns"
            continue
        if timer.fire_ms > rate.given[-1][0]:
            yield f"the window of {key} turns at {timer.fire_ms}, later than everything in it: {rate.given}"
        for queue in state.queues.named(rate.namespace, rate.name):
            if throttle.is_rate_reached(state, queue) and timer.fire_ms > rate.given[0][0]:
                yield f"{queue} waits for {rate.given[0][0]}, the window turns at {timer.fire_ms}"


def places_are_counted(state: State) -> Iterator[str]:
    # Only where all are hot, as in tests.
    taken: dict[bytes, int] = {}
    for _, hot in state.hot_executions():
        header = hot.execution
        if header.has_place or (header.waits and (header.waits,) not in state.waiting):
            taken[header.group] = taken.get(header.group, 0) + 1
        if header.has_place and (header.waits or header.status in WORKFLOW_TERMINAL):
            yield f"{header.workflow_id} has a place and waits, or has ended"
    for key, group in sorted(state.resident[Table.WORKFLOW_GROUP].items()):
        digest = cast(bytes, key[0])
        if group.running != taken.pop(digest, 0) or not group.running:
            yield f"the key {group.key!r} counts {group.running} that run"
        first = state.next_waiting(digest)
        if first is not None and group.running < first.at_once:
            yield f"{first.workflow_id} waits while there is a place"
    if taken:
        yield f"places that nobody counts: {taken}"


CHECKS: tuple[Check, ...] = (
    slots_used_are_leases,
    nothing_ready_meets_a_free_slot,
    ready_rows_are_scheduled_attempts,
    attempts_in_progress_are_leased,
    counters_are_counts,
    ended_executions_are_quiet,
    timers_are_known,
    live_executions_are_counted,
    bundles_are_counted,
    whatever_is_owed_will_move,
    who_has_joined_is_told,
    leftovers_are_continued,
    executions_are_cleared_before_they_run,
    deleted_executions_go,
    leases_not_taken_up_have_a_message,
    *triggers.CHECKS,
    *blob_invariants.CHECKS,
    windows_turn,
    places_are_counted,
)


def breaches(state: State) -> list[str]:
    """Every breach of every invariant, with the name of the check."""
    return [f"{check.__name__}: {breach}" for check in CHECKS for breach in check(state)]
