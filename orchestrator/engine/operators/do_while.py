"""DO_WHILE: see `loops`."""

from __future__ import annotations

from orchestrator.engine import evaluations, loops
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.evaluations import Answer
from orchestrator.engine.model import TaskAttempt
from orchestrator.engine.step import Step


class DoWhile:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        loops.begin(step, node, attempt, given)

    def answered(self, step: Step, node: TaskNode, attempt: TaskAttempt, answer: Answer) -> None:
        attempt = evaluations.taken_back(step, attempt)
        if answer.error:
            loops.condition_failed(step, attempt, answer.error)
        else:
            loops.condition_said(step, node, attempt, evaluations.is_true(answer.value))
