"""Leases: which session holds which attempt. Matching hands ready attempts to free slots as part of each step.

A slot is held from the lease on until the worker gives its result, releases it, or its session ends; an attempt that
ends without its worker fences the lease and tells the worker to stop.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine.effects import Cancel, Deliver, LeaseEnded, TaskQueued
from orchestrator.engine.messages import TaskLeased
from orchestrator.engine.model import (
    Lease,
    Ready,
    Session,
    SessionKind,
    Table,
    TaskAttempt,
    TaskStatus,
    TimerKind,
    WorkflowStatus,
)
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task


def enqueue(step: Step, attempt: TaskAttempt, domain: str, poll_ms: int, response_ms: int) -> TaskAttempt:
    """The attempt waits for a worker from now on."""
    number = step.state.meta.next_ready
    step.count(next_ready=1)
    row = Ready(
        number,
        step.x.namespace,
        domain,
        attempt.name,
        step.x.priority,
        step.x.workflow_id,
        attempt.sequence,
        attempt.task_id,
        step.now,
        poll_ms,
        response_ms,
    )
    step.write(Table.READY, (number,), row)
    step.ready_queues[row.namespace, domain, attempt.name] = None
    step.queued.append(number)
    return step.put_task(replace(attempt, ready=number, updated_ms=step.now))


def is_wanted(step: Step, attempt: TaskAttempt) -> bool:
    """Whether the step's execution still wants the attempt to be executed, not only cancelled by a later step."""
    return not step.is_over and (attempt.compensates > 0 or step.phase is not WorkflowStatus.COMPENSATING)


def match(step: Step) -> None:
    """Leases whatever the step made ready, or made room for."""
    state = step.state
    for queue in step.ready_queues:
        while (row := state.queues.head(queue)) is not None:
            chosen = state.queues.best_session(queue)
            if chosen is None:
                break
            _lease(step, row, state.sessions[chosen,])
    for session_id in step.freed_sessions:
        while (session := state.sessions.get((session_id,))) is not None:
            if session.kind is not SessionKind.STREAM or session.used >= session.slots:
                break
            best = state.queues.best_ready(session.namespace, session.domain, session.task_names)
            if best is None:
                break
            _lease(step, best, session)
    for number in step.queued:
        waiting = state.ready.get((number,))
        if waiting is not None:
            effect = TaskQueued(number, waiting.namespace, waiting.domain, waiting.name, waiting.poll_timeout_ms)
            step.effects.append(effect)


def _lease(step: Step, row: Ready, session: Session) -> None:
    if step.key == (row.namespace, row.workflow_id) and not is_wanted(step, step.hot.tasks[row.task_sequence]):
        # It is about to be cancelled: it only leaves its queue.
        step.write(Table.READY, (row.number,), None)
        return
    token = take(step, row, session.id, session.worker_id)
    step.write(Table.SESSION, (session.id,), replace(session, used=session.used + 1, last_token=token))


def take(step: Step, row: Ready, session_id: str, worker_id: str) -> int:
    """Leases a ready attempt; the caller counts the session's slot. Answers the token."""
    token = step.state.meta.next_token
    step.count(next_token=1)
    step.write(Table.READY, (row.number,), None)
    lease = Lease(
        token,
        session_id,
        row.namespace,
        row.workflow_id,
        row.task_sequence,
        row.task_id,
        row.name,
        step.now,
        row.response_timeout_ms,
    )
    if step.key == (row.namespace, row.workflow_id):
        # The step is at home there: no need for a message.
        take_up(step, step.hot.tasks[row.task_sequence], lease, worker_id)
    else:
        step.write(Table.LEASE, (token,), lease)
        step.send(TaskLeased(row.namespace, row.workflow_id, row.task_sequence, token))
    return token


def take_up(step: Step, attempt: TaskAttempt, lease: Lease, worker_id: str) -> None:
    """The attempt is in progress under the lease, and may be delivered."""
    check_task(attempt.status, TaskStatus.IN_PROGRESS)
    timeout_ms = _timeout_ms(step, attempt)
    timers = attempt.timers
    if timeout_ms:
        timers = (*timers, step.arm(TimerKind.TASK_TIMEOUT, timeout_ms, attempt.sequence))
    step.put_task(
        replace(
            attempt,
            status=TaskStatus.IN_PROGRESS,
            started_ms=step.now,
            updated_ms=step.now,
            worker_id=worker_id,
            fencing_token=lease.token,
            ready=0,
            timers=timers,
        )
    )
    step.budget -= 1
    step.write(Table.LEASE, (lease.token,), replace(lease, started=True))
    step.effects.append(
        Deliver(lease.session_id, lease.token, lease.namespace, lease.workflow_id, lease.task_sequence)
    )


def _timeout_ms(step: Step, attempt: TaskAttempt) -> int:
    if attempt.compensates:
        node = step.plan.undoes[step.hot.records[attempt.compensates].reference]
    else:
        node = step.plan.node(attempt.reference)
    if not node.timeouts.task_ms or node.timeouts.policy == "ALERT_ONLY":
        return 0
    # Counted from the start plus the start delay, although the delay has passed: as Conductor counts.
    return node.timeouts.task_ms + node.start_delay_ms


def end_lease(step: Step, lease: Lease) -> None:
    """The lease is gone and its slot is free."""
    step.write(Table.LEASE, (lease.token,), None)
    step.effects.append(LeaseEnded(lease.session_id, lease.token))
    session = step.state.sessions.get((lease.session_id,))
    if session is None:
        return
    used = session.used - 1
    if session.kind is SessionKind.POLL:
        # It has as many slots as leases, so nothing is leased to it but by polling.
        row = replace(session, used=used, slots=used) if used else None
        step.write(Table.SESSION, (session.id,), row)
        return
    step.write(Table.SESSION, (session.id,), replace(session, used=used))
    step.freed_sessions[session.id] = None


def fence(step: Step, lease: Lease, reason: str) -> None:
    """The attempt has ended without its worker: nothing it says counts any more, and it is told to stop.

    A poller can't be told, nor is a slot of it to be kept: its lease is over.
    """
    session = step.state.sessions.get((lease.session_id,))
    if session is not None and session.kind is SessionKind.POLL:
        end_lease(step, lease)
        return
    step.write(Table.LEASE, (lease.token,), replace(lease, fenced=True))
    step.effects.append(cancel_effect(lease, reason, fenced=True))


def cancel_effect(lease: Lease, reason: str, *, fenced: bool) -> Cancel:
    return Cancel(
        lease.session_id, lease.token, lease.namespace, lease.workflow_id, lease.task_id, reason, fenced
    )
