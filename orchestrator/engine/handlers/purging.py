"""Deleting executions, on request or because they were kept for long enough."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import deletion, limits, purging
from orchestrator.engine.choices import DeleteEffects, PurgeRule
from orchestrator.engine.commands import UNCHANGED, DeleteWorkflow, PurgeExecutions, SetRetention
from orchestrator.engine.errors import refuse
from orchestrator.engine.messages import PurgeExecution, RemoveRows
from orchestrator.engine.model import Table, WorkflowStatus
from orchestrator.engine.results import AnyResult, Code, Done
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import WORKFLOW_TERMINAL


def delete_workflow(step: Step, command: DeleteWorkflow) -> AnyResult:
    """Refused while the execution has not ended, and if it would drop what was not undone unless that is decided."""
    step.require(command.namespace, command.workflow_id)
    if step.x.parent:
        # It may be asked to undo itself, or to begin anew, for as long as that exists.
        message = f"the workflow is a part of {step.x.root!r}, and is deleted with it"
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_IS_A_PART", message, root=step.x.root)
    first = command.effects is DeleteEffects.COMPENSATE_FIRST
    if first and step.phase is WorkflowStatus.COMPENSATING and step.x.ending is None:
        step.change(delete_when_ended=True)
        return Done()
    if step.x.status not in WORKFLOW_TERMINAL:
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_RUNNING", "the workflow has not ended: terminate it first")
    left, parts = purging.effects_left(step), purging.parts_left(step)
    names = [*parts, *left]
    if names and command.effects is DeleteEffects.UNSET:
        message = f"not undone: {', '.join(names)}; keep their effects, or compensate first"
        refuse(Code.FAILED_PRECONDITION, "STEPS_NOT_UNDONE", message, steps=",".join(names))
    if parts and first:
        message = f"sub-workflows that ended without undoing anything can't be compensated: {', '.join(parts)}"
        refuse(Code.FAILED_PRECONDITION, "STEPS_NOT_UNDONE", message, steps=",".join(parts))
    if left and first:
        purging.reopen(step)
        step.change(delete_when_ended=True)
        return Done()
    if step.x.created_ms >= step.now:
        # Another one with its id, in the same millisecond, would have its idempotency keys.
        message = "the workflow was started in this very millisecond"
        refuse(Code.RESOURCE_EXHAUSTED, "WORKFLOW_JUST_STARTED", message)
    deletion.begin(step)
    return Done()


def remove_rows(step: Step, message: RemoveRows) -> AnyResult:
    hot = step.state.execution((message.namespace, message.workflow_id))
    if hot is None or not hot.execution.deleted:
        return Done()
    step.take(hot)
    if not deletion.remove_rows(step):
        step.send(RemoveRows(message.namespace, message.workflow_id))
    return Done()


def set_retention(step: Step, command: SetRetention) -> AnyResult:
    given = {"age_ms": command.age_ms, "count": command.count, "bytes": command.bytes}
    changed = {field: value for field, value in given.items() if value != UNCHANGED}
    for field, value in changed.items():
        if not 0 <= value <= limits.RETENTION:
            refuse(Code.INVALID_ARGUMENT, "RETENTION_INVALID", f"{field} is from 0 to 2^53", field=field)
    step.write(Table.RETENTION, (), replace(purging.retention(step.state), **changed))
    return Done()


def purge_executions(step: Step, command: PurgeExecutions) -> AnyResult:
    """Each execution decides for itself, in a step of its own."""
    for item in command.items[: limits.PURGED_PER_COMMAND]:
        step.send(PurgeExecution(item.namespace, item.workflow_id, item.ended_ms, int(item.rule), item.observed))
    return Done()


def purge_execution(step: Step, message: PurgeExecution) -> AnyResult:
    if not step.open(message.namespace, message.workflow_id) or step.x.ended_ms != message.ended_ms:
        return Done()
    policy = purging.retention(step.state)
    if not purging.may_go(step.x, policy, step.now, PurgeRule(message.rule), message.observed):
        return Done()
    if deletion.count_rows(step.hot) > limits.ROWS_REMOVED_PER_STEP:
        deletion.begin(step)
    else:
        # Nothing was sent to it since it ended that is still under way.
        deletion.remove_rows(step)
    return Done()
