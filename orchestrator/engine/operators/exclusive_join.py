"""EXCLUSIVE_JOIN: takes the output of the one branch that was gone, or of a task that stands for all of them."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import assembly, attempts, places
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.payloads import store
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_SUCCESSFUL, TASK_TERMINAL, check_task


class ExclusiveJoin:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        joined = _joined(step, node, attempt)
        if joined is None:
            reason = f"none of {', '.join((*node.join_on, *node.instead))} was ever begun"
            attempts.finish(step, attempt, TaskStatus.FAILED, reason=reason)
            return
        if joined.status not in TASK_TERMINAL or not joined.passed:
            check_task(attempt.status, TaskStatus.IN_PROGRESS)
            step.put_task(
                replace(attempt, status=TaskStatus.IN_PROGRESS, started_ms=step.now, updated_ms=step.now, waiting=1)
            )
            return
        _end(step, attempt, joined)


def _joined(step: Step, node: TaskNode, attempt: TaskAttempt) -> TaskAttempt | None:
    """The first that exists and was not skipped; otherwise the first of those that stand in."""
    for references, skipped in ((node.join_on, False), (node.instead, True)):
        for reference in references:
            place = places.inside(step.plan, step.hot, attempt, reference)
            found = step.hot.latest(place.reference)
            if found is not None and (skipped or found.status is not TaskStatus.SKIPPED):
                return found
    return None


def reference_passed(step: Step, node: TaskNode, attempt: TaskAttempt) -> None:
    """One of the references that the EXCLUSIVE_JOIN in progress may wait for has passed."""
    joined = _joined(step, node, attempt)
    if joined is not None and joined.passed:
        _end(step, attempt, joined)


def _end(step: Step, attempt: TaskAttempt, joined: TaskAttempt) -> None:
    text = assembly.output_of(step.plan, step.hot, joined)
    status = TaskStatus.COMPLETED if joined.status in TASK_SUCCESSFUL else TaskStatus.FAILED
    try:
        attempts.finish(step, attempt, status, output=store(step, text), reason=joined.reason)
    except LimitExceeded as error:
        attempts.fail_at_limit(step, attempt, error)
