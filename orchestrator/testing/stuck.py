"""Says what open workflows wait for when nothing is left that could happen."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.engine import awaiting
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.model import CompensationState, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.queues import queue_of
from orchestrator.engine.state import State
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from orchestrator.rpc.backend import DEFAULT_NAMESPACE
from orchestrator.storage.search import ExecutionFilter
from orchestrator.testing.nodes import TestNode

SHOWN_MAX = 10


class Stuck(AssertionError):
    """The test waits for what will never come: nothing runs, no timer is left, and no call is under way."""


async def reasons(node: TestNode) -> str:
    """A sentence for each open workflow that the leader knows of; or that there is none."""
    found = [
        f"workflow {held.execution.workflow_id} {what}" for held in await _open(node) for what in _of(node.state, held)
    ]
    return "; ".join(found) or "no workflow is open"


async def _open(node: TestNode) -> list[ExecutionState]:
    """From the database: in memory are only those that were touched since the node started."""
    statuses = tuple(status for status in WorkflowStatus if status not in WORKFLOW_TERMINAL)
    wanted = ExecutionFilter(namespace=DEFAULT_NAMESPACE, statuses=statuses)
    page = await node.backend.search(wanted, page_size=SHOWN_MAX, page_token="")
    state = State("", 0)
    for execution in page.executions:
        key = execution.namespace, execution.workflow_id
        state.admit(key, await node.backend.load(*key))
    return [held for _, held in state.hot_executions()]


def _of(state: State, held: ExecutionState) -> Iterator[str]:
    execution = held.execution
    if execution.status is WorkflowStatus.PAUSED:
        yield "is paused"
        return
    if execution.compensation is CompensationState.STUCK:
        stuck = [held.records[number].reference for number in (*execution.compensating, *execution.owed)]
        last = max((attempt for attempt in held.tasks.values() if attempt.compensates), key=lambda one: one.sequence)
        yield (
            f"can't undo {stuck[0]!r}: {last.name} has failed {last.retry_count + 1} times, with: {last.reason} "
            "(an operator would retry, skip or abandon the compensation)"
        )
        return
    attempts = [held.tasks[sequence] for sequence in held.open]
    found = [what for attempt in attempts if (what := _waits_for(state, attempt)) is not None]
    yield from found
    if not found:
        open_tasks = ", ".join(f"{attempt.reference} ({attempt.type})" for attempt in attempts)
        yield f"is {execution.status.name}, and open are: {open_tasks or 'no tasks'}"


def _waits_for(state: State, attempt: TaskAttempt) -> str | None:
    awaited = state.triggers.awaited.waiter_numbered(attempt.position) if attempt.signal == awaiting.EVENT else None
    if awaited is not None:
        return f"waits at {attempt.reference!r} for the event {awaited.event!r} with the key {awaited.key!r}"
    if attempt.signal:
        return f"waits at {attempt.reference!r} for the signal {attempt.signal!r}"
    if attempt.ready:
        ready = state.ready[(attempt.ready,)]
        serving = [one for one in state.sessions.values() if one.namespace == ready.namespace]
        queue = queue_of(ready)[2]
        able = [one for one in serving if queue in one.task_names and one.domain == ready.domain]
        if not able:
            domain = f" in the domain {ready.domain!r}" if ready.domain else ""
            return f"waits for a worker of {queue!r}{domain} and none serves it"
        return f"waits for a worker of {queue!r}, and all of its {sum(one.slots for one in able)} slots are taken"
    if attempt.status is TaskStatus.IN_PROGRESS and attempt.worker_id:
        return (
            f"waits for {attempt.name!r} (attempt {attempt.retry_count + 1} on {attempt.worker_id}), whose function "
            "waits for something that never comes"
        )
    return None  # a JOIN or a SWITCH: what it waits for is open, too
