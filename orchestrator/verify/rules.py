"""What must hold of one execution, or of all, whatever happened: attempts, compensations, timers, ends. No I/O."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from orchestrator.verify.attempts import Ran, wrong_steps
from orchestrator.verify.work import COMPENSATED, TIMER_MS, Expected
from orchestrator_client import Execution, TaskAttempt

ATTEMPTS_MAX = 40
WORKER_LOST = "WORKER_LOST"


@dataclass(frozen=True)
class Effect:
    """What a worker's service did, or undid, for a step's idempotency key."""

    key: str
    undone: bool


@dataclass
class Labour:
    """What workers have written of one execution, in its order, and which of them may have lost their attempts."""

    ran: Sequence[Ran] = ()
    effects: Sequence[Effect] = ()
    # Killed, or (where that is allowed) with a session that ended while they lived.
    lost_workers: frozenset[str] = field(default_factory=frozenset)


def wrong_end(execution: Execution, expected: Expected) -> Iterator[str]:
    if execution.status not in expected.statuses:
        yield f"is {execution.status} ({execution.reason}), not {' or '.join(map(str, expected.statuses))}"
    elif execution.status == "COMPLETED" and execution.output != expected.output:
        yield f"came to {json.dumps(execution.output)}, not {json.dumps(expected.output)}"


def wrong_attempts(execution: Execution, labour: Labour) -> Iterator[str]:
    """One completion of each step, by a worker that had it; nothing handed out again while its worker lived."""
    # A worker that was paused may begin late what it was given before: a service refuses its token, which is lower.
    gone = {(task.task_id, task.fencing_token) for task in execution.tasks
            if task.reason == WORKER_LOST and task.worker_id in labour.lost_workers}
    in_time = [each for each in labour.ran if (each.task_id, each.fencing_token) not in gone]
    yield from wrong_steps(execution, in_time, ATTEMPTS_MAX)
    attempts = {(task.task_id, task.fencing_token) for task in execution.tasks}
    for each in labour.ran:
        if (each.task_id, each.fencing_token) not in attempts:
            yield f"a worker was given attempt {each.attempt} of {each.reference}, of which nobody knows any more"
    for reference, tried in by_step(execution.tasks).items():
        # A worker that is told to cancel lets go of what it has: so ends what is terminated, and only that.
        for task in tried[:-1] if execution.status == "TERMINATED" else tried:
            if task.reason == WORKER_LOST and task.worker_id not in labour.lost_workers:
                yield f"{reference} was taken from its worker {task.worker_id}, which nobody had killed"
        for task in tried[:-1]:
            if not task.status.startswith("FAILED") and task.reason != WORKER_LOST:
                yield f"{reference} was handed out again after an attempt that is {task.status} ({task.reason})"


def handed_out_twice(executions: Iterable[Execution], ran: Iterable[Ran]) -> Iterator[str]:
    """Of all things that must be unique over everything, those that are not."""
    tasks = [task for execution in executions for task in execution.tasks if task.fencing_token]
    for what, values in (("fencing tokens given to two attempts", [task.fencing_token for task in tasks]),
                         ("task ids given to two attempts", [task.task_id for task in tasks]),
                         ("leases executed twice", [each.fencing_token for each in ran])):
        if doubled := [value for value, times in Counter(values).items() if times > 1]:
            yield f"{what}: {doubled[:5]}"


def by_step(tasks: Iterable[TaskAttempt]) -> dict[str, list[TaskAttempt]]:
    """Attempts that workers execute, in their order."""
    found: defaultdict[str, list[TaskAttempt]] = defaultdict(list)
    for task in sorted(tasks, key=lambda task: task.sequence):
        if task.type == "SIMPLE":
            found[task.reference].append(task)
    return dict(found)


def wrong_compensation(execution: Execution, argument: Mapping[str, Any], effects: Sequence[Effect]) -> Iterator[str]:
    """Unknown outcomes first, then completed steps in reverse order of completion, one at a time, each once."""
    tasks = sorted(execution.tasks, key=lambda task: task.sequence)
    forward = by_step(task for task in tasks if task.reference in COMPENSATED and not task.compensates)
    undoing = [task for task in tasks if task.compensates]
    done = [step.reference for step in execution.compensation.done]
    undone = {each.key for each in effects if each.undone}
    if execution.status == "COMPLETED":
        if undoing or done or undone:
            yield f"is COMPLETED, and was undone: {done or undone or [task.reference for task in undoing]}"
        return
    completed = [task for tried in forward.values() for task in tried if task.status == "COMPLETED"]
    completed.sort(key=lambda task: (task.end_time, task.sequence))
    unknown = [reference for reference, tried in forward.items() if _is_unknown(tried, argument)]
    owed = [*unknown, *(task.reference for task in reversed(completed))]
    if done != owed:
        yield f"was undone as {done}, and not as {owed}"
    if left := [step.reference for step in execution.compensation.left]:
        yield f"was not undone: {left}"
    wanted = "COMPLETE" if owed else "NONE"
    if execution.compensation.state != wanted:
        yield f"its compensation is {execution.compensation.state}, not {wanted}"
    yield from _wrong_undoing(undoing)
    keys = {tried[-1].idempotency_key for reference, tried in forward.items() if reference in owed}
    if undone != keys:
        yield f"workers have undone {sorted(undone)}, and owed was {sorted(keys)}"


def _is_unknown(tried: Sequence[TaskAttempt], argument: Mapping[str, Any]) -> bool:
    if any(task.status == "COMPLETED" for task in tried):
        return False
    said_so = argument.get("mode") == "unknown" and tried[-1].reference == "charge"
    return any(task.status == "TIMED_OUT" or (said_so and task.status.startswith("FAILED")) for task in tried)


def _wrong_undoing(undoing: Sequence[TaskAttempt]) -> Iterator[str]:
    times = Counter(task.compensates for task in undoing if task.status == "COMPLETED")
    if doubled := sorted(reference for reference, count in times.items() if count > 1):
        yield f"was undone twice: {doubled}"
    for earlier, later in itertools.pairwise(undoing):
        if later.compensates == earlier.compensates:
            continue
        if earlier.end_time is None or (later.start_time is not None and later.start_time < earlier.end_time):
            yield f"{later.compensates} was being undone before {earlier.compensates} was"


def wrong_timer(execution: Execution) -> Iterator[str]:
    for task in execution.tasks:
        if task.type == "WAIT" and task.status == "COMPLETED" and task.end_time and task.scheduled_time:
            took = task.end_time - task.scheduled_time
            if took < timedelta(milliseconds=TIMER_MS):
                yield f"its timer of {TIMER_MS} ms fired after {took.total_seconds() * 1000:.0f} ms"
    fired = Counter(task.reference for task in execution.tasks if task.type == "WAIT")
    if doubled := [reference for reference, count in fired.items() if count > 1]:
        yield f"its timer fired twice: {doubled}"


def wrong_replica(name: str, seen: Execution | None, other: str, seen_there: Execution | None) -> Iterator[str]:
    """Two nodes, asked for the same execution when nothing changed it any more."""
    if seen != seen_there:
        yield f"{name} shows {_briefly(seen)}, and {other} {_briefly(seen_there)}"


def _briefly(seen: Execution | None) -> str:
    return "nothing" if seen is None else f"{seen.status} {json.dumps(seen.output)} with {len(seen.tasks)} attempts"
