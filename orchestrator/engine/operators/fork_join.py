"""FORK_JOIN: completes at once; its branches begin, and its JOIN, which is the next in its sequence."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, loops
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.model import AgendaKind, TaskAttempt
from orchestrator.engine.step import Step

TYPE = "FORK"
"""What the attempt is called, as in Conductor."""


class ForkJoin:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        loops.branches_opened(step, attempt, len(node.fork))
        for branch in node.fork:
            step.note(AgendaKind.SCHEDULE, attempt.sequence, branch[0])
        # Following the fork means making its JOIN: after the branches' first tasks, as they were noted first.
        attempts.complete_operator(step, replace(attempt, type=TYPE), b"{}")
