"""The interface of an operator."""

from __future__ import annotations

from typing import Protocol

from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.model import TaskAttempt
from orchestrator.engine.step import Step


class Operator(Protocol):
    """A type of task."""

    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        """The attempt was just made, SCHEDULED, with the input `given`: finish it, or see that something will."""
