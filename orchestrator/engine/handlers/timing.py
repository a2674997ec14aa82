"""What time does: timers that fire, deadlines that the leader has seen pass."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, evaluations, leases, limits, outcomes, pollers, throttle
from orchestrator.engine.choices import DeadlineKind
from orchestrator.engine.commands import ExpireDeadline, FireTimers
from orchestrator.engine.dedup import end_idle_session
from orchestrator.engine.definitions.model import TaskType, TimeoutPolicy
from orchestrator.engine.handlers import checking
from orchestrator.engine.messages import DeadlinePassed, ScheduleDue, TimerFired
from orchestrator.engine.model import Table, TaskAttempt, TaskStatus, TimerKind, WorkflowStatus
from orchestrator.engine.results import AnyResult, Done
from orchestrator.engine.step import Step


def fire_timers(step: Step, command: FireTimers) -> AnyResult:
    """Turns due timers into messages, in the order in which they are due."""
    for _ in range(limits.TIMERS_PER_COMMAND):
        timer = step.state.next_timer()
        if timer is None or timer.fire_ms > step.now:
            break
        step.write(Table.TIMER, (timer.number,), None)
        if timer.kind is TimerKind.CLIENT_SESSION_IDLE:
            end_idle_session(step, timer)
        elif timer.kind is TimerKind.TASK_RATE:
            throttle.window_turned(step, timer)
        elif timer.kind is TimerKind.POLLER:
            pollers.forget_unseen(step, timer)
        elif timer.kind is TimerKind.SCHEDULE:
            # In a step of its own: whatever breaks there, all other timers fire.
            step.send(ScheduleDue(timer.namespace, "", timer.name, timer.number))
        else:
            step.send(
                TimerFired(timer.namespace, timer.workflow_id, timer.kind, timer.task_sequence, timer.number)
            )
    return Done()


def timer_fired(step: Step, message: TimerFired) -> AnyResult:
    if not step.open(message.namespace, message.workflow_id) or step.is_over:
        return Done()
    if message.kind is TimerKind.WORKFLOW_TIMEOUT:
        _time_out_workflow(step, message.timer)
    elif message.kind is TimerKind.COMPENSATION_GRACE:
        if step.x.grace_timer == message.timer:
            # Who has not answered by now is cancelled as the compensation proceeds.
            step.change(grace_timer=0)
    else:
        attempt = step.task(message.task_sequence)
        if attempt is not None and message.timer in attempt.timers:
            _fire_for_task(step, attempt, message)
    return Done()


def _time_out_workflow(step: Step, timer: int) -> None:
    if step.x.workflow_timer != timer:
        return
    step.change(workflow_timer=0)
    definition = step.plan.definition
    reason = (
        f"Workflow timed out after {(step.now - step.x.timeout_base_ms) // 1000} seconds."
        f" Timeout configured as {definition.timeout_ms // 1000} seconds."
        f" Timeout policy configured to {definition.timeout_policy.value}"
    )
    outcomes.end_badly(step, WorkflowStatus.TIMED_OUT, reason)


def _fire_for_task(step: Step, attempt: TaskAttempt, message: TimerFired) -> None:
    attempt = step.put_task(_without_timer(attempt, message.timer))
    if message.kind is TimerKind.TASK_READY:
        attempts.make_ready(step, attempt)
    elif message.kind is TimerKind.WAIT:
        attempts.complete_operator(step, attempt, attempt.output or b"{}")
    elif message.kind is TimerKind.TASK_TIMEOUT:
        _time_out(step, attempt, attempts.TASK_TIMEOUT)
    elif message.kind is TimerKind.TASK_TOTAL_TIMEOUT:
        _time_out(step, attempt, attempts.TOTAL_TIMEOUT)


def _time_out(step: Step, attempt: TaskAttempt, noticed: str) -> None:
    """The attempt has come to the limit that somebody has noticed, or to another that counts before it: first the total
    timeout, then that of the attempt, then those of polls and of responses."""
    node = attempts.node_of(step, attempt)
    limits_hold = node.timeouts.policy != TimeoutPolicy.ALERT_ONLY
    since_start_ms = step.now - attempt.started_ms - node.start_delay_ms
    if limits_hold and attempts.is_total_used_up(step, node, attempt):
        noticed = attempts.TOTAL_TIMEOUT
    elif limits_hold and attempt.started_ms and 0 < node.timeouts.task_ms <= since_start_ms:
        noticed = attempts.TASK_TIMEOUT
    timeouts = node.timeouts
    match noticed:
        case attempts.TOTAL_TIMEOUT:
            elapsed_ms = step.now - attempt.first_scheduled_ms
            reason = _timed_out("Task", elapsed_ms, "Total timeout", timeouts.total_ms, timeouts.policy)
        case attempts.TASK_TIMEOUT:
            reason = _timed_out("Task", since_start_ms, "Timeout", timeouts.task_ms, timeouts.policy)
        case attempts.POLL_TIMEOUT:
            elapsed_ms = step.now - attempt.scheduled_ms
            reason = _timed_out("Task poll", elapsed_ms, "Poll timeout", timeouts.poll_ms, timeouts.policy)
        case _:
            reason = (
                f"responseTimeout: {timeouts.response_ms // 1000} exceeded for the taskId: {attempt.task_id}"
                f" with Task Definition: {attempt.name}"
            )
    attempts.finish(step, attempt, TaskStatus.TIMED_OUT, reason=reason, error_code=noticed)


def _timed_out(what: str, elapsed_ms: int, which: str, configured_ms: int, policy: TimeoutPolicy) -> str:
    return (
        f"{what} timed out after {elapsed_ms // 1000} seconds. {which} configured as {configured_ms // 1000} seconds."
        f" Timeout policy configured to {policy.value}"
    )


def _without_timer(attempt: TaskAttempt, timer: int) -> TaskAttempt:
    return replace(attempt, timers=tuple(number for number in attempt.timers if number != timer))


def expire_deadline(step: Step, command: ExpireDeadline) -> AnyResult:
    """The leader's word on a deadline that it keeps in memory; late ones mean nothing any more."""
    if command.kind is DeadlineKind.RESPONSE:
        lease = step.state.leases.get((command.number,))
        if lease is not None and lease.started and not lease.fenced:
            step.send(
                DeadlinePassed(
                    lease.namespace, lease.workflow_id, int(command.kind), lease.task_sequence, command.number
                )
            )
        return Done()
    ready = step.state.ready.get((command.number,))
    if ready is not None and ready.poll_timeout_ms:
        step.send(
            DeadlinePassed(ready.namespace, ready.workflow_id, int(command.kind), ready.task_sequence, command.number)
        )
    return Done()


def deadline_passed(step: Step, message: DeadlinePassed) -> AnyResult:
    if not step.open(message.namespace, message.workflow_id):
        return Done()
    attempt = step.task(message.task_sequence)
    if attempt is None:
        return Done()
    if message.kind == DeadlineKind.RESPONSE:
        if attempt.is_looked_at and attempt.fencing_token == message.number:
            checking.lost(step, attempt)
        elif attempt.status is TaskStatus.IN_PROGRESS and attempt.fencing_token == message.number:
            _miss_response(step, attempt)
    elif attempt.status is TaskStatus.SCHEDULED and attempt.ready == message.number and _is_queued(step, attempt):
        _time_out(step, attempt, attempts.POLL_TIMEOUT)
    return Done()


def _is_queued(step: Step, attempt: TaskAttempt) -> bool:
    return (attempt.ready,) in step.state.ready


def _miss_response(step: Step, attempt: TaskAttempt) -> None:
    if attempt.type == TaskType.DO_WHILE:
        lease = step.state.leases.get((attempt.fencing_token,))
        if lease is not None:
            leases.fence(step, lease, attempts.RESPONSE_TIMEOUT)
        evaluations.lost(step, attempt)
        return
    _time_out(step, attempt, attempts.RESPONSE_TIMEOUT)
