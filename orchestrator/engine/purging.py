"""When an ended execution may go: the policy of keeping, and what its going would leave undone."""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from orchestrator.engine import saga
from orchestrator.engine.choices import PurgeRule
from orchestrator.engine.model import CompensationState, Execution, StepOutcome, Table, TaskStatus, WorkflowStatus
from orchestrator.engine.resident import Retention
from orchestrator.engine.state import State
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import WORKFLOW_TERMINAL, check_workflow


def retention(state: State) -> Retention:
    """The policy in force."""
    return cast(Retention, state.resident[Table.RETENTION].get((), Retention()))


def may_go(header: Execution, policy: Retention, now_ms: int, rule: PurgeRule, observed: int) -> bool:
    """Whether the execution was kept for long enough. One that has ended in this very millisecond never was."""
    if header.status not in WORKFLOW_TERMINAL or header.ended_ms >= now_ms or header.parent:
        # A part of another is kept as long as that.
        return False
    if rule is PurgeRule.AGE:
        age_ms = header.retention_ms or policy.age_ms
        return bool(age_ms) and header.ended_ms + age_ms <= now_ms
    if rule is PurgeRule.COUNT:
        count = header.retention_count or policy.count
        return bool(count) and observed >= count
    return bool(policy.bytes) and observed > policy.bytes


def effects_left(step: Step) -> list[str]:
    """References of the steps of an ended execution that took effect, or may have, and were not undone.

    What has completed, or has passed its pivot, is what was wanted: nothing of it is left to be undone.
    """
    header, records = step.x, step.hot.records
    if header.status is WorkflowStatus.COMPLETED or header.pivot_passed:
        return []
    if header.settled:
        return [records[number].reference for number in header.left]
    unknown = [attempt.reference for attempt in saga.unknown_steps(step)]
    return [*unknown, *(records[number].reference for number in sorted(records, reverse=True))]


def parts_left(step: Step) -> list[str]:
    """References of sub-workflows that were ended together with the execution, and were told not to undo anything.

    What they have done, they alone know; and they will not be asked again.
    """
    header = step.x
    if header.undo_children or header.status is WorkflowStatus.COMPLETED or header.pivot_passed:
        return []
    attempts = (step.hot.tasks[sequence] for sequence in sorted(step.hot.tasks))
    return [
        one.reference for one in attempts if one.own_child and not one.compensates and one.status is TaskStatus.CANCELED
    ]


def reopen(step: Step) -> None:
    """An ended execution compensates what is left to be undone, and ends again as it had ended."""
    header = step.x
    check_workflow(header.status, WorkflowStatus.COMPENSATING)
    owed = sorted(header.left, key=lambda number: _turn(step, number))
    for number in owed:
        record = replace(step.hot.records[number], reason="")
        step.write(Table.RECORD, (header.namespace, header.workflow_id, number), record)
    # Where nothing was settled, it is now, as if the execution had turned round.
    step.change(
        status=WorkflowStatus.COMPENSATING,
        # A workflow that had completed has not any more.
        outcome=WorkflowStatus.TERMINATED if header.status is WorkflowStatus.COMPLETED else header.status,
        compensation=CompensationState.RUNNING,
        ended_ms=0,
        owed=tuple(owed),
        left=(),
    )
    step.meta.live_executions += 1


def _turn(step: Step, number: int) -> tuple[bool, int]:
    """Unknown outcomes first, then the others in the opposite order of their completion."""
    known = step.hot.records[number].outcome is StepOutcome.COMPLETED
    return known, -number if known else number
