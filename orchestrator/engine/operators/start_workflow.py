"""START_WORKFLOW: starts another execution, and is done when that has begun. The two are independent."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, children
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task


class StartWorkflow:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        try:
            message = children.request(step, attempt, given)
        except children.NotStartable as error:
            attempts.finish(step, attempt, TaskStatus.FAILED, reason=str(error))
            return
        check_task(attempt.status, TaskStatus.IN_PROGRESS)
        step.put_task(
            replace(attempt, status=TaskStatus.IN_PROGRESS, started_ms=step.now, updated_ms=step.now)
        )
        step.send(message)
