"""One operation on many executions: each by a command of its own, with an answer of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Any

from orchestrator.engine import commands
from orchestrator.engine.choices import DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import AnyCommand, RequestIdentity
from orchestrator.engine.identifiers import ALPHABET, ID_CHARS
from orchestrator.engine.results import Rejected
from orchestrator.replication.errors import EntryTooLarge, Overloaded
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import failure_of
from orchestrator.rpc.requests import (
    REASON_CHARACTERS_MAX,
    chosen,
    identity_of,
    in_range,
    namespace_of,
    required,
    text,
)
from orchestrator_api.v1 import common_pb2
from orchestrator_api.v1 import workflows_pb2 as pb

WORKFLOWS_MAX = 1_000
AT_ONCE_MAX = 100
_TIME_CHARS = 10

TERMINATE = {
    pb.TERMINATE_COMPENSATION_UNSPECIFIED: TerminateCompensation.UNSET,
    pb.TERMINATE_COMPENSATION_RUN: TerminateCompensation.RUN,
    pb.TERMINATE_COMPENSATION_SKIP: TerminateCompensation.SKIP,
}
DELETE = {
    pb.DELETE_EFFECTS_UNSPECIFIED: DeleteEffects.UNSET,
    pb.DELETE_EFFECTS_KEEP: DeleteEffects.KEEP,
    pb.DELETE_EFFECTS_COMPENSATE_FIRST: DeleteEffects.COMPENSATE_FIRST,
}
# What deleting does about completed steps, where only terminating was told.
_ALIKE = {
    TerminateCompensation.UNSET: DeleteEffects.UNSET,
    TerminateCompensation.RUN: DeleteEffects.COMPENSATE_FIRST,
    TerminateCompensation.SKIP: DeleteEffects.KEEP,
}
# Terminating need not go before deleting where it can't: deleting says what is to be said.
_TERMINATED_ENOUGH = frozenset(("WORKFLOW_ENDED", "WORKFLOW_COMPENSATING"))

Do = Callable[[AnyCommand], Awaitable[Rejected | None]]
"""Submits a command of one execution; answers its refusal."""

Operation = Callable[[Do, str, str, pb.OperateWorkflowsRequest], Awaitable[Rejected | None]]


def _simply(command: Callable[[str, str], AnyCommand]) -> Operation:
    async def operate(do: Do, namespace: str, workflow_id: str, request: pb.OperateWorkflowsRequest) -> Rejected | None:
        return await do(command(namespace, workflow_id))

    return operate


async def _terminate(
    do: Do, namespace: str, workflow_id: str, request: pb.OperateWorkflowsRequest
) -> Rejected | None:
    compensation = TERMINATE[request.compensation]
    return await do(commands.TerminateWorkflow(namespace, workflow_id, request.reason, compensation))


async def _delete(do: Do, namespace: str, workflow_id: str, request: pb.OperateWorkflowsRequest) -> Rejected | None:
    return await do(commands.DeleteWorkflow(namespace, workflow_id, DELETE[request.effects]))


async def _terminate_and_delete(
    do: Do, namespace: str, workflow_id: str, request: pb.OperateWorkflowsRequest
) -> Rejected | None:
    refused = await _terminate(do, namespace, workflow_id, request)
    if refused is not None and refused.reason not in _TERMINATED_ENOUGH:
        return refused
    effects = DELETE[request.effects] or _ALIKE[TERMINATE[request.compensation]]
    return await do(commands.DeleteWorkflow(namespace, workflow_id, effects))


async def _restart(do: Do, namespace: str, workflow_id: str, request: pb.OperateWorkflowsRequest) -> Rejected | None:
    latest = request.use_latest_definitions
    return await do(commands.RestartWorkflow(namespace, workflow_id, latest, DELETE[request.effects]))


async def _retry(do: Do, namespace: str, workflow_id: str, request: pb.OperateWorkflowsRequest) -> Rejected | None:
    return await do(commands.RetryWorkflow(namespace, workflow_id, request.resume_sub_workflows))


OPERATIONS: dict[Any, Operation] = {
    pb.WORKFLOW_OPERATION_PAUSE: _simply(commands.PauseWorkflow),
    pb.WORKFLOW_OPERATION_RESUME: _simply(commands.ResumeWorkflow),
    pb.WORKFLOW_OPERATION_RETRY: _retry,
    pb.WORKFLOW_OPERATION_RESTART: _restart,
    pb.WORKFLOW_OPERATION_TERMINATE: _terminate,
    pb.WORKFLOW_OPERATION_DELETE: _delete,
    pb.WORKFLOW_OPERATION_TERMINATE_AND_DELETE: _terminate_and_delete,
}


async def operate(backend: Backend, request: pb.OperateWorkflowsRequest) -> pb.OperateWorkflowsResponse:
    """Raises what makes the whole request fail: its shape, and that this node does not lead (any more).

    Whoever repeats it under its id gets the same answers for what was done before.
    """
    operation = chosen("operation", OPERATIONS, request.operation)
    chosen("compensation", TERMINATE, request.compensation)
    chosen("effects", DELETE, request.effects)
    text("reason", request.reason, REASON_CHARACTERS_MAX)
    namespace = namespace_of(request.namespace)
    identity_of(common_pb2.RequestIdentity(request_id=request.request_id))
    ids = _ids(request.workflow_ids)
    turns = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(workflow_id: str) -> pb.OperationFailure | None:
        async with turns:
            do = _submitter(backend, request.request_id, workflow_id)
            try:
                refused = await operation(do, namespace, workflow_id, request)
            except (Overloaded, EntryTooLarge) as error:
                failure = failure_of(error, backend.addresses)
                return _failure(workflow_id, failure.code.value[0], failure.reason, failure.message)
        if refused is None:
            return None
        return _failure(workflow_id, int(refused.code), refused.reason, refused.message)

    backend.require_leading()
    outcomes = await asyncio.gather(*(one(workflow_id) for workflow_id in ids), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    failed = {workflow_id: outcome for workflow_id, outcome in zip(ids, outcomes, strict=True) if outcome is not None}
    return pb.OperateWorkflowsResponse(
        succeeded=[workflow_id for workflow_id in ids if workflow_id not in failed],
        failed=[outcome for outcome in failed.values() if isinstance(outcome, pb.OperationFailure)],
    )


def _ids(given: Sequence[str]) -> list[str]:
    in_range("workflow_ids", len(given), 1, WORKFLOWS_MAX)
    return list(dict.fromkeys(required(f"workflow_ids[{at}]", value) for at, value in enumerate(given)))


def _submitter(backend: Backend, request_id: str, workflow_id: str) -> Do:
    done = 0

    async def do(command: AnyCommand) -> Rejected | None:
        nonlocal done
        done += 1
        identity = RequestIdentity(request_id=derived_id(request_id, workflow_id, done)) if request_id else None
        result = await backend.submit_any(command, identity)
        return result if isinstance(result, Rejected) else None

    return do


def derived_id(request_id: str, workflow_id: str, number: int) -> str:
    """The id of one command of a request: of the same time, and the same whenever it is asked for."""
    digest = blake2b(f"{request_id} {number} {workflow_id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    letters = "".join(ALPHABET[byte & 31] for byte in digest)
    return request_id[:_TIME_CHARS] + letters[: ID_CHARS - _TIME_CHARS]


def _failure(workflow_id: str, code: int, reason: str, message: str) -> pb.OperationFailure:
    return pb.OperationFailure(workflow_id=workflow_id, code=code, reason=reason, message=message)
