"""Moving an execution that runs to another version of its definition: whether it is safe, and why not.

An execution goes on by looking up, after each task, what follows in its definition. So it may have another definition
if everything it has begun stands at the same place there, and nothing was put where it has been already.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.engine.definitions.model import TaskNode, TaskType
from orchestrator.engine.execution_state import ExecutionState, base_of
from orchestrator.engine.model import TaskAttempt, WorkflowStatus
from orchestrator.engine.plan import Plan
from orchestrator.engine.transitions import TASK_TERMINAL

_MOVABLE = (WorkflowStatus.RUNNING, WorkflowStatus.PAUSED)
OBSTACLES_SHOWN = 20


def obstacles(old: Plan, new: Plan, hot: ExecutionState) -> list[str]:
    """Why the execution can't run the new plan; nothing if it can. At most OBSTACLES_SHOWN."""
    header = hot.execution
    if header.status not in _MOVABLE or header.ending is not None:
        return [f"the workflow is {(header.ending or header.status).name}"]
    if header.paused_from is WorkflowStatus.COMPENSATING:
        return ["the workflow is COMPENSATING"]
    found: list[str] = []
    for obstacle in _all(old, new, hot):
        found.append(obstacle)
        if len(found) == OBSTACLES_SHOWN:
            break
    return found


def _all(old: Plan, new: Plan, hot: ExecutionState) -> Iterator[str]:
    begun = {base_of(attempt) for attempt in hot.tasks.values() if not attempt.compensates and not attempt.expansion}
    known = [reference for reference in old.nodes if reference in begun]
    for reference in known:
        yield from _place(old.nodes[reference], new.nodes.get(reference))
    for reference in known:
        if reference in new.nodes:
            yield from _missed(new, begun, reference)
    for attempt in hot.tasks.values():
        if attempt.status not in TASK_TERMINAL and not attempt.compensates and not attempt.expansion:
            yield from _under_way(old, new, attempt)
    for record in hot.records.values():
        node = new.nodes.get(record.reference)
        before = old.nodes.get(record.reference)
        if record.expansion or node is None or before is None or before.compensate_with is None:
            continue
        if node.compensate_with is None:
            yield f"{record.reference} has completed and would have no compensation any more"


def _place(before: TaskNode, after: TaskNode | None) -> Iterator[str]:
    """What has begun stands where it stood."""
    if after is None:
        yield f"{before.reference} has begun, and is not in the new definition"
        return
    if after.type != before.type:
        yield f"{before.reference} has begun as a {before.type}, and is a {after.type} there"
    if after.parent != before.parent or after.loops != before.loops:
        yield f"{before.reference} has begun, and stands in another place there"
    elif after.branch != before.branch:
        yield f"{before.reference} has begun, and stands in another branch there"
    if before.type == TaskType.FORK_JOIN and _firsts(before) != _firsts(after):
        yield f"the branches of {before.reference} have begun, and are others there"
    if before.type in (TaskType.FORK_JOIN, TaskType.FORK_JOIN_DYNAMIC) and after.join != before.join:
        yield f"{before.reference} has begun, and has another JOIN there"


def _firsts(fork: TaskNode) -> list[str]:
    return [branch[0] for branch in fork.fork]


def _missed(new: Plan, begun: set[str], reference: str) -> Iterator[str]:
    """Nothing that has not begun stands before it in its sequence: the walk has passed there."""
    for other in new.nodes.values():
        is_task = other.type != TaskType.SCHEMA_CHECK
        if other.next == reference and other.reference not in begun and is_task:
            yield f"{other.reference} stands before {reference}, which has begun: it would never be executed"


def _under_way(old: Plan, new: Plan, attempt: TaskAttempt) -> Iterator[str]:
    before, after = old.nodes.get(base_of(attempt)), new.nodes.get(base_of(attempt))
    if before is None or after is None:
        return
    if before.name != after.name:
        yield f"{attempt.reference} is under way as {before.name!r}, and is {after.name!r} there"
    if attempt.type == TaskType.JOIN and set(before.join_on) != set(after.join_on):
        yield f"{attempt.reference} waits for other tasks than it would there"
