"""Messages that let an execution go on: an attempt was leased, its worker was lost, there is a place, or time."""

from __future__ import annotations

from orchestrator.engine import attempts, evaluations, gate, leases
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.messages import ContinueExecution, LetIn, TaskLeased, WorkerLost
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.results import AnyResult, Done
from orchestrator.engine.step import Step


def task_leased(step: Step, message: TaskLeased) -> AnyResult:
    lease = step.state.leases.get((message.token,))
    if lease is None:
        # The session has ended in between: its own message follows.
        return Done()
    attempt = step.task(message.task_sequence) if step.open(message.namespace, message.workflow_id) else None
    expected = attempt is not None and (attempt.status is TaskStatus.SCHEDULED or evaluations.is_waiting(attempt))
    if attempt is None or not expected or not leases.is_wanted(step, attempt):
        leases.end_lease(step, lease)
        return Done()
    session = step.state.sessions.get((lease.session_id,))
    leases.take_up(step, attempt, lease, "" if session is None else session.worker_id)
    return Done()


def worker_lost(step: Step, message: WorkerLost) -> AnyResult:
    if not step.open(message.namespace, message.workflow_id):
        return Done()
    attempt = step.task(message.task_sequence)
    if attempt is None:
        return Done()
    if attempt.status is TaskStatus.IN_PROGRESS and attempt.fencing_token == message.token:
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
    return Done()


def let_in(step: Step, message: LetIn) -> AnyResult:
    if step.open(message.namespace, message.workflow_id):
        gate.let_in(step, message.number)
    return Done()
