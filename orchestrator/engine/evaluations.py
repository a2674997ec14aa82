"""Evaluations: scripts and queries, which a node of the cluster does in a process of its own, and answers.

Nothing that a user wrote runs where the log is applied. An attempt that needs an evaluation waits in the queue of
system work and is leased like any other; the result comes back as a command.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from orchestrator.engine import attempts, leases, limits, system
from orchestrator.engine.expressions import fields_of, is_null, text_of
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.step import Step


class Answer(NamedTuple):
    """What came of it: `value` is a JSON text, or `error` says why there is none."""

    value: bytes
    error: str


def ask(step: Step, attempt: TaskAttempt) -> TaskAttempt:
    """The attempt waits for a node to evaluate what it needs."""
    return leases.enqueue(step, attempt, "", 0, system.EVALUATION_MS, system_queue=system.evaluated_in(attempt))


def is_waiting(attempt: TaskAttempt) -> bool:
    """Whether an attempt that is in progress by itself waits for an evaluation, and no node has it."""
    return attempt.status is TaskStatus.IN_PROGRESS and attempt.ready > 0 and attempt.fencing_token == 0


def answered(status: TaskStatus, output: bytes, reason: str) -> Answer:
    if status is TaskStatus.COMPLETED:
        return Answer(fields_of(output).get("result", b"null"), "")
    said = fields_of(output).get("error")
    error = reason if said is None or is_null(said) else text_of(said)
    return Answer(b"null", error or "the script failed")


def taken_back(step: Step, attempt: TaskAttempt) -> TaskAttempt:
    """The attempt goes on by itself: the node that evaluated for it has nothing to do with it any more."""
    lease = step.state.leases.get((attempt.fencing_token,))
    if lease is not None:
        leases.end_lease(step, lease)
    return step.put_task(replace(attempt, fencing_token=0, ready=0, losses=0, updated_ms=step.now))


def lost(step: Step, attempt: TaskAttempt) -> None:
    """The node that evaluated for an attempt in progress is gone: another one does it, but not for ever."""
    losses = attempt.losses + 1
    attempt = step.put_task(replace(attempt, fencing_token=0, ready=0, losses=losses))
    if losses > limits.WORKER_LOSSES_FREE:
        reason = f"{losses} nodes in a row were lost while they evaluated its condition"
        attempts.finish(
            step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason=reason, error_code=attempts.WORKER_LOST
        )
    else:
        ask(step, attempt)


def is_true(value: bytes) -> bool:
    """A script's value as a condition, whoever asked for it: `true` and numbers above 0 are true, nothing else is."""
    if value == b"true":
        return True
    mantissa = value.lower().partition(b"e")[0]
    return value[:1].isdigit() and any(digit in b"123456789" for digit in mantissa)
