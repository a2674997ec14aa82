"""Leases: which session holds which attempt. Matching hands ready attempts to free slots as part of each step.

A slot is held from the lease on until the worker gives its result, releases it, or its session ends; an attempt that
ends without its worker fences the lease and tells the worker to stop.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import places, throttle
from orchestrator.engine.definitions.model import NO_LIMITS, TaskLimits
from orchestrator.engine.effects import AttemptLeased, Cancel, Deliver, LeaseEnded, QueueOpened, TaskQueued
from orchestrator.engine.messages import TaskLeased
from orchestrator.engine.model import Check, SessionKind, Table, TaskAttempt, TaskStatus, TimerKind, WorkflowStatus
from orchestrator.engine.queues import QueueKey, queue_of
from orchestrator.engine.resident import Lease, Ready, Session
from orchestrator.engine.state import State
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task


def enqueue(
    step: Step,
    attempt: TaskAttempt,
    domain: str,
    poll_ms: int,
    response_ms: int,
    limits: TaskLimits = NO_LIMITS,
    system_queue: str = "",
    queue: str = "",
) -> TaskAttempt:
    """The attempt waits for a worker from now on, in the queue of its own name if no other is given.

    It is queued at the end of the step, if it can't be leased at once.
    """
    row = Ready(
        step.ready_number(),
        step.x.namespace,
        domain,
        system_queue or attempt.name,
        step.x.priority,
        step.x.workflow_id,
        attempt.sequence,
        attempt.task_id,
        step.now,
        poll_ms,
        response_ms,
        () if limits is NO_LIMITS else (limits.at_once, limits.in_window, limits.window_ms),
        queue,
    )
    step.queueing[attempt.sequence] = row
    if attempt.updated_ms == step.now and step.hot.tasks.get(attempt.sequence) is attempt:
        return attempt
    return step.put_task(replace(attempt, updated_ms=step.now))


def is_wanted(step: Step, attempt: TaskAttempt) -> bool:
    """Whether the step's execution still wants the attempt to be executed, not only cancelled by a later step."""
    if step.x.status is WorkflowStatus.RUNNING and step.x.ending is None:
        return True
    return not step.is_over and (attempt.compensates > 0 or step.phase is not WorkflowStatus.COMPENSATING)


def match(step: Step) -> None:
    """Leases whatever the step made ready, or made room for."""
    state = step.state
    for row in step.queueing.values():
        if not _pass_queue(step, row):
            step.put_task(replace(step.hot.tasks[row.task_sequence], ready=row.number))
            step.write(Table.READY, (row.number,), row)
            step.ready_queues[queue_of(row)] = None
            step.queued.append(row.number)
    if state.ready:
        _match_what_waits(step)
    throttle.watch(step)
    for number in step.queued:
        waiting = state.ready.get((number,))
        if waiting is not None:
            step.effects.append(TaskQueued(number, *queue_of(waiting), waiting.poll_timeout_ms))


def _match_what_waits(step: Step) -> None:
    queues = list(step.ready_queues)
    for queue in queues:
        _match_queue(step, queue)
    for session_id in step.freed_sessions:
        _match_session(step, session_id)
    for namespace, name in step.freed_names:
        _match_name(step, namespace, name)
    for queue in list(step.ready_queues)[len(queues) :]:
        _match_queue(step, queue)


def _pass_queue(step: Step, row: Ready) -> bool:
    """Leases what was made ready to whoever would have it anyway: nothing is before it, and a session has room."""
    state = step.state
    if throttle.limits_of(state, row) is not NO_LIMITS:
        return False
    queue = queue_of(row)
    chosen = state.queues.best_session(queue)
    if chosen is None or state.queues.head(queue) is not None:
        return False
    if is_wanted(step, step.hot.tasks[row.task_sequence]):
        _lease_to(step, row, state.sessions[chosen,])
    return True


def _match_queue(step: Step, queue: QueueKey) -> None:
    state = step.state
    while (row := state.queues.head(queue)) is not None and throttle.has_room(state, row):
        chosen = state.queues.best_session(queue)
        if chosen is None:
            break
        _lease(step, row, state.sessions[chosen,])


def best_ready(state: State, namespace: str, domain: str, names: tuple[str, ...]) -> Ready | None:
    """The attempt that a worker of these task names gets next; None if there is none, or limits hold all back."""
    return state.queues.best_ready(namespace, domain, names, lambda row: throttle.has_room(state, row))


def _match_session(step: Step, session_id: str) -> None:
    """The session has room: it gets what ranks first of all its tasks."""
    state = step.state
    while (session := state.sessions.get((session_id,))) is not None:
        if session.kind is not SessionKind.STREAM or session.used >= session.slots:
            return
        best = best_ready(state, session.namespace, session.domain, session.task_names)
        if best is None:
            return
        if throttle.limits_of(state, best) is not NO_LIMITS:
            first = _first_of_name(state, best.namespace, best.name)
            if first is not None and first[0].number != best.number:
                # What waits in another queue comes before: a worker that always takes from its own must not starve it.
                _lease(step, first[0], state.sessions[first[1],])
                continue
        _lease(step, best, session)


def _match_name(step: Step, namespace: str, name: str) -> None:
    """A limit of the task may hold back less than before: leases from all of its queues, as they rank."""
    state = step.state
    while (first := _first_of_name(state, namespace, name)) is not None:
        _lease(step, first[0], state.sessions[first[1],])
    for queue in state.queues.named(namespace, name):
        row = state.queues.head(queue)
        if row is None or throttle.limits_of(state, row) is NO_LIMITS:
            continue
        if throttle.has_room(state, row):
            step.effects.append(QueueOpened(*queue))


def _first_of_name(state: State, namespace: str, name: str) -> tuple[Ready, str] | None:
    """What ranks first of what can be leased of the task, in whatever queue, and the session that is to have it."""
    first: tuple[Ready, str] | None = None
    for queue in state.queues.named(namespace, name):
        row = state.queues.head(queue)
        if row is None or not throttle.has_room(state, row):
            continue
        session = state.queues.best_session(queue)
        if session is None:
            continue
        if first is None or (-row.priority, row.number) < (-first[0].priority, first[0].number):
            first = (row, session)
    return first


def _lease(step: Step, row: Ready, session: Session) -> None:
    if step.key == (row.namespace, row.workflow_id) and not is_wanted(step, step.hot.tasks[row.task_sequence]):
        # It is about to be cancelled: it only leaves its queue.
        throttle.dequeue(step, row)
        return
    step.write(Table.READY, (row.number,), None)
    throttle.count(step, row)
    _lease_to(step, row, session)


def _lease_to(step: Step, row: Ready, session: Session) -> None:
    token = _take(step, row, session.id, session.worker_id)
    step.write(Table.SESSION, (session.id,), replace(session, used=session.used + 1, last_token=token))


def take(step: Step, row: Ready, session_id: str, worker_id: str) -> int:
    """Leases a ready attempt; the caller counts the session's slot. Answers the token."""
    step.write(Table.READY, (row.number,), None)
    throttle.count(step, row)
    return _take(step, row, session_id, worker_id)


def _take(step: Step, row: Ready, session_id: str, worker_id: str) -> int:
    meta = step.meta
    token = meta.next_token
    meta.next_token = token + 1
    is_home = step.key == (row.namespace, row.workflow_id)
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
        started=is_home,
        queue=row.queue,
    )
    step.effects.append(AttemptLeased(row.name, step.now - row.queued_ms))
    if is_home:
        # The step is at home there: no need for a message.
        take_up(step, step.hot.tasks[row.task_sequence], lease, worker_id)
    else:
        step.write(Table.LEASE, (token,), lease)
        step.send(TaskLeased(row.namespace, row.workflow_id, row.task_sequence, token))
    return token


def take_up(step: Step, attempt: TaskAttempt, lease: Lease, worker_id: str) -> None:
    """The attempt is in progress under the lease, and may be delivered."""
    if attempt.check is not Check.NONE and attempt.is_looked_at:
        # It begins, or has ended, when that is done.
        step.put_task(replace(attempt, updated_ms=step.now, fencing_token=lease.token, ready=0))
        _deliver(step, lease)
        return
    if attempt.status is not TaskStatus.IN_PROGRESS:
        # A loop is in progress by itself; the lease is for its condition.
        check_task(attempt.status, TaskStatus.IN_PROGRESS)
    timers = limit_time(step, attempt)
    if timers:
        timers = (*attempt.timers, *timers)
    else:
        timers = attempt.timers
    if step.is_own(attempt):
        # Nobody has seen yet that it was not always so.
        attempt.status = TaskStatus.IN_PROGRESS
        attempt.started_ms = attempt.started_ms or step.now
        attempt.updated_ms = step.now
        attempt.worker_id = worker_id
        attempt.fencing_token = lease.token
        attempt.ready = 0
        attempt.timers = timers
    else:
        step.put_task(
            replace(
                attempt,
                status=TaskStatus.IN_PROGRESS,
                started_ms=attempt.started_ms or step.now,
                updated_ms=step.now,
                worker_id=worker_id,
                fencing_token=lease.token,
                ready=0,
                timers=timers,
            )
        )
    _deliver(step, lease)


def limit_time(step: Step, attempt: TaskAttempt) -> tuple[int, ...]:
    """The timer of its timeout, which begins now; none if it has none, or it runs already."""
    timeout_ms = _timeout_ms(step, attempt)
    if not timeout_ms or _is_timed(step, attempt):
        return ()
    return (step.arm(TimerKind.TASK_TIMEOUT, timeout_ms, attempt.sequence),)


def _is_timed(step: Step, attempt: TaskAttempt) -> bool:
    """Whether its timeout runs already: it was handed out before."""
    timers = [step.state.timers[number,] for number in attempt.timers if (number,) in step.state.timers]
    return any(timer.kind is TimerKind.TASK_TIMEOUT for timer in timers)


def _deliver(step: Step, lease: Lease) -> None:
    step.budget -= 1
    step.write(Table.LEASE, (lease.token,), lease if lease.started else replace(lease, started=True))
    step.effects.append(
        Deliver(lease.session_id, lease.token, lease.namespace, lease.workflow_id, lease.task_sequence)
    )


def _timeout_ms(step: Step, attempt: TaskAttempt) -> int:
    node = places.node_of(step.plan, step.hot, attempt)
    if not node.timeouts.task_ms or node.timeouts.policy == "ALERT_ONLY":
        return 0
    # Counted from the start plus the start delay, although the delay has passed: as Conductor counts.
    return node.timeouts.task_ms + node.start_delay_ms


def end_lease(step: Step, lease: Lease) -> None:
    """The lease is gone and its slot is free."""
    drop(step, lease)
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


def drop(step: Step, lease: Lease) -> None:
    """The lease is gone; the caller sees to its session's slot."""
    step.write(Table.LEASE, (lease.token,), None)
    step.effects.append(LeaseEnded(lease.session_id, lease.token))
    step.freed_names[lease.namespace, lease.name] = None


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
