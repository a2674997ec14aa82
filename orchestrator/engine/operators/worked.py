"""SIMPLE, HTTP and GRPC: a worker does it, or a node does."""

from __future__ import annotations

from orchestrator.engine import attempts
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.model import TaskAttempt
from orchestrator.engine.step import Step


class Worked:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        attempts.queue_for_worker(step, attempt)
