"""What nodes say of payloads that have to keep a schema, and what comes of it."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, checks, evaluations, leases, limits, outcomes
from orchestrator.engine.commands import CompleteTask
from orchestrator.engine.model import Check, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.step import Step


def answered(step: Step, attempt: TaskAttempt, command: CompleteTask) -> None:
    """A node has looked, or could not."""
    if not leases.is_wanted(step, attempt):
        reason = "the workflow has ended or compensates"
        attempts.finish(step, _taken_back(step, attempt), TaskStatus.CANCELED, reason=reason, follow=False)
    elif command.status is TaskStatus.COMPLETED:
        _passed(step, replace(_taken_back(step, attempt), check_losses=0))
    elif command.status is TaskStatus.FAILED:
        # There was nobody who could look: it says nothing about the payload.
        _ask_again(step, _taken_back(step, attempt), command.reason)
    else:
        attempt = _taken_back(step, attempt)
        node = attempts.node_of(step, attempt)
        schema = checks.schema_of(node, attempt)
        label = "its schema" if schema is None else schema.label
        reason = f"{checks.what(attempt)} violates {label}: {command.reason}"
        if command.error_code != attempts.SCHEMA_VIOLATION:
            reason = f"{checks.what(attempt)} could not be checked against {label}: {command.reason}"
        _failed(step, attempt, reason, command.error_code)


def lost(step: Step, attempt: TaskAttempt) -> None:
    """The node that looked is gone, or said nothing: another one does it, but not for ever."""
    lease = step.state.leases.get((attempt.fencing_token,))
    if lease is not None:
        leases.fence(step, lease, attempts.RESPONSE_TIMEOUT)
    _ask_again(step, replace(attempt, fencing_token=0, ready=0), "the node that looked at it was lost")


def _taken_back(step: Step, attempt: TaskAttempt) -> TaskAttempt:
    losses = attempt.losses
    return replace(evaluations.taken_back(step, attempt), losses=losses)


def _passed(step: Step, attempt: TaskAttempt) -> None:
    if attempt.check is Check.OUTPUT:
        attempt = step.put_task(replace(attempt, check=Check.OUTPUT_PASSED))
        attempts.finish(step, attempt, TaskStatus.COMPLETED, output=attempt.output, accepted=attempt.accepted)
    else:
        # It begins when the execution gets to it, which is not while it is paused.
        attempts.make_ready(step, step.put_task(replace(attempt, check=Check.INPUT_PASSED)))


def _ask_again(step: Step, attempt: TaskAttempt, reason: str) -> None:
    losses = attempt.check_losses + 1
    attempt = step.put_task(replace(attempt, check_losses=losses))
    if losses <= limits.WORKER_LOSSES_FREE:
        checks.ask(step, attempt, attempt.check)
    else:
        reason = f"{checks.what(attempt)} could not be checked against its schema {losses} times in a row: {reason}"
        _failed(step, attempt, reason, attempts.WORKER_LOST)


def _failed(step: Step, attempt: TaskAttempt, reason: str, error_code: str) -> None:
    of_workflow = checks.is_of_workflow(attempt)
    attempts.finish(
        step,
        attempt,
        TaskStatus.FAILED_WITH_TERMINAL_ERROR,
        output=attempt.output,
        reason=reason,
        error_code=error_code[: limits.NAME_CHARS],
        follow=not of_workflow,
    )
    if of_workflow:
        outcomes.end_badly(step, WorkflowStatus.FAILED, reason, attempt.reference)
