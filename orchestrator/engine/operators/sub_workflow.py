"""SUB_WORKFLOW: another execution, whose end is the task's. See `children`."""

from __future__ import annotations

from orchestrator.engine import attempts, children
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.step import Step


class SubWorkflow:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        try:
            children.start(step, attempt, given)
        except children.NotStartable as error:
            attempts.finish(step, attempt, TaskStatus.FAILED, reason=str(error))
