"""SIMPLE: a worker does it."""

from __future__ import annotations

from orchestrator.engine import attempts
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.model import TaskAttempt
from orchestrator.engine.step import Step


class Simple:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        attempts.queue_for_worker(step, attempt, node.start_delay_ms)
