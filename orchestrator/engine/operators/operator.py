"""The interface of an operator."""

from __future__ import annotations

from typing import Protocol

from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.evaluations import Answer
from orchestrator.engine.model import TaskAttempt
from orchestrator.engine.step import Step


class Operator(Protocol):
    """A type of task."""

    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        """The attempt was just made, SCHEDULED, with the input `given`: finish it, or see that something will."""


class Evaluated(Protocol):
    """A type of task that goes on with what a node has evaluated for it."""

    def answered(self, step: Step, node: TaskNode, attempt: TaskAttempt, answer: Answer) -> None:
        """The attempt is in progress, under the lease of the node that answered."""
