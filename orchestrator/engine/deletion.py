"""How an execution goes away: it is there for nobody from then on, and its id is free again when its last row has gone.

Few rows go at once, many go step by step. What was sent to the execution before is taken up before, and finds nothing.
"""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from orchestrator.engine import blob_uses, idempotency, limits
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.messages import RemoveChild, RemoveRows
from orchestrator.engine.model import EXECUTION_TABLES, CompensationState, Table
from orchestrator.engine.resident import Bundle
from orchestrator.engine.step import Step

# The header goes last.
_CHILDREN = tuple(table for table in reversed(EXECUTION_TABLES) if table is not Table.EXECUTION)
_UNDONE = (CompensationState.NONE, CompensationState.COMPLETE)


def begin(step: Step) -> None:
    """The step's execution is deleted from now on; its rows go when everything sent to it before was taken up."""
    _forget_key(step)
    step.change(deleted=True, delete_when_ended=False)
    step.send(RemoveRows(step.x.namespace, step.x.workflow_id))


def after_end(step: Step) -> None:
    """The step's execution has ended, and was to be deleted then: if everything that was owed has been undone."""
    if step.x.compensation in _UNDONE:
        begin(step)
    else:
        step.change(delete_when_ended=False)


def count_rows(hot: ExecutionState) -> int:
    return 1 + sum(len(hot.rows(table)) for table in _CHILDREN)


def remove_rows(step: Step) -> bool:
    """Removes rows of the step's execution, as many as one step may; True if nothing is left of it."""
    assert step.key is not None
    left = limits.ROWS_REMOVED_PER_STEP
    for table in _CHILDREN:
        # The highest numbers first: put back in the opposite order, the rows stand as they stood.
        for number in sorted(step.hot.rows(table), reverse=True)[:left]:
            attempt = step.hot.tasks[number] if table is Table.TASK else None
            if attempt is not None and attempt.own_child and not attempt.compensates:
                step.send(RemoveChild(step.x.namespace, attempt.child))
            step.write(table, (*step.key, number), None)
            left -= 1
        if left <= 0:
            return False
    _forget_key(step)
    _release_bundle(step)
    blob_uses.end(step)
    step.remove()
    return True


def _forget_key(step: Step) -> None:
    x = step.x
    if x.idempotency_key:
        idempotency.forget(step, x.namespace, x.name, x.idempotency_key, x.workflow_id)


def _release_bundle(step: Step) -> None:
    key = (step.x.bundle,)
    bundle = cast(Bundle, step.state.resident[Table.BUNDLE][key])
    executions = bundle.executions - 1
    step.write(Table.BUNDLE, key, replace(bundle, executions=executions) if executions else None)
