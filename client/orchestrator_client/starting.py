"""The request to start an execution, from what a caller says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_client.codec import decode, dumps, encode
from orchestrator_client.errors import InvalidRequest
from orchestrator_client.runs import object_json
from orchestrator_client.workflow import Workflow

_IF_EXISTS = {"fail": pb.IF_EXISTS_FAIL, "return": pb.IF_EXISTS_RETURN}

_IDEMPOTENCY = {
    "fail": pb.IDEMPOTENCY_STRATEGY_FAIL,
    "return_existing": pb.IDEMPOTENCY_STRATEGY_RETURN_EXISTING,
    "fail_on_running": pb.IDEMPOTENCY_STRATEGY_FAIL_ON_RUNNING,
}

Startable = Workflow | Mapping[str, Any] | str
"""What can be started: a workflow, a definition, or the name of one that is registered."""


def write_start(
    request: pb.StartWorkflowRequest,
    workflow: Startable,
    input: Any,
    *,
    id: str = "",
    if_exists: str = "fail",
    idempotency_key: str = "",
    idempotency_strategy: str = "fail",
    version: int = 0,
    correlation_id: str = "",
    priority: int = 0,
    created_by: str = "",
    task_to_domain: Mapping[str, str] | None = None,
    register: bool = True,
) -> None:
    """Fills in the request but for its namespace and identity. Raises InvalidRequest, CodecError."""
    if idempotency_strategy not in _IDEMPOTENCY:
        raise InvalidRequest(f"idempotency_strategy is one of {sorted(_IDEMPOTENCY)}, not {idempotency_strategy!r}")
    if if_exists not in _IF_EXISTS:
        raise InvalidRequest(f"if_exists is 'fail' or 'return', not {if_exists!r}")
    request.if_exists = _IF_EXISTS[if_exists]
    request.idempotency_strategy = _IDEMPOTENCY[idempotency_strategy]
    for name, value in (
        ("workflow_id", id),
        ("version", version),
        ("correlation_id", correlation_id),
        ("priority", priority),
        ("created_by", created_by),
        ("idempotency_key", idempotency_key),
    ):
        if value:
            setattr(request, name, value)
    if task_to_domain:
        request.task_to_domain.update(task_to_domain)
    _write_definition(request, workflow, register=register)
    if isinstance(workflow, Workflow):
        _check_input(workflow, input)
    request.input.inline = object_json(input, "input")


def output_type_of(workflow: Startable) -> type | None:
    """The type of the result, if it is known here."""
    return workflow.output_type if isinstance(workflow, Workflow) else None


def _write_definition(request: pb.StartWorkflowRequest, workflow: Startable, *, register: bool) -> None:
    if isinstance(workflow, Workflow):
        if request.version not in (0, workflow.version):
            raise InvalidRequest(f"{workflow!r} was given, and version {request.version} asked for")
        if not register:
            request.definition_json = dumps(workflow.to_dict(inline_tasks=True))
        request.name, request.version = workflow.name, workflow.version
    elif isinstance(workflow, Mapping):
        request.definition_json = dumps(workflow)
        request.name = str(workflow.get("name", ""))
    else:
        request.name = workflow


def _check_input(workflow: Workflow, input: Any) -> None:
    """Refuses here what the first task would not be able to read."""
    wanted = workflow.input_type
    if wanted is not None and type(input) is not wanted:
        decode(wanted, encode({} if input is None else input, "input"), "input")
