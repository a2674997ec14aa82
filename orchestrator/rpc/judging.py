"""Workers' results, as commands; and the verdicts on them."""

from __future__ import annotations

from orchestrator.engine import commands
from orchestrator.engine.model import TaskStatus
from orchestrator.engine.results import AnyResult, Judged, Rejected, Verdict
from orchestrator.rpc.errors import RpcFailure, invalid
from orchestrator.rpc.large_payloads import Sizes
from orchestrator.rpc.requests import NAME_CHARACTERS_MAX, json_object, log_lines, namespace_of, required
from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1 import workflows_pb2

ERROR_CHARACTERS_MAX = 10_000

_REPORTED = {
    workflows_pb2.TASK_STATUS_IN_PROGRESS: TaskStatus.IN_PROGRESS,
    workflows_pb2.TASK_STATUS_COMPLETED: TaskStatus.COMPLETED,
    workflows_pb2.TASK_STATUS_FAILED: TaskStatus.FAILED,
    workflows_pb2.TASK_STATUS_FAILED_WITH_TERMINAL_ERROR: TaskStatus.FAILED_WITH_TERMINAL_ERROR,
}
VERDICTS = {verdict: pb.Verdict.Value(f"VERDICT_{verdict.name}") for verdict in Verdict}


def completion(result: pb.TaskResult, sizes: Sizes) -> tuple[commands.CompleteTask, str]:
    """What is to be submitted, and what rule the result breaks; "": none.

    Raises RpcFailure if the result can't be read at all.
    """
    status = _REPORTED.get(result.status)
    if status is None:
        raise invalid("result.status", "a worker reports IN_PROGRESS, COMPLETED, FAILED or FAILED_WITH_TERMINAL_ERROR")
    reason = result.reason[:ERROR_CHARACTERS_MAX]
    unknown = result.outcome_unknown
    try:
        output, broken = json_object("result.output", result.output, sizes), ""
    except RpcFailure as failure:
        # The worker would only send the same again: the attempt fails for good, and says why.
        output, broken = b"{}", failure.message
        # Whoever reported COMPLETED has done something, though it can't be said what.
        unknown = unknown or status in (TaskStatus.COMPLETED, TaskStatus.IN_PROGRESS)
        status, reason = TaskStatus.FAILED_WITH_TERMINAL_ERROR, broken
    if status is TaskStatus.IN_PROGRESS and not result.HasField("output"):
        # What it said before stays.
        output = b""
    command = commands.CompleteTask(
        namespace=namespace_of(result.namespace),
        workflow_id=required("result.workflow_id", result.workflow_id),
        task_id=required("result.task_id", result.task_id),
        fencing_token=result.fencing_token,
        status=status,
        output=output,
        reason=reason,
        error_code=result.error_code[:NAME_CHARACTERS_MAX],
        outcome_unknown=unknown,
        logs=log_lines(result.logs),
        callback_ms=result.callback_after_ms,
    )
    return command, broken


def verdict_on(result: pb.TaskResult, broken: str, outcome: AnyResult) -> pb.TaskVerdict:
    """By what the state machine has answered."""
    if isinstance(outcome, Judged):
        verdict, message = VERDICTS[outcome.verdict], outcome.message
        if broken and outcome.verdict is Verdict.ACCEPTED:
            verdict, message = pb.VERDICT_INVALID, broken
    elif isinstance(outcome, Rejected):
        verdict, message = pb.VERDICT_INVALID, outcome.message
    else:
        raise TypeError(f"CompleteTask answered {type(outcome).__name__}")
    return pb.TaskVerdict(
        task_id=result.task_id, fencing_token=result.fencing_token, verdict=verdict, message=message
    )
