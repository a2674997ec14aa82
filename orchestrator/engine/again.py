"""Another run of an execution that has ended: from the beginning, or from one of its tasks.

What is run again is removed first. What is kept is walked anew, without doing it: each attempt that stays leads to what
it led to before, and what is missing there is made.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, gate, loops, places
from orchestrator.engine.births import arm_timeout
from orchestrator.engine.definitions.model import TaskNode, TaskType
from orchestrator.engine.execution_state import base_of, instance_of
from orchestrator.engine.expressions import elements_of, fields_of, put_if_absent, text_of
from orchestrator.engine.messages import ChildReopened, RemoveChild
from orchestrator.engine.model import (
    EXECUTION_TABLES,
    AgendaKind,
    CompensationState,
    SagaRecord,
    Table,
    TaskAttempt,
    TaskStatus,
    WorkflowStatus,
)
from orchestrator.engine.operators import join
from orchestrator.engine.payloads import drop, store
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_SUCCESSFUL, check_workflow

_RESTARTED = tuple(table for table in EXECUTION_TABLES if table is not Table.EXECUTION)


def owed_by(step: Step, sequences: set[int]) -> list[SagaRecord]:
    """Steps of these attempts that took effect and were not undone."""
    undone = set(step.x.done)
    records = [step.hot.records[number] for number in sorted(step.hot.records)]
    return [record for record in records if record.step_sequence in sequences and record.number not in undone]


# --- from the beginning


def restart(step: Step, given: bytes | None) -> None:
    """The execution begins anew, with its definition as the step knows it. `given`: another input."""
    x = step.x
    text = step.hot.load(x.input) if given is None else put_if_absent(step.plan.definition.input_template, given)
    for table in _RESTARTED:
        for number in sorted(step.hot.rows(table), reverse=True):
            if table is Table.TASK:
                _let_child_go(step, step.hot.tasks[number])
            step.write(table, (x.namespace, x.workflow_id, number), None)
    step.agenda.clear()
    step.undo_agenda.clear()
    step.change(
        payload_bytes=0,
        open_branches=1,
        signals=0,
        messages=0,
        signal_bytes=0,
        log_lines=0,
        log_bytes=0,
        log_lines_dropped=0,
        pivot_passed=False,
    )
    step.change(input=store(step, text), variables=store(step, step.plan.definition.variables))
    step.hot.derived.clear()
    _begin_run(step)
    first = step.plan.definition.first
    assert first is not None
    step.note(AgendaKind.SCHEDULE, 0, first)


def _begin_run(step: Step) -> None:
    check_workflow(step.x.status, WorkflowStatus.RUNNING)
    step.change(
        status=WorkflowStatus.RUNNING,
        run=step.x.run + 1,
        ended_ms=0,
        output=b"",
        reason="",
        failed_task="",
        compensation=CompensationState.NONE,
        outcome=None,
        settled=False,
        owed=(),
        done=(),
        left=(),
        undone_by=0,
        undo_children=True,
        timeout_base_ms=step.now,
    )
    gate.assign(step)
    arm_timeout(step)
    step.count(live_executions=1)
    tell_parent(step)


def tell_parent(step: Step) -> None:
    """The step's execution runs again: whoever waited for its end does so again."""
    if step.x.parent:
        step.send(ChildReopened(step.x.namespace, step.x.parent, step.x.parent_sequence, step.x.workflow_id))


# --- from a task


def removed_by(step: Step, target: TaskAttempt) -> set[int]:
    """What goes when the task and everything that was made after it is made again, by sequence.

    With an attempt go those that it followed: another run is not another attempt, and has another idempotency key.
    """
    removed = {sequence for sequence in step.hot.tasks if sequence >= target.sequence}
    for sequences in step.hot.attempts_of.values():
        if sequences[-1] in removed:
            removed.update(sequences)
    return removed


def rerun_from(step: Step, target: TaskAttempt, given: bytes) -> None:
    """The task and everything that was made after it is made again. `given`: another input for it."""
    place = places.place_of(step.plan, step.hot, target)
    removed = [step.hot.tasks[sequence] for sequence in sorted(removed_by(step, target))]
    opened = _around(step, removed)
    _remove(step, [attempt.sequence for attempt in removed])
    _begin_run(step)
    rebuild(step, opened)
    if given:
        # Made here, for the walk would resolve its input.
        made = attempts.create(step, place, afresh=True, given=given)
        if made is not None:
            attempts.make_ready(step, made[0])


def _around(step: Step, removed: list[TaskAttempt]) -> dict[int, int]:
    """What stays and has lost some of what is in it: forks, and loops with the first iteration that they go on with."""
    found: dict[int, int] = {}
    for attempt in removed:
        parent = None if attempt.compensates else places.parent_of(step.plan, step.hot, attempt)
        while parent is not None:
            if parent.type == TaskType.DO_WHILE:
                iteration = attempt.iterations[len(parent.iterations)]
                found[parent.sequence] = min(iteration, found.get(parent.sequence, iteration))
            elif attempts.node_of(step, parent).type in (TaskType.FORK_JOIN, TaskType.FORK_JOIN_DYNAMIC):
                found[parent.sequence] = 0
            parent = places.parent_of(step.plan, step.hot, parent)
    return found


def _remove(step: Step, sequences: list[int]) -> None:
    key = (step.x.namespace, step.x.workflow_id)
    gone = set(sequences)
    for record in list(step.hot.records.values()):
        if record.step_sequence in gone:
            step.write(Table.RECORD, (*key, record.number), None)
    for sequence in sorted(sequences, reverse=True):
        attempt = step.hot.tasks[sequence]
        _let_child_go(step, attempt)
        for payload in (attempt.input, attempt.output, attempt.details):
            drop(step, payload)
        step.write(Table.TASK, (*key, sequence), None)
        expansion = step.hot.expansions.get(attempt.expanded)
        if expansion is not None and expansion.parent == sequence:
            step.write(Table.EXPANSION, (*key, expansion.number), None)
    step.hot.derived.clear()


def _let_child_go(step: Step, attempt: TaskAttempt) -> None:
    if attempt.child and not attempt.compensates:
        step.send(RemoveChild(step.x.namespace, attempt.child, keep=True))


def rebuild(step: Step, opened: dict[int, int]) -> None:
    """The walk stands where the attempts say that are left.

    `opened`: forks and loops that are not complete any more, by sequence; the loops with their iteration.
    """
    first = step.plan.definition.first
    assert first is not None
    step.agenda.clear()
    step.undo_agenda.clear()
    step.change(open_branches=1)
    step.note(AgendaKind.SCHEDULE, 0, first)
    kept = [step.hot.tasks[sequences[-1]] for sequences in step.hot.attempts_of.values()]
    for attempt in sorted(kept, key=lambda one: one.sequence):
        _walk_again(step, step.put_task(replace(attempt, passed=False)), opened)


def _walk_again(step: Step, attempt: TaskAttempt, opened: dict[int, int]) -> None:
    # The loops around it come before it: those that are open are open again.
    if loops.is_left(step, attempt):
        step.put_task(replace(attempt, passed=True))
        return
    if attempt.status is TaskStatus.SKIPPED:
        # The walk passes it when it comes there.
        return
    node = attempts.node_of(step, attempt)
    if node.type == TaskType.DO_WHILE:
        _loop_again(step, node, attempt, opened)
    elif node.type in (TaskType.FORK_JOIN, TaskType.FORK_JOIN_DYNAMIC):
        _fork_again(step, node, attempt)
    elif node.type == TaskType.SWITCH and attempt.status is TaskStatus.COMPLETED and _branch(step, node, attempt):
        loops.branches_opened(step, attempt, 1)
        step.note(AgendaKind.SCHEDULE, attempt.sequence, _branch(step, node, attempt)[0])
    elif node.type == TaskType.JOIN and (attempt.status not in TASK_SUCCESSFUL or _waits_again(step, attempt, opened)):
        join.reopen(step, node, attempt)
    elif attempt.status in TASK_SUCCESSFUL:
        step.note(AgendaKind.FOLLOW, attempt.sequence)
    else:
        step.note(AgendaKind.RETRY, attempt.sequence)


def _waits_again(step: Step, attempt: TaskAttempt, opened: dict[int, int]) -> bool:
    """Whether something that the JOIN waited for is made again."""
    forked_by = places.node_at(step.plan, step.hot, base_of(attempt), attempt.expansion).forked_by
    fork = step.hot.latest(instance_of(forked_by, attempt.iterations))
    return fork is not None and fork.sequence in opened


def _loop_again(step: Step, node: TaskNode, loop: TaskAttempt, opened: dict[int, int]) -> None:
    if loop.status in TASK_SUCCESSFUL and loop.sequence not in opened:
        step.note(AgendaKind.FOLLOW, loop.sequence)
        return
    loops.reopen_at(step, loop, opened.get(loop.sequence, loop.position))
    assert node.loop is not None
    step.note(AgendaKind.SCHEDULE, loop.sequence, node.loop.body[0])


def _fork_again(step: Step, node: TaskNode, fork: TaskAttempt) -> None:
    if fork.expanded:
        loops.branches_opened(step, fork, step.hot.expansions[fork.expanded].count)
        step.put_task(replace(fork, position=0))
        step.note(AgendaKind.EXPAND, fork.sequence)
    else:
        loops.branches_opened(step, fork, len(node.fork))
        for branch in node.fork:
            step.note(AgendaKind.SCHEDULE, fork.sequence, branch[0])
    step.note(AgendaKind.FOLLOW, fork.sequence)


def _branch(step: Step, node: TaskNode, attempt: TaskAttempt) -> tuple[str, ...]:
    """The branch that the SWITCH has chosen."""
    assert node.switch is not None
    chosen = elements_of(fields_of(step.hot.load(attempt.output)).get(node.switch.output_key, b"[]"))
    return node.switch.cases.get(text_of(chosen[0]), node.switch.default) if chosen else ()
