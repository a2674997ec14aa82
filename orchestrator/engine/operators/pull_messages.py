"""PULL_WORKFLOW_MESSAGES: takes messages of the workflow's queue, and waits for one if there is none."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import inbox, limits
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.expressions import fields_of, is_null, text_of
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task


class PullMessages:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        fields = {key: text_of(value) for key, value in fields_of(given).items() if not is_null(value)}
        size = fields.get("batchSize", "1")
        # More than the limit is the limit; what is no number is one.
        most = min(int(size), limits.MESSAGES_PULLED) if size.isascii() and size.isdigit() and len(size) < 10 else 1
        most = max(most, 1)
        if step.x.messages or fields.get("blocking", "true") == "false":
            inbox.take(step, attempt, most)
            return
        check_task(attempt.status, TaskStatus.IN_PROGRESS)
        step.put_task(
            replace(
                attempt,
                status=TaskStatus.IN_PROGRESS,
                started_ms=step.now,
                updated_ms=step.now,
                signal=inbox.QUEUE,
                position=most,
            )
        )
