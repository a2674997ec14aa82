"""Attempts of tasks: how they come to be, how they end, and whether another one follows."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from orchestrator.engine import awaiting, checks, children, leases, limits, places, pollers, scopes, system, throttle
from orchestrator.engine.definitions.model import (
    STRUCTURAL,
    WORKED,
    RetryLogic,
    RetryPolicy,
    TaskNode,
    TaskType,
    TimeoutPolicy,
)
from orchestrator.engine.effects import AttemptEnded, AttemptRetried
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.execution_state import base_of
from orchestrator.engine.model import (
    AgendaKind,
    Check,
    Payload,
    SagaRecord,
    StepOutcome,
    Table,
    TaskAttempt,
    TaskStatus,
    TimerKind,
    WorkflowStatus,
)
from orchestrator.engine.payloads import Input, make_input, store
from orchestrator.engine.places import Place
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_RETRIABLE, check_task

# Why an attempt is TIMED_OUT, as its error code says it.
WORKER_LOST = "WORKER_LOST"
TASK_TIMEOUT = "TASK_TIMEOUT"
TOTAL_TIMEOUT = "TOTAL_TIMEOUT"
POLL_TIMEOUT = "POLL_TIMEOUT"
RESPONSE_TIMEOUT = "RESPONSE_TIMEOUT"
INVALID_RESULT = "INVALID_RESULT"
LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
SCHEMA_VIOLATION = "SCHEMA_VIOLATION"

_TYPE_NAMES: Final[dict[str, str]] = {kind: str(kind) for kind in TaskType}
"""As rows have them: plain strings."""

BY_POLICY = frozenset((TASK_TIMEOUT, TOTAL_TIMEOUT, POLL_TIMEOUT))


class TooManyTasks(Exception):
    """The execution has as many attempts as it may have."""


def node_of(step: Step, attempt: TaskAttempt) -> TaskNode:
    """What the attempt is an attempt of."""
    return places.node_of(step.plan, step.hot, attempt)


def input_of(step: Step, attempt: TaskAttempt) -> bytes:
    """The attempt's input, the same whenever it is asked for."""
    return scopes.input_of(step.plan, step.hot, step.x, attempt)


def has_effect(attempt: TaskAttempt) -> bool:
    """Whether executing the attempt, as far as it has come, may change something outside of the cluster."""
    return attempt.type in WORKED and (attempt.check is Check.NONE or not attempt.is_looked_at)


# --- how they come to be


def create(
    step: Step,
    place: Place,
    *,
    previous: TaskAttempt | None = None,
    record: SagaRecord | None = None,
    retry_count: int = 0,
    losses: int = 0,
    afresh: bool = False,
    given: bytes = b"",
) -> tuple[TaskAttempt, bytes] | None:
    """Makes an attempt, SCHEDULED, and answers it with its input; None if it failed at once for want of room.

    `afresh`: an operator asked for it, and limits over all attempts begin anew; `given`: with this input.
    """
    if record is None and len(step.hot.tasks) >= limits.TASKS:
        # Compensations are not counted: a limit must not keep what was done from being undone.
        raise TooManyTasks(
            f"the execution exceeds the limit of {limits.TASKS} tasks; a loop with keepLastN keeps fewer"
        )
    node = place.node
    task_id = step.ids.make()
    try:
        if given:
            resolved = Input(given, store(step, given))
        else:
            resolved = make_input(step, place, task_id, record)
        failure = ""
    except LimitExceeded as error:
        resolved = Input(b"{}", b"{}")
        failure = str(error)
    first_scheduled_ms = step.now if previous is None or afresh else previous.first_scheduled_ms
    attempt = TaskAttempt(
        sequence=step.x.next_sequence,
        task_id=task_id,
        reference=place.reference,
        name=node.name,
        type=node.reported or _TYPE_NAMES[node.type],
        status=TaskStatus.SCHEDULED,
        scheduled_ms=step.now,
        first_scheduled_ms=first_scheduled_ms,
        updated_ms=step.now,
        retry_count=retry_count,
        input=resolved.kept,
        bindings=resolved.bindings,
        bound_variables=resolved.variables,
        idempotency_key=_key(step, task_id, previous, record),
        compensates=0 if record is None else record.number,
        losses=losses,
        iteration=place.iterations[-1] if place.iterations else 0,
        iterations=place.iterations,
        expansion=place.expansion,
        expanded=0 if previous is None else previous.expanded,
        secrets=resolved.secrets,
    )
    if previous is not None:
        _follow(step, previous, by_itself=not afresh)
    header = step.header
    header.next_sequence += 1
    header.open_tasks += 1
    step.budget -= 1
    if failure:
        finish(step, attempt, TaskStatus.FAILED_WITH_TERMINAL_ERROR, reason=failure, error_code=LIMIT_EXCEEDED)
        return None
    timeouts = node.timeouts
    if timeouts.total_ms and timeouts.policy != TimeoutPolicy.ALERT_ONLY:
        left_ms = max(0, first_scheduled_ms + timeouts.total_ms - step.now)
        attempt = replace(attempt, timers=(step.arm(TimerKind.TASK_TOTAL_TIMEOUT, left_ms, attempt.sequence),))
    return step.put_task(attempt), resolved.text


def _follow(step: Step, previous: TaskAttempt, *, by_itself: bool) -> None:
    """Another one takes the place of an attempt."""
    step.put_task(replace(previous, retried=True))
    if by_itself:
        step.effects.append(AttemptRetried(previous.name))


def _key(step: Step, task_id: str, previous: TaskAttempt | None, record: SagaRecord | None) -> str:
    """The id of the step's first attempt in this run, or of the first to compensate it, also if it is owed again."""
    if previous is None and record is not None:
        previous = step.hot.latest_undoing(record.number)
    return task_id if previous is None else previous.idempotency_key


def delay(step: Step, attempt: TaskAttempt, delay_ms: int) -> None:
    """The attempt's turn comes after a delay."""
    number = step.arm(TimerKind.TASK_READY, delay_ms, attempt.sequence)
    step.put_task(replace(attempt, timers=(*attempt.timers, number)))


def queue_for_worker(step: Step, attempt: TaskAttempt, delay_ms: int = 0) -> None:
    """The attempt waits for a worker, from now on or after a delay; or for a node, if nodes do such tasks."""
    if delay_ms > 0:
        delay(step, attempt, delay_ms)
        return
    node = node_of(step, attempt)
    timeouts = node.timeouts
    poll_ms = 0 if timeouts.policy == TimeoutPolicy.ALERT_ONLY else timeouts.poll_ms
    system_queue = system.queue_for(node)
    if system_queue:
        # Limits are those of workers' tasks: what the nodes do is limited by their slots.
        leases.enqueue(step, attempt, "", poll_ms, timeouts.response_ms, system_queue=system_queue)
    else:
        domain = _domain(step, attempt.name, node.queue)
        leases.enqueue(step, attempt, domain, poll_ms, timeouts.response_ms, node.limits, queue=node.queue)


def _domain(step: Step, name: str, queue: str) -> str:
    if not step.x.task_to_domain:
        return ""
    chosen: dict[str, str] = dict(step.x.task_to_domain)
    domains = [domain.strip() for domain in chosen.get(name, chosen.get("*", "")).split(",")]
    domains = ["" if domain == "NO_DOMAIN" else domain for domain in domains]
    for domain in domains:
        if pollers.is_served(step.state, (step.x.namespace, domain, queue or name)):
            return domain
    return domains[-1]


def make_ready(step: Step, attempt: TaskAttempt) -> None:
    """Queues the attempt when the execution gets to it, which is not while it is paused."""
    if attempt.compensates:
        step.undo_agenda.append(attempt.sequence)
    else:
        step.note(AgendaKind.READY, attempt.sequence)


def skip(step: Step, place: Place, output: Payload) -> TaskAttempt:
    """The task is left out: an attempt that has ended before it began. Raises TooManyTasks."""
    told = len(step.told)
    made = create(step, place, afresh=True, given=b"{}")
    assert made is not None
    # It is left out, and not scheduled.
    del step.told[told:]
    return finish(step, made[0], TaskStatus.SKIPPED, output=output, follow=False)


def limit_time(step: Step, attempt: TaskAttempt) -> TaskAttempt:
    """What is in progress without anybody who executes it, as a WAIT, a loop or a sub-workflow, has its time, too."""
    if attempt.status is not TaskStatus.IN_PROGRESS:
        return attempt
    timers = leases.limit_time(step, attempt)
    return step.put_task(replace(attempt, timers=(*attempt.timers, *timers))) if timers else attempt


def wait_again(step: Step, attempt: TaskAttempt) -> TaskAttempt:
    """A sub-workflow that had ended runs again: its task is in progress again."""
    check_task(attempt.status, TaskStatus.IN_PROGRESS)
    step.change(open_tasks=step.x.open_tasks + 1)
    attempt = replace(
        attempt,
        status=TaskStatus.IN_PROGRESS,
        started_ms=step.now,
        ended_ms=0,
        updated_ms=step.now,
        output=b"",
        reason="",
        error_code="",
    )
    return limit_time(step, step.put_task(attempt))


# --- how they end


def finish(
    step: Step,
    attempt: TaskAttempt,
    status: TaskStatus,
    *,
    output: Payload = b"",
    reason: str = "",
    error_code: str = "",
    accepted: bool = False,
    unknown: bool = False,
    follow: bool = True,
) -> TaskAttempt:
    """Ends an attempt, unless its output is to be looked at first.

    `unknown`: nobody can say whether it took effect. `follow`: something has to come of it.
    """
    was_done = attempt.check is Check.OUTPUT
    if was_done and status is TaskStatus.CANCELED:
        # That nobody looks at its output any more does not undo what it has done.
        status, output, reason, follow = TaskStatus.COMPLETED, attempt.output, "", True
    check_task(attempt.status, status)
    in_flight = _leave_everything(step, attempt, accepted, status, reason)
    if status is TaskStatus.COMPLETED and follow and not was_done and checks.is_output_due(step, attempt):
        return _look_at_output(step, attempt, output, accepted)
    in_effect = in_flight and has_effect(attempt)
    was_accepted = attempt.accepted if was_done else accepted
    if not accepted and not was_done:
        if attempt.joined:
            children.leave(step, attempt)
        if attempt.own_child and not attempt.compensates:
            children.cancel(step, attempt, reason or status.name)
    attempt = step.put_task(
        replace(
            attempt,
            status=status,
            ended_ms=step.now,
            updated_ms=step.now,
            output=output,
            reason=reason[: limits.REASON_CHARS],
            error_code=error_code,
            ready=0,
            timers=(),
            accepted=was_accepted,
            outcome_unknown=(unknown and has_effect(attempt))
            or (in_effect and not accepted)
            or (attempt.outcome_unknown and not was_accepted)
            or (was_done and status is not TaskStatus.COMPLETED and attempt.type in WORKED),
            fencing_token=_token_of_report(attempt),
            check=Check.NONE,
            reported_by=0,
        )
    )
    name = attempt.name if attempt.type in WORKED else attempt.type
    ran_ms = step.now - attempt.started_ms if attempt.started_ms else -1
    step.effects.append(AttemptEnded(name, status, error_code, ran_ms))
    step.header.open_tasks -= 1
    step.budget -= 1
    if attempt.compensates:
        if follow:
            step.undo_agenda.append(attempt.sequence)
        return attempt
    if in_effect and step.phase is WorkflowStatus.COMPENSATING and step.x.settling:
        step.change(settling=step.x.settling - 1)
    if status is TaskStatus.COMPLETED or (was_done and attempt.type not in WORKED):
        _record(step, attempt)
    if follow:
        step.note(AgendaKind.FOLLOW, attempt.sequence)
    return attempt


def _token_of_report(attempt: TaskAttempt) -> int:
    """The token under which it was executed, and not looked at."""
    if attempt.check in (Check.OUTPUT, Check.OUTPUT_PASSED):
        return attempt.reported_by or attempt.fencing_token
    return attempt.fencing_token


def _look_at_output(step: Step, attempt: TaskAttempt, output: Payload, accepted: bool) -> TaskAttempt:
    """It is done, and has completed when a node says that its output keeps the schema."""
    attempt = replace(
        attempt,
        status=TaskStatus.IN_PROGRESS,
        started_ms=attempt.started_ms or step.now,
        output=output,
        ready=0,
        timers=(),
        signal="",
        fencing_token=0,
        accepted=accepted,
        reported_by=attempt.fencing_token,
    )
    step.budget -= 1
    return checks.ask(step, attempt, Check.OUTPUT)


def _leave_everything(step: Step, attempt: TaskAttempt, accepted: bool, status: TaskStatus, reason: str) -> bool:
    """No timer, queue, event or session has it any more. Answers whether a session had."""
    for number in attempt.timers:
        step.disarm(number)
    step.queueing.pop(attempt.sequence, None)
    if attempt.ready and (attempt.ready,) in step.state.ready:
        throttle.dequeue(step, step.state.ready[attempt.ready,])
    if attempt.signal == awaiting.EVENT:
        awaiting.leave(step, attempt)
    is_lent = attempt.status is TaskStatus.IN_PROGRESS or attempt.is_looked_at
    if not is_lent or not attempt.fencing_token:
        return False
    _leave_worker(step, attempt, accepted, status, reason)
    return True


def _leave_worker(step: Step, attempt: TaskAttempt, accepted: bool, status: TaskStatus, reason: str) -> None:
    lease = step.state.leases.get((attempt.fencing_token,))
    if lease is None:
        return
    if accepted:
        leases.end_lease(step, lease)
    elif not lease.fenced:
        leases.fence(step, lease, reason or status.name)


def _record(step: Step, attempt: TaskAttempt) -> None:
    """A completed step is owed its compensation from now on; a completed pivot ends all such debts."""
    node = node_of(step, attempt)
    if node.pivot:
        step.change(pivot_passed=True)
    if node.compensate_with is not None:
        add_record(step, attempt, StepOutcome.COMPLETED)


def add_record(step: Step, attempt: TaskAttempt, outcome: StepOutcome, child: str = "") -> int:
    """The immutable record that the step's compensation will be given."""
    number = step.x.next_number
    record = SagaRecord(
        number=number,
        reference=base_of(attempt),
        name=attempt.name,
        iteration=attempt.iteration,
        outcome=outcome,
        step_sequence=attempt.sequence,
        step_key=attempt.idempotency_key,
        input=attempt.input,
        output=attempt.output if outcome is StepOutcome.COMPLETED else b"",
        completed_ms=attempt.ended_ms,
        bindings=attempt.bindings,
        bound_variables=attempt.bound_variables,
        iterations=attempt.iterations,
        expansion=attempt.expansion,
        child=child,
    )
    step.write(Table.RECORD, (step.x.namespace, step.x.workflow_id, number), record)
    step.change(next_number=number + 1)
    return number


def fail_at_limit(step: Step, attempt: TaskAttempt, error: LimitExceeded) -> TaskAttempt:
    """What it has come to is more than may be kept: trying again would come to the same."""
    terminal = TaskStatus.FAILED_WITH_TERMINAL_ERROR
    return finish(step, attempt, terminal, reason=str(error), error_code=LIMIT_EXCEEDED)


def complete_operator(step: Step, attempt: TaskAttempt, output: Payload, **changes: Any) -> TaskAttempt:
    """An operator has done its work."""
    return finish(step, replace(attempt, **changes) if changes else attempt, TaskStatus.COMPLETED, output=output)


# --- whether another one follows


class Another(NamedTuple):
    """The attempt that follows one that did not end well."""

    retry_count: int
    losses: int
    delay_ms: int


def another(step: Step, node: TaskNode, attempt: TaskAttempt) -> Another | None:
    """The attempt that follows by itself; None if there is none."""
    if attempt.status not in TASK_RETRIABLE or (node.type in STRUCTURAL and not is_lost(attempt)):
        return None
    policy = node.retry
    losses = 0
    if is_lost(attempt):
        losses = attempt.losses + 1
        is_free = policy.count > 0 or policy.forgives_losses or node.type not in WORKED
        if is_free and losses <= limits.WORKER_LOSSES_FREE:
            return Another(attempt.retry_count, losses, 0)
    if attempt.retry_count >= policy.count:
        return None
    return Another(attempt.retry_count + 1, losses, _delay_ms(step, policy, attempt))


def is_lost(attempt: TaskAttempt) -> bool:
    return attempt.status is TaskStatus.TIMED_OUT and attempt.error_code == WORKER_LOST


def ends_workflow(node: TaskNode, attempt: TaskAttempt) -> bool:
    """Whether the timeout of the task is that of the workflow, by the task's policy."""
    return (
        attempt.status is TaskStatus.TIMED_OUT
        and attempt.error_code in BY_POLICY
        and node.timeouts.policy == TimeoutPolicy.TIME_OUT_WF
    )


def is_total_used_up(step: Step, node: TaskNode, attempt: TaskAttempt) -> bool:
    total_ms = node.timeouts.total_ms
    return 0 < total_ms <= step.now - attempt.first_scheduled_ms


def _delay_ms(step: Step, policy: RetryPolicy, attempt: TaskAttempt) -> int:
    delay_ms = backoff_ms(policy, attempt.retry_count)
    if policy.jitter_ms > 0:
        delay_ms += step.ids.number(policy.jitter_ms + 1, "jitter", attempt.task_id)
    return delay_ms


def backoff_ms(policy: RetryPolicy, made: int) -> int:
    """The delay of the attempt that follows after so many retries, without its jitter."""
    delay_ms = policy.delay_ms
    if policy.logic == RetryLogic.LINEAR_BACKOFF:
        delay_ms = delay_ms * int(policy.scale_factor * 1000) * (made + 1) // 1000
    elif policy.logic == RetryLogic.EXPONENTIAL_BACKOFF:
        delay_ms = delay_ms << min(made, 64)
    delay_ms = min(delay_ms, limits.RETRY_DELAY_MS)
    if policy.max_delay_ms > 0:
        delay_ms = min(delay_ms, policy.max_delay_ms)
    return delay_ms
