"""How many attempts of a task are handed out: at once, and in a window of time, in the whole cluster.

The limits of a registered task definition hold for every task of that name, as they are now; those of an inline
definition only where no definition is registered. Counted are leases, compensations included: a fenced lease counts
until its worker has released it, for the worker may still be at it. A hand-out counts for as long as the window, and a
little longer where that keeps the row small: never more than the limit lie in any window, wherever it begins.

Nothing asks again and again: what is held back goes on in the step that ends a lease of its name, in that of the timer
of the window, or in that which registers other limits.
"""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from orchestrator.engine.definitions.model import NO_LIMITS, TaskLimits
from orchestrator.engine.definitions.parse import validate_task
from orchestrator.engine.effects import QueueOpened
from orchestrator.engine.model import Table, TimerKind
from orchestrator.engine.queues import QueueKey, queue_of
from orchestrator.engine.resident import Ready, TaskDefinitionRow, TaskRate, Timer
from orchestrator.engine.state import State
from orchestrator.engine.step import Step

TaskKey = tuple[str, str]
"""(namespace, task name)"""

# Hand-outs of a window are counted together in this many spans.
_SPANS = 32


def limits_of(state: State, row: Ready) -> TaskLimits:
    """What holds for the attempt now."""
    registered = registered_limits(state, row.namespace, row.name)
    if registered is not None:
        return registered
    return TaskLimits(*row.limits) if row.limits else NO_LIMITS


def registered_limits(state: State, namespace: str, name: str) -> TaskLimits | None:
    """Those of the registered task definition; None if there is none."""
    key = (namespace, name)
    definition = cast(TaskDefinitionRow | None, state.resident[Table.TASK_DEFINITION].get(key))
    if definition is None:
        return None
    limits = state.task_limits.get(key)
    if limits is None:
        limits = state.task_limits[key] = validate_task(definition.document).definition.limits
    return limits


def has_room(state: State, row: Ready) -> bool:
    """Whether no limit keeps the attempt from being handed out now."""
    limits = limits_of(state, row)
    if limits is NO_LIMITS:
        return True
    key = (row.namespace, row.name)
    if limits.at_once and state.leased.get(key, 0) >= limits.at_once:
        return False
    return not limits.in_window or handed_out(state, key) < limits.in_window


def is_open(state: State, queue: QueueKey) -> bool:
    """Whether something in the queue may be handed out now."""
    row = state.queues.head(queue)
    return row is not None and has_room(state, row)


def is_turning(state: State, queue: QueueKey) -> bool:
    """Whether the window of the task has turned, and the step of its timer, which hands out again, is still to come."""
    row = state.queues.head(queue)
    rate = None if row is None else state.task_rates.get((row.namespace, row.name))
    timer = None if rate is None else state.timers.get((rate.timer,))
    return timer is not None and timer.fire_ms <= state.meta.log_time_ms


def handed_out(state: State, key: TaskKey) -> int:
    """How many hand-outs count now."""
    rate = state.task_rates.get(key)
    now = state.meta.log_time_ms
    return 0 if rate is None else sum(count for until_ms, count in rate.given if until_ms > now)


# --- what changes


def count(step: Step, row: Ready) -> None:
    """The attempt is being handed out."""
    _move_up(step, row)
    limits = limits_of(step.state, row)
    if not limits.in_window:
        return
    key = (row.namespace, row.name)
    step.rated[key] = None
    span_ms = max(1, limits.window_ms // _SPANS)
    until_ms = -(-(step.now + limits.window_ms) // span_ms) * span_ms
    rate = step.state.task_rates.get(key)
    if rate is None:
        rate = TaskRate(*key, (), _arm(step, key, until_ms))
    given = dict(_counting(step, rate))
    given[until_ms] = given.get(until_ms, 0) + 1
    step.write(Table.TASK_RATE, key, replace(rate, given=tuple(sorted(given.items()))))


def window_turned(step: Step, timer: Timer) -> None:
    """Some hand-outs count no longer."""
    key = (timer.namespace, timer.name)
    rate = step.state.task_rates.get(key)
    if rate is None or rate.timer != timer.number:
        return
    given = _counting(step, rate)
    step.write(Table.TASK_RATE, key, replace(rate, given=given, timer=0) if given else None)
    step.freed_names[key] = None


def definition_changed(step: Step, namespace: str, name: str) -> None:
    """Other limits may hold from now on."""
    for queue in step.state.queues.named(namespace, name):
        step.ready_queues[queue] = None
        step.effects.append(QueueOpened(*queue))


def dequeue(step: Step, row: Ready) -> None:
    """The attempt waits no longer, without having been handed out."""
    step.write(Table.READY, (row.number,), None)
    _move_up(step, row)


def _move_up(step: Step, row: Ready) -> None:
    if row.limits or (row.namespace, row.name) in step.state.task_rates:
        # Behind it may be one that other limits hold for, or that waits for the window.
        queue = queue_of(row)
        step.ready_queues[queue] = None
        step.effects.append(QueueOpened(*queue))


def watch(step: Step) -> None:
    """At the end of matching: sees to it that the timer of each window is due when somebody waits for it."""
    if not step.state.task_rates:
        return
    heads = [step.state.queues.head(queue) for queue in step.ready_queues]
    names = {(row.namespace, row.name): None for row in heads if row is not None}
    for key in {**names, **step.freed_names, **step.rated}:
        rate = step.state.task_rates.get(key)
        if rate is None:
            continue
        waiting = step.state.queues.named(*key)
        # Where nobody waits, the row is only to be dropped at last.
        due_ms = rate.given[0 if any(is_rate_reached(step.state, queue) for queue in waiting) else -1][0]
        timer = step.state.timers.get((rate.timer,))
        if timer is None or timer.fire_ms > due_ms:
            step.disarm(rate.timer)
            step.write(Table.TASK_RATE, key, replace(rate, timer=_arm(step, key, due_ms)))


def is_rate_reached(state: State, queue: QueueKey) -> bool:
    """Whether something in the queue has to wait for the window, whatever else it has to wait for."""
    row = state.queues.head(queue)
    return row is not None and 0 < limits_of(state, row).in_window <= handed_out(state, (row.namespace, row.name))


def _counting(step: Step, rate: TaskRate) -> tuple[tuple[int, int], ...]:
    return tuple(pair for pair in rate.given if pair[0] > step.now)


def _arm(step: Step, key: TaskKey, fire_ms: int) -> int:
    namespace, name = key
    number = step.timer_number()
    step.write(Table.TIMER, (number,), Timer(number, fire_ms, TimerKind.TASK_RATE, namespace, "", 0, name))
    return number
