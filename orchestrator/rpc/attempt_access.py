"""Whose attempts a worker may say something of: those of tasks that it may execute, whoever holds them.

Fencing tokens are numbers, and whoever reads executions sees them: knowing one is no right. What counts is the task of
the lease that the token is of. A token without a lease changes nothing; what is said of it is judged only if it is, or
was, that of the attempt which is named, lest it become another's until that is applied.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.access.roles import Need
from orchestrator.engine import commands, system
from orchestrator.engine.log_commands import AddTaskLogs
from orchestrator.engine.resident import Lease
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.caller import Caller
from orchestrator.rpc.errors import RpcFailure
from orchestrator_api.v1 import workers_pb2 as pb

REFUSED = "PERMISSION_DENIED: the task is not one that this worker may execute"


def allows(caller: Caller, lease: Lease) -> bool:
    """Whether the caller may execute what is leased; a task is meant by its own name, or by that of its queue."""
    if system.is_queue(lease.name):
        return caller.allows(Need.SYSTEM_WORK, "")
    return caller.allows(Need.WORK, lease.namespace, lease.name) or (
        bool(lease.queue) and caller.allows(Need.WORK, lease.namespace, lease.queue)
    )


def require_tasks(caller: Caller, method: str, namespace: str, names: Iterable[str]) -> None:
    """Raises RpcFailure unless the caller may execute all of them."""
    if caller.is_free:
        return
    if namespace == system.NAMESPACE:
        caller.require(method, Need.SYSTEM_WORK)
        return
    for name in names:
        caller.require(method, Need.WORK, namespace, name)


def session_refusal(backend: Backend, caller: Caller, method: str, session_id: str) -> RpcFailure | None:
    """Why the caller may not carry the session, which another may have opened: for what it serves, or has."""
    state = backend.state()
    session = state.sessions.get((session_id,))
    if caller.is_free or session is None:
        return None
    try:
        require_tasks(caller, method, session.namespace, session.task_names)
    except RpcFailure as failure:
        return failure
    for token in state.leases_of.get(session_id, ()):
        lease = state.leases[token,]
        if not allows(caller, lease):
            return caller.refusal(method, Need.WORK, lease.namespace, lease.name)
    return None


def may_complete(backend: Backend, caller: Caller, token: int) -> bool:
    """Whether nothing has to be looked at, as for almost every result; see `unfit` for the others."""
    if caller.is_free:
        return True
    lease = backend.state().leases.get((token,))
    return lease is not None and allows(caller, lease)


def may_touch(backend: Backend, caller: Caller, token: int) -> bool:
    """Whether the caller may say something of the attempt with this token. Without a lease nothing comes of it."""
    lease = backend.state().leases.get((token,))
    return lease is None or allows(caller, lease)


async def unfit(
    backend: Backend, caller: Caller, method: str, said: commands.CompleteTask | AddTaskLogs
) -> pb.TaskVerdict | None:
    """The verdict on what the caller may not say, or what can't be of any attempt of its own; None: submit it."""
    if caller.is_free:
        return None
    token = said.fencing_token
    lease = backend.state().leases.get((token,))
    if lease is not None:
        if allows(caller, lease):
            return None
        need = Need.SYSTEM_WORK if system.is_queue(lease.name) else Need.WORK
        caller.note_hidden(method, need, lease.namespace, lease.name)
        return _verdict(said, pb.VERDICT_INVALID, REFUSED)
    if caller.allows_all(Need.WORK, said.namespace):
        return None
    held = await backend.execution(said.namespace, said.workflow_id)
    sequence = None if held is None else held.by_task_id.get(said.task_id)
    if held is None or sequence is None:
        return _verdict(said, pb.VERDICT_UNKNOWN, "there is no such attempt")
    attempt = held.tasks[sequence]
    if token and token in (attempt.fencing_token, attempt.reported_by):
        return None
    return _verdict(said, pb.VERDICT_FENCED, "the attempt is not leased with this token")


def _verdict(said: commands.CompleteTask | AddTaskLogs, verdict: Any, message: str) -> pb.TaskVerdict:
    return pb.TaskVerdict(task_id=said.task_id, fencing_token=said.fencing_token, verdict=verdict, message=message)
