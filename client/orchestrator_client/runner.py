"""Executes one attempt: input to arguments, the function, and its result or failure to what the leader is told."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_api.v1.workflows_pb2 import (
    TASK_STATUS_COMPLETED,
    TASK_STATUS_FAILED,
    TASK_STATUS_FAILED_WITH_TERMINAL_ERROR,
    TASK_STATUS_IN_PROGRESS,
    TaskStatus,
)
from orchestrator_client import tracing
from orchestrator_client.codec import dumps, json_text, loads
from orchestrator_client.context import CompensatedStepContext, CompensationContext, TaskContext
from orchestrator_client.errors import CodecError, NotDone, TerminalError
from orchestrator_client.tasks import Compensator, Task

# What a message takes; the cluster may take less, and says so.
OUTPUT_BYTES_MAX = 15 << 20
DETAILS_BYTES_MAX = 64 * 1024
REASON_CHARACTERS_MAX = 10_000
CODE_CHARACTERS_MAX = 200
_AFTER_MS_MAX = (2**31 - 1) * 1000


def make_context(
    assignment: pb.Assignment,
    beat: Callable[[Payload | None], None],
    keep: Callable[[str], None] = lambda text: None,
) -> TaskContext:
    """What the function is told about its attempt; `beat` and `keep` take heartbeats and lines, from any thread."""

    def encode_and_beat(details: Any) -> None:
        if details is None:
            beat(None)
            return
        data = dumps(details)
        if not data.startswith(b"{"):
            raise TypeError(f"heartbeat details are an object (a dict or a dataclass), not {type(details).__name__}")
        if len(data) > DETAILS_BYTES_MAX:
            raise ValueError(f"heartbeat details have {len(data)} bytes of JSON; at most {DETAILS_BYTES_MAX} fit")
        beat(Payload(inline=data))

    details = None
    if assignment.heartbeat_details.inline:
        with contextlib.suppress(CodecError):  # they are a convenience: no attempt fails for them
            details = loads(assignment.heartbeat_details.inline)
    about: dict[str, Any] = {
        "idempotency_key": assignment.idempotency_key,
        "fencing_token": assignment.fencing_token,
        "namespace": assignment.namespace or "default",
        "workflow_id": assignment.workflow_id,
        "workflow_name": assignment.workflow_name,
        "correlation_id": assignment.correlation_id,
        "task_id": assignment.task_id,
        "task_name": assignment.name,
        "reference": assignment.reference,
        "attempt": assignment.retry_count + 1,
        "iteration": assignment.iteration,
        "previous_details": details,
        "runtime_metadata": dict(assignment.runtime_metadata),
        "_beat": encode_and_beat,
        "_keep": keep,
    }
    if not assignment.HasField("compensation"):
        return TaskContext(**about)
    undone = assignment.compensation
    step = CompensatedStepContext(undone.step_idempotency_key, undone.reference, undone.iteration, undone.step_name)
    return CompensationContext(**about, step=step, outcome="UNKNOWN" if undone.outcome_unknown else "COMPLETED")


async def run_attempt(
    task: Task[..., Any], assignment: pb.Assignment, context: TaskContext, threads: Executor
) -> pb.TaskResult:
    """The result of the attempt; only CancelledError gets out."""
    try:
        arguments = _arguments(task, assignment, context)
    except CodecError as error:
        return failed(assignment, f"the input does not fit {task.name}: {error}", "INPUT_INVALID", terminal=True)
    except TypeError as error:  # the annotations themselves are wrong
        return failed(assignment, str(error), "TASK_INVALID", terminal=True)
    try:
        value = await _call(task, arguments, threads)
    except NotDone as error:
        return _not_done(assignment, error, task.name)
    except TerminalError as error:
        tracing.raised(error)
        return failed(assignment, str(error), error.code, terminal=True, outcome_unknown=error.outcome_unknown)
    except (Exception, SystemExit) as error:
        tracing.raised(error)
        message = str(error)
        name = type(error).__name__
        context.log.warning("failed", exc_info=error)  # the traceback stays here: it is not for the callers
        return failed(assignment, f"{name}: {message}" if message else name, name)
    try:
        data = json_text(task.encode_result(value))
    except (CodecError, ValueError) as error:
        problem = f"the result of {task.name}: {error}"
        return failed(assignment, problem, "OUTPUT_INVALID", terminal=True, outcome_unknown=True)
    if len(data) > OUTPUT_BYTES_MAX:
        problem = f"the result of {task.name} has {len(data)} bytes of JSON; at most {OUTPUT_BYTES_MAX} fit"
        return failed(assignment, problem, "OUTPUT_TOO_LARGE", terminal=True, outcome_unknown=True)
    result = _result(assignment, TASK_STATUS_COMPLETED)
    result.output.inline = data
    return result


def _not_done(assignment: pb.Assignment, said: NotDone, name: str) -> pb.TaskResult:
    try:
        data = b"" if said.details is None else dumps(said.details)
        problem = "" if data[:1] in (b"", b"{") else "they are no object (a dict or a dataclass)"
    except (CodecError, ValueError) as error:
        data, problem = b"", str(error)
    if len(data) > DETAILS_BYTES_MAX:
        problem = f"they have {len(data)} bytes of JSON; at most {DETAILS_BYTES_MAX} fit"
    if problem:
        problem = f"the details of what {name} has not done: {problem}"
        return failed(assignment, problem, "OUTPUT_INVALID", terminal=True, outcome_unknown=True)
    result = _result(assignment, TASK_STATUS_IN_PROGRESS)
    result.callback_after_ms = min(round(said.after_s * 1000), _AFTER_MS_MAX)
    if data:
        result.output.inline = data
    return result


def failed(
    assignment: pb.Assignment, reason: str, code: str, *, terminal: bool = False, outcome_unknown: bool = False
) -> pb.TaskResult:
    """`outcome_unknown`: it failed, but may have taken effect, so a saga undoes it."""
    result = _result(assignment, TASK_STATUS_FAILED_WITH_TERMINAL_ERROR if terminal else TASK_STATUS_FAILED)
    result.reason = reason[:REASON_CHARACTERS_MAX]
    result.error_code = code[:CODE_CHARACTERS_MAX]
    result.outcome_unknown = outcome_unknown
    return result


def _result(assignment: pb.Assignment, status: TaskStatus.ValueType) -> pb.TaskResult:
    return pb.TaskResult(
        namespace=assignment.namespace,
        workflow_id=assignment.workflow_id,
        task_id=assignment.task_id,
        fencing_token=assignment.fencing_token,
        status=status,
    )


def _arguments(task: Task[..., Any], assignment: pb.Assignment, context: TaskContext) -> dict[str, Any]:
    if isinstance(task, Compensator):
        if not assignment.HasField("compensation"):
            raise CodecError("compensation", "the assignment does not say which step is to be undone")
        undone = assignment.compensation
        known = undone.step_output.inline and not undone.outcome_unknown
        arguments = task.bind(loads(undone.step_input.inline), loads(undone.step_output.inline) if known else None)
    else:
        arguments = task.decode_arguments(loads(assignment.input.inline))
    if task.signature.context is not None:
        arguments[task.signature.context] = context
    return arguments


async def _call(task: Task[..., Any], arguments: dict[str, Any], threads: Executor) -> Any:
    if task.is_async:
        return await task.function(**arguments)
    surroundings = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(
        threads, lambda: surroundings.run(lambda: task.function(**arguments))
    )
