"""WAIT: until a time has come, or a signal of its name; whichever is first if it waits for both. Or until an event has.

A WAIT with none of them waits for a signal that has the name of its own reference.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, blob_uses, signals
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.definitions.model import TaskNode
from orchestrator.engine.durations import DurationInvalid, parse_duration, parse_until
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import fields_of, is_null, text_of
from orchestrator.engine.model import TaskAttempt, TaskStatus, TimerKind
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task
from orchestrator.engine.triggers import correlation


class Wait:
    def begin(self, step: Step, node: TaskNode, attempt: TaskAttempt, given: bytes) -> None:
        try:
            blob_uses.require_inside(step, "a WAIT", given)
        except LimitExceeded as exceeded:
            attempts.fail_at_limit(step, attempt, exceeded)
            return
        if step.level >= STREAMS and correlation.is_wanted(given):
            correlation.begin(step, attempt, given)
            return
        fields = {key: text_of(value) for key, value in fields_of(given).items() if not is_null(value)}
        duration, until, signal = fields.get("duration", ""), fields.get("until", ""), fields.get("signal", "")
        try:
            if duration and until:
                raise DurationInvalid("a WAIT has a duration or an until, not both")
            after_ms = parse_duration(duration) if duration else None
            if until:
                after_ms = max(0, parse_until(until) - step.now)
        except DurationInvalid as error:
            attempts.finish(step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason=str(error))
            return
        if after_ms is None and not signal:
            signal = node.reference
        check_task(attempt.status, TaskStatus.IN_PROGRESS)
        timers = attempt.timers
        if after_ms is not None:
            timers = (*timers, step.arm(TimerKind.WAIT, after_ms, attempt.sequence))
        attempt = step.put_task(
            replace(
                attempt,
                status=TaskStatus.IN_PROGRESS,
                started_ms=step.now,
                updated_ms=step.now,
                signal=signal,
                timers=timers,
            )
        )
        if signal:
            signals.take(step, attempt)
