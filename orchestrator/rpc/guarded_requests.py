"""What a request asks for, held against what its caller may do."""

from __future__ import annotations

from typing import Any

from orchestrator.access.methods import BULK, Rule
from orchestrator.access.roles import Need
from orchestrator.rpc.backend import DEFAULT_NAMESPACE, Backend
from orchestrator.rpc.caller import Caller
from orchestrator.rpc.errors import not_found
from orchestrator_api.v1 import common_pb2, workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb


async def check(backend: Backend, caller: Caller, method: str, rule: Rule, request: Any) -> None:
    """Raises RpcFailure, and what reading raises."""
    if caller.is_free:
        return
    namespace = (field(request, rule.namespace) or DEFAULT_NAMESPACE) if rule.namespace else ""
    if rule.closer == "bulk":
        # What is none of them needs no less than any of them, and is refused later.
        need = BULK.get(_operation(request.operation), Need.ADMINISTER)
        caller.require(method, need, namespace)
    elif rule.closer == "attempt":
        _check_worker(caller, method, namespace, request)
    elif rule.of_execution:
        await _check_execution(backend, caller, method, rule.need, namespace, request)
    elif rule.closer == "start":
        require_start(caller, method, request if rule.name == "name" else request.start)
    else:
        for name in names(request, rule):
            caller.require(method, rule.need, namespace, name)


def require_start(caller: Caller, method: str, start: pb.StartWorkflowRequest) -> None:
    """Raises RpcFailure."""
    namespace = start.namespace or DEFAULT_NAMESPACE
    caller.require(method, Need.START, namespace, start.name)
    if start.definition_json:
        # A definition that travels along is as good as one that is registered.
        caller.require(method, Need.ADMINISTER, namespace)


def names(request: Any, rule: Rule) -> list[str | None]:
    """Of what the request is about; one None if it names nothing: the need itself has to be met all the same."""
    if not rule.name:
        return [None]
    value = field(request, rule.name)
    return [value] if isinstance(value, str) else list(value) or [None]


def _check_worker(caller: Caller, method: str, namespace: str, request: Any) -> None:
    """Which attempt it is about is looked at where it is served: see `attempt_access`."""
    if isinstance(request, workers_pb2.AddTaskLogsRequest) and not request.logs.fencing_token:
        # Without a token it is an operator's word.
        caller.require(method, Need.OPERATE, namespace)
    else:
        caller.require(method, Need.WORK, namespace)


async def _check_execution(
    backend: Backend, caller: Caller, method: str, need: Need, namespace: str, request: Any
) -> None:
    caller.require(method, need, namespace)
    if caller.allows_all(need, namespace):
        return
    # Only some workflows: which one it is, is not known yet.
    options = request.read if "read" in request.DESCRIPTOR.fields_by_name else common_pb2.ReadOptions()
    await backend.read_point(options)
    held = await backend.execution(namespace, request.workflow_id)
    if held is not None and not caller.sees(held, need):
        caller.note_hidden(method, need, namespace, held.execution.name)
        held = None
    if held is None:
        raise not_found("workflow", request.workflow_id)


def field(request: Any, path: str) -> Any:
    for name in path.split("."):
        request = getattr(request, name)
    return request


def _operation(number: int) -> str:
    try:
        return pb.WorkflowOperation.Name(number)  # type: ignore[arg-type]  # any number may come
    except ValueError:
        return ""


def shortfall(response: Any) -> str:
    """What of a bulk operation did not succeed; empty for all else."""
    if not isinstance(response, pb.OperateWorkflowsResponse) or not response.failed:
        return ""
    return f"{len(response.failed)} of {len(response.failed) + len(response.succeeded)} failed"
