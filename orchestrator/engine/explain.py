"""What an execution waits for, since when, and what would move it: from its rows and those always in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgspec

from orchestrator.engine import assembly, awaiting, checks, inbox, places, system, throttle
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.expressions import assemble_object, dump_string, fields_of, text_of
from orchestrator.engine.expressions.secret_names import names_at
from orchestrator.engine.masking import masked
from orchestrator.engine.model import (
    CompensationState,
    Execution,
    RowKey,
    Table,
    TaskAttempt,
    TaskStatus,
    TimerKind,
    WorkflowStatus,
)
from orchestrator.engine.plan import Plan, plan_of
from orchestrator.engine.queues import queue_of
from orchestrator.engine.resident import Ready, SecretRow, WorkflowGroup
from orchestrator.engine.scopes import input_of
from orchestrator.engine.state import State
from orchestrator.engine.transitions import WORKFLOW_TERMINAL

ATTEMPTS_SHOWN = 100
# Nothing else moves it: a step has left something to the next.
STEP_OF_THE_LOG = "the next step of the log"
_NAMES_SHOWN = 5


class Waiting(msgspec.Struct, frozen=True):
    """One thing that is waited for. `until_ms`: then it goes on by itself; 0 if it does not."""

    waits_for: str
    since_ms: int
    reference: str = ""  # of the task that waits; "": the workflow
    until_ms: int = 0
    child: str = ""  # the execution that has to go on first


WhyClosed = Callable[[SecretRow], str]
"""Why the node that is asked can't read a secret; "" if it can."""


def explain(state: State, hot: ExecutionState, why_closed: WhyClosed = lambda row: "") -> list[Waiting]:
    """Nothing if the execution has ended."""
    header = hot.execution
    if header.status in WORKFLOW_TERMINAL:
        return []
    found = _about_all(state, hot)
    if header.clearing:
        text = f"the removal of what its run before has left: {len(hot.tasks)} tasks are still there"
        return [Waiting(text, header.timeout_base_ms), *found]
    if header.status is WorkflowStatus.PAUSED or header.waits:
        return found
    plan = plan_of(state, header.bundle)
    is_open = [hot.tasks[sequence] for sequence in sorted(hot.open)]
    for attempt in is_open[:ATTEMPTS_SHOWN]:
        if attempt.type != TaskType.DO_WHILE or attempt.ready or attempt.fencing_token:
            found.append(_about(state, plan, hot, attempt, why_closed))
    if len(is_open) > ATTEMPTS_SHOWN:
        found.append(Waiting(f"{len(is_open) - ATTEMPTS_SHOWN} more tasks", header.updated_ms))
    return found or [Waiting(STEP_OF_THE_LOG, header.updated_ms)]


def _about_all(state: State, hot: ExecutionState) -> list[Waiting]:
    header, found = hot.execution, []
    if header.status is WorkflowStatus.PAUSED:
        found.append(Waiting("an operator: it is paused, resume it", header.updated_ms))
    if header.waits:
        found.append(Waiting(_place(state, header), header.created_ms))
    if header.compensation is CompensationState.STUCK:
        for record in (hot.records[number] for number in header.compensating):
            text = f"an operator: its compensation of {record.reference} is stuck; retry, skip or abandon it"
            found.append(Waiting(text, header.updated_ms, record.reference))
    timer = state.timers.get((header.workflow_timer,))
    if timer is not None:
        found.append(Waiting("nothing: it times out", header.timeout_base_ms, until_ms=timer.fire_ms))
    return found


def _place(state: State, header: Execution) -> str:
    group = cast(WorkflowGroup | None, state.resident[Table.WORKFLOW_GROUP].get((header.group,)))
    waiting = state.waiting.get((header.waits,))
    taken = f": {group.running} of {waiting.at_once} run" if group is not None and waiting is not None else ""
    return f"a place under the rate limit key {header.group_key!r}{taken}"


def _about(
    state: State, plan: Plan, hot: ExecutionState, attempt: TaskAttempt, why_closed: WhyClosed
) -> Waiting:
    text, until_ms = _reason(state, plan, hot, attempt)
    closed, missing = _secrets(state, plan, hot, attempt, why_closed)
    if closed and attempt.fencing_token:
        text = f"a node that can read {closed}"
    elif closed or missing:
        text = f"{text}; then for {closed or missing}"
    # A worker's signs of life are no beginning of anything.
    is_leased = attempt.fencing_token and attempt.status is TaskStatus.IN_PROGRESS and not attempt.is_looked_at
    since_ms = attempt.started_ms if is_leased and attempt.started_ms else attempt.updated_ms
    return Waiting(text, since_ms, attempt.reference, until_ms, attempt.child)


def _secrets(
    state: State, plan: Plan, hot: ExecutionState, attempt: TaskAttempt, why_closed: WhyClosed
) -> tuple[str, str]:
    """(a secret that the attempt asks for and that can't be read, one that it names and that is not there)"""
    node = places.node_of(plan, hot, attempt)
    if not attempt.secrets and not node.runtime_metadata:
        return "", ""
    named = names_at(input_of(plan, hot, hot.execution, attempt), attempt.secrets) if attempt.secrets else ()
    rows = cast(dict[RowKey, SecretRow], state.resident[Table.SECRET])
    closed = missing = ""
    for name in dict.fromkeys((*named, *node.runtime_metadata)):
        row = rows.get((hot.execution.namespace, name))
        if row is None and name in named:
            missing = missing or f"the secret {name!r}, which is not there: it will fail"
        elif row is not None and (why := why_closed(row)):
            closed = closed or f"the secret {name!r}: {why}"
    return closed, missing


def _reason(state: State, plan: Plan, hot: ExecutionState, attempt: TaskAttempt) -> tuple[str, int]:
    timers = [state.timers[number,] for number in attempt.timers if (number,) in state.timers]
    fires = {timer.kind: timer.fire_ms for timer in timers}
    timeout_ms = fires.get(TimerKind.TASK_TIMEOUT, 0)
    if TimerKind.TASK_READY in fires:
        return "its delay, or that before its next attempt", fires[TimerKind.TASK_READY]
    ready = state.ready.get((attempt.ready,))
    if ready is not None:
        return _queued(state, ready), fires.get(TimerKind.TASK_TOTAL_TIMEOUT, 0)
    if attempt.fencing_token and attempt.is_looked_at:
        return f"a node, which checks {checks.what(attempt)} against its schema", 0
    if attempt.fencing_token:
        return f"{attempt.worker_id or 'a worker'}, which executes it", timeout_ms
    if attempt.child:
        # Whose it is matters: what an idempotency key leads to may wait for whoever waits for it.
        whose = ", which was started by others with the same idempotency key" if attempt.joined else ""
        return f"the workflow {attempt.child}{whose}", timeout_ms
    if TimerKind.WAIT in fires:
        signal = f", or the signal {attempt.signal!r}" if attempt.signal else ""
        return f"its time{signal}", fires[TimerKind.WAIT]
    if attempt.type == TaskType.JOIN:
        return _joined(plan, hot, attempt), timeout_ms
    if attempt.type == TaskType.EXCLUSIVE_JOIN:
        return f"the task that it joins: {_exclusively_joined(plan, hot, attempt)}", timeout_ms
    if attempt.signal == inbox.QUEUE:
        return "a message in the workflow's queue, or an update of the task", timeout_ms
    if attempt.signal == awaiting.EVENT:
        return f"{_event(state, hot, attempt)}, or an update of the task", timeout_ms
    if attempt.signal:
        return f"the signal {attempt.signal!r}, or an update of the task", timeout_ms
    return STEP_OF_THE_LOG, 0


def _event(state: State, hot: ExecutionState, attempt: TaskAttempt) -> str:
    row = state.triggers.awaited.waiter_numbered(attempt.position)
    if row is None:
        # From when an event was found for it until that has arrived.
        return "an event that is on its way to it"
    named = assemble_object([("event", dump_string(row.event)), ("correlationKey", dump_string(row.key))])
    shown = [text_of(value) for value in fields_of(masked(named, hot.execution.masked_fields)).values()]
    return "the event {!r} with the key {!r}".format(*shown)


def _queued(state: State, ready: Ready) -> str:
    queue = queue_of(ready)
    if system.is_queue(ready.name):
        if not state.queues.serves(queue):
            return f"a node for {ready.name}: none takes any, being drained or without slots for it"
        return f"a node with a free slot for {ready.name}"
    domain = f" in the domain {ready.domain!r}" if ready.domain else ""
    if not state.queues.serves(queue):
        return f"a worker for {queue[2]!r}{domain}: none is connected"
    if not throttle.has_room(state, ready):
        return f"room under the limits of {ready.name!r}: {_limits(state, ready)}"
    return f"a free slot: all workers for {queue[2]!r}{domain} are busy"


def _limits(state: State, ready: Ready) -> str:
    limits, key = throttle.limits_of(state, ready), (ready.namespace, ready.name)
    held = []
    if limits.at_once:
        held.append(f"{state.leased.get(key, 0)} of {limits.at_once} at once")
    if limits.in_window:
        held.append(f"{throttle.handed_out(state, key)} of {limits.in_window} within {limits.window_ms / 1000:g} s")
    return ", ".join(held)


def _exclusively_joined(plan: Plan, hot: ExecutionState, attempt: TaskAttempt) -> str:
    node = places.node_of(plan, hot, attempt)
    for reference in (*node.join_on, *node.instead):
        joined = hot.latest(places.inside(plan, hot, attempt, reference).reference)
        if joined is not None and not joined.passed:
            return joined.reference
    return ", ".join(node.join_on)


def _joined(plan: Plan, hot: ExecutionState, attempt: TaskAttempt) -> str:
    node = places.node_of(plan, hot, attempt)
    missing = []
    for reference in assembly.joined_by(plan, hot, node, attempt):
        joined = hot.latest(reference)
        if joined is None or not joined.passed:
            missing.append(reference)
    shown = ", ".join(missing[:_NAMES_SHOWN]) + (", ..." if len(missing) > _NAMES_SHOWN else "")
    return f"{attempt.waiting} of the tasks that it joins: {shown}"

