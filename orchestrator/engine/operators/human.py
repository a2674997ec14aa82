"""HUMAN: in progress until somebody says how it ended."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task


class Human:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        check_task(attempt.status, TaskStatus.IN_PROGRESS)
        # As a WAIT with neither a time nor a signal: a signal of its name is an answer, too.
        step.put_task(
            replace(
                attempt,
                status=TaskStatus.IN_PROGRESS,
                started_ms=step.now,
                updated_ms=step.now,
                signal=attempt.reference,
            )
        )
