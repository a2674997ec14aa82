"""The request to start an execution, as a command."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from orchestrator.engine import commands, start_checks
from orchestrator.engine.assignments import schema_parameters
from orchestrator.engine.attempts import SCHEMA_VIOLATION
from orchestrator.engine.choices import IdempotencyStrategy, IfExists
from orchestrator.engine.definitions.model import INPUT_CHECK
from orchestrator.integrations.work import Ended, Kind, Work
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import invalid
from orchestrator.rpc.large_payloads import INLINE, Sizes, is_large
from orchestrator.rpc.requests import (
    TASK_NAMES_MAX,
    chosen,
    in_range,
    json_object,
    namespace_of,
    refuse_reserved,
    required,
    text,
)
from orchestrator.rpc.trace_context import trace_of
from orchestrator_api.v1 import workflows_pb2 as pb

_IF_EXISTS = {
    pb.IF_EXISTS_UNSPECIFIED: IfExists.FAIL,
    pb.IF_EXISTS_FAIL: IfExists.FAIL,
    pb.IF_EXISTS_RETURN: IfExists.RETURN,
}
_IDEMPOTENCY = {
    pb.IDEMPOTENCY_STRATEGY_UNSPECIFIED: IdempotencyStrategy.FAIL,
    pb.IDEMPOTENCY_STRATEGY_FAIL: IdempotencyStrategy.FAIL,
    pb.IDEMPOTENCY_STRATEGY_RETURN_EXISTING: IdempotencyStrategy.RETURN_EXISTING,
    pb.IDEMPOTENCY_STRATEGY_FAIL_ON_RUNNING: IdempotencyStrategy.FAIL_ON_RUNNING,
}
DEFINITION_BYTES_MAX = 1 << 20


def start_command(request: pb.StartWorkflowRequest, sizes: Sizes = INLINE) -> commands.StartWorkflow:
    """Raises RpcFailure for what breaks a rule of the wire."""
    if len(request.definition_json) > DEFINITION_BYTES_MAX:
        raise invalid("definition_json", f"is over {DEFINITION_BYTES_MAX} bytes", str(DEFINITION_BYTES_MAX))
    refuse_reserved("definition_json", request.definition_json)
    return commands.StartWorkflow(
        namespace=namespace_of(request.namespace),
        name=text("name", request.name) if request.definition_json else required("name", request.name),
        version=request.version,
        workflow_id=text("workflow_id", request.workflow_id),
        if_exists=chosen("if_exists", _IF_EXISTS, request.if_exists),
        input=json_object("input", request.input, sizes),
        correlation_id=text("correlation_id", request.correlation_id),
        priority=in_range("priority", request.priority, 0, 99),
        created_by=text("created_by", request.created_by),
        task_to_domain=_domains(request.task_to_domain),
        document=request.definition_json,
        idempotency_key=text("idempotency_key", request.idempotency_key),
        idempotency=chosen("idempotency_strategy", _IDEMPOTENCY, request.idempotency_strategy),
        trace=trace_of(request),
    )


def check_of(backend: Backend, command: commands.StartWorkflow) -> start_checks.StartCheck | None:
    """What is to be looked at in the input of the start; None: nothing."""
    if not backend.leading():
        return None
    names = (command.namespace, command.name, command.version)
    return start_checks.check_for(backend.state(), *names, command.document, command.input or b"{}")


async def looked_at(backend: Backend, command: commands.StartWorkflow) -> commands.StartWorkflow:
    """With what is found in its input if that has to keep a schema, so that a caller hears of it at once.

    Whether it is refused is decided where it is started, by the definition that it has there. What nobody can look at
    now is looked at when the execution begins.
    """
    if is_large(command.input):
        await backend.large.check("input", command.input)
    check = check_of(backend, command)
    if check is None:
        return command
    parameters = schema_parameters(check.schema.text, is_quiet=check.is_quiet)
    outcome = await backend.evaluate(
        Work(
            kind=Kind.SCHEMA,
            namespace=command.namespace,
            workflow_id=command.workflow_id,
            task_id="",
            name=command.name,
            reference=INPUT_CHECK,
            input=check.input,
            parameters=parameters,
            idempotency_key="",
            fencing_token=0,
        )
    )
    if outcome.ended is Ended.COMPLETED:
        return replace(command, looked_for=check.bundle)
    if outcome.error_code != SCHEMA_VIOLATION:
        return command
    said = f"the workflow's input violates {check.schema.label}: {outcome.reason}"
    return replace(command, looked_for=check.bundle, violation=said)


def _domains(by_task: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    in_range("task_to_domain", len(by_task), 0, TASK_NAMES_MAX)
    return tuple(
        (required("task_to_domain", name), text("task_to_domain", domains)) for name, domains in sorted(by_task.items())
    )
