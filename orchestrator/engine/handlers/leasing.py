"""Messages that let an execution go on: an attempt was leased, its worker was lost, there is a place, or time."""

from __future__ import annotations

from orchestrator.engine import attempts, evaluations, gate, leases, limits, system
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.handlers import checking
from orchestrator.engine.messages import ContinueExecution, LetIn, TaskLeased, WorkerLost
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.resident import Lease
from orchestrator.engine.results import AnyResult, Done
from orchestrator.engine.step import Step


def task_leased(step: Step, message: TaskLeased) -> AnyResult:
    lease = step.state.leases.get((message.token,))
    if lease is None:
        # The session has ended in between: its own message follows.
        return Done()
    attempt = step.task(message.task_sequence) if step.open(message.namespace, message.workflow_id) else None
    if attempt is None or not _is_for(step, lease, attempt) or not leases.is_wanted(step, attempt):
        leases.end_lease(step, lease)
        return Done()
    session = step.state.sessions.get((lease.session_id,))
    leases.take_up(step, attempt, lease, "" if session is None else session.worker_id)
    return Done()


def _is_for(step: Step, lease: Lease, attempt: TaskAttempt) -> bool:
    """Whether it is for what the attempt waits for, and not for what it has waited for before."""
    if attempt.fencing_token or (attempt.ready,) in step.state.ready:
        return False
    if attempt.is_looked_at != (lease.name == system.SCHEMA):
        return False
    return attempt.status is TaskStatus.SCHEDULED or evaluations.is_waiting(attempt)


def worker_lost(step: Step, message: WorkerLost) -> AnyResult:
    if not step.open(message.namespace, message.workflow_id):
        return Done()
    attempt = step.task(message.task_sequence)
    if attempt is None:
        return Done()
    if attempt.is_looked_at and attempt.fencing_token == message.token:
        checking.lost(step, attempt)
    elif attempt.status is TaskStatus.IN_PROGRESS and attempt.fencing_token == message.token:
        if attempt.type == TaskType.DO_WHILE:
            evaluations.lost(step, attempt)
            return Done()
        attempts.finish(
            step,
            attempt,
            TaskStatus.TIMED_OUT,
            reason=attempts.WORKER_LOST,
            error_code=attempts.WORKER_LOST,
            unknown=True,
        )
    elif _was_leased(attempt) and (attempt.ready,) not in step.state.ready:
        # It was leased and never taken up, so no worker has seen it.
        attempts.make_ready(step, attempt)
    return Done()


def _was_leased(attempt: TaskAttempt) -> bool:
    """Whether the attempt is queued; if it has left its queue, a lease of it was never taken up."""
    return attempt.ready > 0 and (attempt.status is TaskStatus.SCHEDULED or evaluations.is_waiting(attempt))


def continue_execution(step: Step, message: ContinueExecution) -> AnyResult:
    step.open(message.namespace, message.workflow_id)
    step.budget, step.is_beside = limits.TRANSITIONS_PER_STEP, False
    return Done()


def let_in(step: Step, message: LetIn) -> AnyResult:
    if step.open(message.namespace, message.workflow_id):
        gate.let_in(step, message.number)
    return Done()
