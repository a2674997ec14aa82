"""What callers may change of an execution that runs: its variables, its pending tasks, and what is logged of them."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, blob_uses, task_logs
from orchestrator.engine.commands import UpdateTask, UpdateVariables
from orchestrator.engine.errors import LimitExceeded, refuse
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX, PayloadInvalid, check_payload, merge_objects
from orchestrator.engine.handlers.results import attempt_of, holds
from orchestrator.engine.log_commands import AddTaskLogs
from orchestrator.engine.model import Check, Payload, TaskStatus, WorkflowStatus
from orchestrator.engine.payloads import drop, store_brought
from orchestrator.engine.results import AnyResult, Code, Done, Judged, Verdict
from orchestrator.engine.scopes import load
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import TASK_TERMINAL

_UPDATES = frozenset(
    (TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.FAILED_WITH_TERMINAL_ERROR)
)
# They end when what they stand for has ended, and nothing else ends them.
_ENDS_BY_ITSELF = frozenset(
    "SWITCH DECISION FORK FORK_JOIN FORK_JOIN_DYNAMIC JOIN EXCLUSIVE_JOIN DO_WHILE DYNAMIC SUB_WORKFLOW"
    " SCHEMA_CHECK".split()
)


def update_variables(step: Step, command: UpdateVariables) -> AnyResult:
    """As a SET_VARIABLE does it."""
    require_going_forward(step, command.namespace, command.workflow_id)
    _check(step, "variables", command.variables)
    step.change(variables=_merged(step, "variables", step.x.variables, command.variables))
    return Done()


def update_task(step: Step, command: UpdateTask) -> AnyResult:
    """The newest attempt of a reference gets more output, and ends if the status says so, whoever has it."""
    if command.status not in _UPDATES:
        message = f"a task is updated to {', '.join(sorted(status.name for status in _UPDATES))}"
        refuse(Code.INVALID_ARGUMENT, "STATUS_INVALID", message, field="status")
    require_going_forward(step, command.namespace, command.workflow_id)
    _check(step, "output", command.output)
    attempt = step.hot.latest(command.reference) or step.hot.newest(command.reference)
    if attempt is None:
        message = f"no task with the reference {command.reference!r} has been made"
        refuse(Code.NOT_FOUND, "TASK_NOT_FOUND", message)
    if attempt.status in TASK_TERMINAL:
        message = f"the task {command.reference!r} has ended: {attempt.status.name}"
        refuse(Code.FAILED_PRECONDITION, "TASK_ENDED", message)
    if attempt.check is Check.OUTPUT:
        message = f"the task {command.reference!r} is done: its output is being checked against its schema"
        refuse(Code.FAILED_PRECONDITION, "TASK_ENDED", message)
    if attempt.type in _ENDS_BY_ITSELF:
        message = f"the task {command.reference!r} is a {attempt.type}: it ends by itself"
        refuse(Code.FAILED_PRECONDITION, "TASK_NOT_UPDATABLE", message)
    output = _merged(step, "output", attempt.output, command.output)
    # Nobody else's: others read the output of a task that has ended.
    drop(step, attempt.output)
    if command.status is TaskStatus.IN_PROGRESS:
        step.put_task(replace(attempt, output=output, updated_ms=step.now))
    else:
        attempts.finish(step, attempt, command.status, output=output, reason=command.reason)
    return Done()


def add_task_logs(step: Step, command: AddTaskLogs) -> AnyResult:
    """A worker's lines count while it holds the attempt; without a token they are an operator's, and always count."""
    attempt = attempt_of(step, command.namespace, command.workflow_id, command.task_id)
    if attempt is None:
        return Judged(Verdict.UNKNOWN, "there is no such attempt")
    if command.fencing_token and not holds(step, attempt, command.fencing_token):
        return Judged(Verdict.FENCED, f"the attempt is {attempt.status.name}")
    task_logs.add(step, attempt, command.lines)
    return Judged(Verdict.ACCEPTED)


def require_going_forward(step: Step, namespace: str, workflow_id: str) -> None:
    step.require(namespace, workflow_id)
    if step.is_over:
        status = step.x.ending or step.x.status
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_ENDED", f"the workflow has ended: {status.name}")
    if step.phase is WorkflowStatus.COMPENSATING:
        message = "the workflow is compensating: nothing of it goes forward any more"
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_COMPENSATING", message)


def _check(step: Step, field: str, payload: bytes) -> None:
    blob_uses.require(step, field, payload)
    try:
        check_payload(payload)
    except PayloadInvalid as error:
        refuse(Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", f"{field}: {error}", field=field, limit=error.limit)


def _merged(step: Step, field: str, kept: Payload, more: bytes) -> Payload:
    """What there is, with the members of `more` in the place of those of their names."""
    text = merge_objects(load(step.hot, kept) or b"{}", more)
    if len(text) > PAYLOAD_BYTES_MAX:
        message = f"{field}: with what is there already it has over {PAYLOAD_BYTES_MAX} bytes"
        refuse(Code.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE", message, field=field, limit=str(PAYLOAD_BYTES_MAX))
    try:
        return store_brought(step, text)
    except LimitExceeded as error:
        refuse(Code.RESOURCE_EXHAUSTED, "EXECUTION_TOO_LARGE", str(error), limit="execution_bytes")
