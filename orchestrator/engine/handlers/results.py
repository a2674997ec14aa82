"""What workers say of attempts: results, signs of life, releases."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from orchestrator.engine import attempts, blob_uses, evaluations, leases, limits, task_logs
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.commands import CompleteTask, RecordHeartbeat, ReleaseTask
from orchestrator.engine.crossing import crossed, is_outside
from orchestrator.engine.definitions.model import TaskNode, TaskType
from orchestrator.engine.errors import LimitExceeded, refuse
from orchestrator.engine.expressions import JsonInvalid, PayloadInvalid, check_json, check_payload
from orchestrator.engine.handlers import checking
from orchestrator.engine.messages import WorkerLost
from orchestrator.engine.model import Check, Payload, TaskAttempt, TaskStatus
from orchestrator.engine.operators.registry import EVALUATED
from orchestrator.engine.payloads import drop, store, store_brought
from orchestrator.engine.results import AnyResult, Code, Done, Judged, Verdict
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import check_task

_REPORTED: Final = frozenset(
    (TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.FAILED_WITH_TERMINAL_ERROR)
)


def complete_task(step: Step, command: CompleteTask) -> AnyResult:
    if command.status not in _REPORTED:
        message = "a result is IN_PROGRESS, COMPLETED, FAILED or FAILED_WITH_TERMINAL_ERROR"
        refuse(Code.INVALID_ARGUMENT, "STATUS_INVALID", message, field="status")
    attempt = attempt_of(step, command.namespace, command.workflow_id, command.task_id)
    blob_uses.require(step, "output", command.output)
    if attempt is None or not holds(step, attempt, command.fencing_token):
        return _late(step, command, attempt)
    if attempt.check is not Check.NONE and attempt.is_looked_at:
        checking.answered(step, attempt, command)
        return Judged(Verdict.ACCEPTED)
    if command.status is TaskStatus.IN_PROGRESS and attempts.node_of(step, attempt).type != TaskType.SIMPLE:
        refuse(Code.INVALID_ARGUMENT, "STATUS_INVALID", "only a worker can be asked again", field="status")
    task_logs.add(step, attempt, command.logs)
    try:
        output = _checked(step, command)
    except (PayloadInvalid, LimitExceeded) as error:
        # Whoever reported that has done something, though it can't be said what.
        attempts.finish(
            step,
            attempt,
            TaskStatus.FAILED_WITH_TERMINAL_ERROR,
            reason=f"invalid output: {error}",
            error_code=attempts.INVALID_RESULT,
            accepted=True,
            unknown=command.status in (TaskStatus.COMPLETED, TaskStatus.IN_PROGRESS),
        )
        return Judged(Verdict.INVALID, str(error))
    if command.status is TaskStatus.IN_PROGRESS:
        _ask_again(step, attempt, command.callback_ms, output)
    else:
        _accept(step, attempt, command, output)
    return Judged(Verdict.ACCEPTED)


def _ask_again(step: Step, attempt: TaskAttempt, after_ms: int, said: Payload) -> None:
    """The same attempt is handed out again, with what was said: it is not done, and nobody has it until then."""
    if said:
        drop(step, attempt.details)
        attempt = replace(attempt, details=said)
    if not leases.is_wanted(step, attempt):
        reason = "the workflow has ended or compensates"
        attempts.finish(
            step, attempt, TaskStatus.CANCELED, reason=reason, accepted=True, unknown=True, follow=False
        )
        return
    leases.end_lease(step, step.state.leases[attempt.fencing_token,])
    check_task(attempt.status, TaskStatus.SCHEDULED)
    attempt = step.put_task(
        replace(
            attempt,
            status=TaskStatus.SCHEDULED,
            updated_ms=step.now,
            fencing_token=0,
            reported_by=attempt.fencing_token,
            ready=0,
            losses=0,
            # Unless it says otherwise at last.
            outcome_unknown=True,
        )
    )
    attempts.queue_for_worker(step, attempt, min(after_ms, limits.RETRY_DELAY_MS))


def _accept(step: Step, attempt: TaskAttempt, command: CompleteTask, output: Payload) -> None:
    node = attempts.node_of(step, attempt)
    completed = command.status is TaskStatus.COMPLETED
    if node.type in EVALUATED:
        _go_on(step, node, attempt, command)
        return
    if completed and node.async_complete and leases.is_wanted(step, attempt):
        # What was called has only taken it up: a signal or an update of the task says how it ended.
        lease = step.state.leases[attempt.fencing_token,]
        leases.end_lease(step, lease)
        step.put_task(
            replace(
                attempt,
                output=output,
                signal=attempt.reference,
                fencing_token=0,
                reported_by=attempt.fencing_token,
                updated_ms=step.now,
            )
        )
        return
    attempts.finish(
        step,
        attempt,
        command.status,
        output=output,
        reason=command.reason,
        error_code=command.error_code[: limits.NAME_CHARS],
        accepted=True,
        unknown=command.outcome_unknown and not completed,
    )


def _go_on(step: Step, node: TaskNode, attempt: TaskAttempt, command: CompleteTask) -> None:
    """An operator goes on with what was evaluated for it, if the execution still does."""
    if not leases.is_wanted(step, attempt):
        reason = "the workflow has ended or compensates"
        attempts.finish(step, attempt, TaskStatus.CANCELED, reason=reason, accepted=True, follow=False)
        return
    answer = evaluations.answered(command.status, command.output, command.reason)
    if step.level >= STREAMS and is_outside(command.output):
        answer = evaluations.Answer(b"null", str(crossed(f"what the script of {node.reference} came to")))
    EVALUATED[node.type].answered(step, node, attempt, answer)


def attempt_of(step: Step, namespace: str, workflow_id: str, task_id: str) -> TaskAttempt | None:
    if not step.open(namespace, workflow_id) or step.x.clearing:
        return None
    sequence = step.hot.by_task_id.get(task_id)
    return None if sequence is None else step.hot.tasks[sequence]


def holds(step: Step, attempt: TaskAttempt, token: int) -> bool:
    """Whether the token is that of the attempt's lease, and the attempt goes on."""
    if attempt.status is not TaskStatus.IN_PROGRESS and not attempt.is_looked_at:
        return False
    if attempt.fencing_token != token or token == 0:
        return False
    lease = step.state.leases.get((token,))
    return lease is not None and not lease.fenced


def _late(step: Step, command: CompleteTask, attempt: TaskAttempt | None) -> AnyResult:
    lease = step.state.leases.get((command.fencing_token,))
    # Whoever names another execution knows nothing of this lease, and must not end it.
    named = (command.namespace, command.workflow_id, command.task_id)
    if (
        lease is not None
        and (lease.namespace, lease.workflow_id, lease.task_id) == named
        and (lease.fenced or attempt is None)
    ):
        leases.end_lease(step, lease)
    if attempt is None:
        return Judged(Verdict.UNKNOWN, "there is no such attempt")
    if _is_said_again(attempt, command):
        return Judged(Verdict.ACCEPTED)
    if attempt.accepted and attempt.fencing_token == command.fencing_token:
        # Said before: the same answer as then.
        if attempt.error_code == attempts.INVALID_RESULT:
            return Judged(Verdict.INVALID, attempt.reason)
        return Judged(Verdict.ACCEPTED)
    return Judged(Verdict.FENCED, f"the attempt is {attempt.status.name}")


def _is_said_again(attempt: TaskAttempt, command: CompleteTask) -> bool:
    """Whether it is what was said last of the attempt, which goes on since."""
    if not attempt.reported_by or attempt.reported_by != command.fencing_token:
        return False
    # Its output is looked at; or what was called goes on; or it is not done.
    return attempt.accepted or command.status is (TaskStatus.COMPLETED if attempt.signal else TaskStatus.IN_PROGRESS)


def _checked(step: Step, command: CompleteTask) -> Payload:
    if not command.output:
        return b""
    check_payload(command.output)
    return store_brought(step, command.output)


def record_heartbeat(step: Step, command: RecordHeartbeat) -> AnyResult:
    attempt = attempt_of(step, command.namespace, command.workflow_id, command.task_id)
    if attempt is None:
        return Judged(Verdict.UNKNOWN, "there is no such attempt")
    if not holds(step, attempt, command.fencing_token):
        return Judged(Verdict.FENCED, f"the attempt is {attempt.status.name}")
    if len(command.details) > limits.DETAILS_BYTES:
        return Judged(Verdict.INVALID, f"the details of a heartbeat may have {limits.DETAILS_BYTES} bytes")
    try:
        check_json(command.details)
        details = store(step, command.details)
    except (JsonInvalid, LimitExceeded) as error:
        return Judged(Verdict.INVALID, str(error))
    # The old details are nobody else's: the next attempt reads those of this one.
    drop(step, attempt.details)
    step.put_task(replace(attempt, details=details, updated_ms=step.now))
    return Judged(Verdict.ACCEPTED)


def release_task(step: Step, command: ReleaseTask) -> AnyResult:
    lease = step.state.leases.get((command.fencing_token,))
    if lease is None or lease.session_id != command.session_id:
        return Done()
    leases.end_lease(step, lease)
    if not lease.fenced:
        # It gave up an attempt that still counted, as while settling: nobody knows how far it came.
        step.send(WorkerLost(lease.namespace, lease.workflow_id, lease.task_sequence, lease.token))
    return Done()
