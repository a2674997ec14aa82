"""Before an execution runs again: what does not stay of the run before goes, what stays is got ready for the walk.

As much as one step may do at a time. Until it is done nothing of the new run begins: the header says `clearing`,
callers are refused, what others send to the execution waits in the inbox (`deliveries`), and `ClearExecution` carries
how far it has come.

From a task on: its records, then attempts, the newest first. What they leave behind is open from then on: loops at the
first iteration that lost something, JOINs until they count what they wait for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from orchestrator.engine import attempts, loops, places
from orchestrator.engine.definitions.model import TaskNode, TaskType
from orchestrator.engine.execution_state import ExecutionState, base_of, instance_of
from orchestrator.engine.expressions import elements_of, fields_of, text_of
from orchestrator.engine.messages import ClearExecution, RemoveChild
from orchestrator.engine.model import AgendaKind, Table, TaskAttempt, TaskStatus
from orchestrator.engine.operators import join
from orchestrator.engine.payloads import drop
from orchestrator.engine.places import Place
from orchestrator.engine.step import Step

COMPLETE = (TaskStatus.COMPLETED, TaskStatus.COMPLETED_WITH_ERRORS)

_FORKS = (TaskType.FORK_JOIN, TaskType.FORK_JOIN_DYNAMIC)

# Attempts first: they refer to the others.
_TABLES = (Table.TASK, Table.RECORD, Table.SIGNAL, Table.TASK_LOG, Table.EXPANSION, Table.PAYLOAD)


def proceed(step: Step, work: ClearExecution) -> None:
    """Goes on from where the step before has stopped, and begins the run if nothing is left to do."""
    parts = _BEFORE_A_RERUN if work.target else _BEFORE_A_RESTART
    for part in range(work.part, len(parts)):
        position = parts[part](step, work)
        if position is not None:
            step.change(clearing=True)
            step.send(replace(work, part=part, position=position))
            return
        work = replace(work, position=0)
    step.change(clearing=False)
    _begin(step, work)


def goes(hot: ExecutionState, target: int, reference: str, sequence: int) -> bool:
    """Whether an attempt of the reference goes when everything from the target on does.

    With an attempt go those that it followed: another run is not another attempt, and has another idempotency key.
    """
    return sequence >= target or (hot.attempts_of.get(reference) or [0])[-1] >= target


def _begin(step: Step, work: ClearExecution) -> None:
    first = step.plan.definition.first
    assert first is not None
    step.note(AgendaKind.SCHEDULE, 0, first)
    if not work.target:
        step.hot.derived.clear()
        return
    step.note(AgendaKind.WALK_AGAIN, 0, str(work.target))
    if work.given:
        # Made here, for the walk would resolve its input.
        node = places.node_at(step.plan, step.hot, work.reference, work.expansion)
        text = step.hot.load(work.given)
        drop(step, work.given)
        made = attempts.create(step, Place(node, work.iterations, work.expansion), afresh=True, given=text)
        if made is not None:
            attempts.make_ready(step, made[0])


def _after(rows: Iterable[int], position: int) -> list[int]:
    numbers = sorted(rows)
    return numbers[bisect_right(numbers, position) :]


# --- everything


def _rows(step: Step, work: ClearExecution) -> int | None:
    """All but what the new run has brought: its input and variables."""
    for table in _TABLES:
        for number in sorted(step.hot.rows(table), reverse=True):
            if table is Table.PAYLOAD and number >= work.below:
                continue
            if step.budget <= 0:
                return 0
            if table is Table.TASK:
                _let_child_go(step, step.hot.tasks[number])
            step.write(table, (step.x.namespace, step.x.workflow_id, number), None)
            step.budget -= 1
    return None


def _let_child_go(step: Step, attempt: TaskAttempt) -> None:
    if attempt.own_child and not attempt.compensates:
        step.send(RemoveChild(step.x.namespace, attempt.child, keep=True))


# --- a task, and what was made after it


def _records(step: Step, work: ClearExecution) -> int | None:
    position = work.position
    for number in _after(step.hot.records, position):
        if step.budget <= 0:
            return position
        record = step.hot.records[number]
        if goes(step.hot, work.target, instance_of(record.reference, record.iterations), record.step_sequence):
            step.write(Table.RECORD, (step.x.namespace, step.x.workflow_id, number), None)
        step.budget -= 1
        position = number
    return None


def _attempts(step: Step, work: ClearExecution) -> int | None:
    hot = step.hot
    for sequence in sorted((one for one in hot.tasks if one >= work.target), reverse=True):
        newest = hot.tasks.get(sequence)
        if newest is None:
            # It went with the one that followed it.
            continue
        siblings = hot.undoing[newest.compensates] if newest.compensates else hot.attempts_of[newest.reference]
        for one in list(siblings):
            if one == sequence:
                _open_around(step, newest, work.target)
            if step.budget <= 0:
                return 0
            _remove(step, hot.tasks[one], newest)
    return None


def _open_around(step: Step, attempt: TaskAttempt, target: int) -> None:
    """What stays around it, and is about to lose it, is not complete any more."""
    hot = step.hot
    parent = None if attempt.compensates else places.parent_of(step.plan, hot, attempt)
    while parent is not None:
        if not goes(hot, target, parent.reference, parent.sequence):
            node = attempts.node_of(step, parent)
            if parent.type == TaskType.DO_WHILE:
                loops.interrupt(step, node, parent, attempt.iterations[len(parent.iterations)])
            elif node.type in _FORKS and node.join is not None:
                place = places.inside(step.plan, hot, parent, node.join)
                joined = hot.latest(place.reference)
                if joined is not None and not goes(hot, target, joined.reference, joined.sequence):
                    join.interrupt(step, joined)
        parent = places.parent_of(step.plan, hot, parent)


def _remove(step: Step, attempt: TaskAttempt, newest: TaskAttempt) -> None:
    key = (step.x.namespace, step.x.workflow_id)
    _let_child_go(step, attempt)
    for payload in (attempt.input, attempt.output, attempt.details):
        drop(step, payload)
    step.remove_task(attempt)
    step.budget -= 1
    expansion = step.hot.expansions.get(attempt.expanded)
    # The newest may still be asked what it is of.
    if expansion is not None and (attempt is newest or attempt.expanded != newest.expanded):
        drop(step, expansion.document)
        drop(step, expansion.inputs)
        step.write(Table.EXPANSION, (*key, expansion.number), None)
        places.forget(step.hot, expansion.number, base_of(attempt))


# --- what stays


def _stands(step: Step, work: ClearExecution) -> int | None:
    """The walk has passed nothing; what the attempts that stay have opened is counted anew, outer ones first."""
    position = work.position
    for sequence in _after(step.hot.tasks, position):
        if step.budget <= 0:
            return position
        step.budget -= 1
        position = sequence
        attempt = step.hot.tasks[sequence]
        if attempt.compensates:
            continue
        if not is_newest(step.hot, attempt):
            if attempt.passed:
                step.put_task(replace(attempt, passed=False))
        elif loops.is_left(step, attempt):
            if not attempt.passed:
                step.put_task(replace(attempt, passed=True))
        else:
            _count_again(step, step.put_task(replace(attempt, passed=False)) if attempt.passed else attempt)
    return None


def is_newest(hot: ExecutionState, attempt: TaskAttempt) -> bool:
    return hot.attempts_of[attempt.reference][-1] == attempt.sequence


def _count_again(step: Step, attempt: TaskAttempt) -> None:
    node = attempts.node_of(step, attempt)
    if node.type == TaskType.DO_WHILE:
        if attempt.position and attempt.status not in COMPLETE:
            loops.reopen_at(step, node, attempt)
    elif attempt.status not in COMPLETE:
        return
    elif node.type == TaskType.FORK_JOIN:
        loops.branches_opened(step, attempt, len(node.fork))
    elif node.type == TaskType.FORK_JOIN_DYNAMIC:
        loops.branches_opened(step, attempt, step.hot.expansions[attempt.expanded].count)
        step.put_task(replace(step.hot.tasks[attempt.sequence], position=0))
    elif node.type == TaskType.SWITCH and branch_of(step, node, attempt):
        loops.branches_opened(step, attempt, 1)


def branch_of(step: Step, node: TaskNode, attempt: TaskAttempt) -> tuple[str, ...]:
    """The branch that a SWITCH that has completed has chosen."""
    assert node.switch is not None
    chosen = elements_of(fields_of(step.hot.load(attempt.output)).get(node.switch.output_key, b"[]"))
    return node.switch.cases.get(text_of(chosen[0]), node.switch.default) if chosen else ()


_Part = Callable[[Step, ClearExecution], int | None]
"""Answers where the next step goes on; None: the part is done."""

_BEFORE_A_RESTART: tuple[_Part, ...] = (_rows,)
_BEFORE_A_RERUN: tuple[_Part, ...] = (_records, _attempts, _stands)


def work_for(step: Step, target: TaskAttempt, given: int | bytes) -> ClearExecution:
    """Before the execution runs again from this attempt on. `given`: another input for it."""
    return ClearExecution(
        step.x.namespace,
        step.x.workflow_id,
        target.sequence,
        given=given,
        reference=base_of(target),
        iterations=target.iterations,
        expansion=target.expansion,
    )
