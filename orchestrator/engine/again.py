"""Another run of an execution that has ended: from the beginning, or from one of its tasks.

What is run again is removed first (`clearing`). What is kept is walked anew, without doing it: each attempt that stays
leads to what it led to before, and what is missing there is made.
"""

from __future__ import annotations

from bisect import bisect_right

from orchestrator.engine import attempts, clearing, gate, loops
from orchestrator.engine.births import arm_timeout
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.execution_state import instance_of
from orchestrator.engine.expressions import put_if_absent
from orchestrator.engine.messages import ChildReopened, ClearExecution
from orchestrator.engine.model import (
    AgendaKind,
    CompensationState,
    SagaRecord,
    TaskAttempt,
    TaskStatus,
    WorkflowStatus,
)
from orchestrator.engine.operators import join
from orchestrator.engine.payloads import store, store_brought
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_workflow

_WALKED_TOGETHER = 64


def is_made_again(step: Step, record: SagaRecord, target: int) -> bool:
    """Whether the record's step is, when the execution runs again from the target on."""
    reference = instance_of(record.reference, record.iterations)
    return clearing.goes(step.hot, target, reference, record.step_sequence)


def owed_by(step: Step, target: int) -> list[SagaRecord]:
    """Steps from the target on that took effect and were not undone."""
    undone = set(step.x.done)
    records = [step.hot.records[number] for number in sorted(step.hot.records)]
    return [one for one in records if one.number not in undone and is_made_again(step, one, target)]


# --- from the beginning


def restart(step: Step, given: bytes | None) -> None:
    """The execution begins anew, with its definition as the step knows it. `given`: another input."""
    x = step.x
    text = step.hot.load(x.input) if given is None else put_if_absent(step.plan.definition.input_template, given)
    below = x.next_number
    step.change(
        payload_bytes=0,
        signals=0,
        messages=0,
        signal_bytes=0,
        log_lines=0,
        log_bytes=0,
        log_lines_dropped=0,
        pivot_passed=False,
    )
    step.change(input=store_brought(step, text), variables=store(step, step.plan.definition.variables))
    _begin_run(step)
    clearing.proceed(step, ClearExecution(x.namespace, x.workflow_id, below=below))


def _begin_run(step: Step) -> None:
    check_workflow(step.x.status, WorkflowStatus.RUNNING)
    step.agenda.clear()
    step.undo_agenda.clear()
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
        open_branches=1,
    )
    gate.assign(step)
    arm_timeout(step)
    step.meta.live_executions += 1
    tell_parent(step)


def tell_parent(step: Step) -> None:
    """The step's execution runs again: whoever waited for its end does so again."""
    if step.x.parent:
        step.send(ChildReopened(step.x.namespace, step.x.parent, step.x.parent_sequence, step.x.workflow_id))


# --- from a task


def rerun_from(step: Step, target: TaskAttempt, given: bytes) -> None:
    """The task and everything that was made after it is made again. `given`: another input for it."""
    _begin_run(step)
    clearing.proceed(step, clearing.work_for(step, target, store_brought(step, given)))


def walk_on(step: Step, position: int, until: str) -> None:
    """The next of the attempts that stay, in the order of their making, lead to what they led to before."""
    numbers = [sequence for sequence in sorted(step.hot.tasks) if sequence < int(until)]
    left = numbers[bisect_right(numbers, position) :]
    for sequence in left[:_WALKED_TOGETHER]:
        _lead_on(step, step.hot.tasks[sequence])
        step.budget -= 1
    if len(left) > _WALKED_TOGETHER:
        step.note(AgendaKind.WALK_AGAIN, left[_WALKED_TOGETHER - 1], until)


def _lead_on(step: Step, attempt: TaskAttempt) -> None:
    if attempt.compensates or not clearing.is_newest(step.hot, attempt) or loops.is_left(step, attempt):
        return
    if attempt.status is TaskStatus.SKIPPED:
        # The walk passes it when it comes there.
        return
    node = attempts.node_of(step, attempt)
    is_open = attempt.status is TaskStatus.IN_PROGRESS
    if node.type == TaskType.DO_WHILE and is_open:
        assert node.loop is not None
        attempts.limit_time(step, attempt)
        step.note(AgendaKind.SCHEDULE, attempt.sequence, node.loop.body[0])
    elif node.type == TaskType.JOIN and is_open:
        join.count(step, node, attempt)
        attempts.limit_time(step, step.hot.tasks[attempt.sequence])
    elif attempt.status not in clearing.COMPLETE:
        step.note(AgendaKind.RETRY, attempt.sequence)
    elif node.type == TaskType.SWITCH and (branch := clearing.branch_of(step, node, attempt)):
        step.note(AgendaKind.SCHEDULE, attempt.sequence, branch[0])
    else:
        if node.type == TaskType.FORK_JOIN_DYNAMIC:
            step.note(AgendaKind.EXPAND, attempt.sequence)
        for branch in node.fork if node.type == TaskType.FORK_JOIN else ():
            step.note(AgendaKind.SCHEDULE, attempt.sequence, branch[0])
        step.note(AgendaKind.FOLLOW, attempt.sequence)
