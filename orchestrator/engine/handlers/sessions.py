"""Worker sessions: who takes which tasks, and how many at once."""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import leases, limits, pollers
from orchestrator.engine.commands import (
    CloseSession,
    ExpireSession,
    NotePollers,
    OpenSession,
    PollTasks,
    UpdateSession,
)
from orchestrator.engine.effects import SessionEnded
from orchestrator.engine.errors import refuse
from orchestrator.engine.messages import WorkerLost
from orchestrator.engine.model import SessionKind, Table
from orchestrator.engine.resident import Session
from orchestrator.engine.results import AnyResult, Code, Done, Polled, SessionOpened
from orchestrator.engine.step import Step


def open_session(step: Step, command: OpenSession) -> AnyResult:
    if step.state.sessions.get((command.session_id,)) is not None:
        return SessionOpened(command.session_id, existing=True)
    names = _names(command.task_names)
    _check_slots(command.slots)
    row = Session(
        command.session_id,
        command.kind,
        command.namespace,
        command.domain,
        command.worker_id,
        names,
        command.slots,
        0,
        command.timeout_ms,
        step.now,
    )
    step.write(Table.SESSION, (row.id,), row)
    step.freed_sessions[row.id] = None
    return SessionOpened(command.session_id, existing=False)


def update_session(step: Step, command: UpdateSession) -> AnyResult:
    session = _require(step, command.session_id)
    names = _names(command.task_names) if command.task_names else session.task_names
    _check_slots(command.slots)
    step.write(Table.SESSION, (session.id,), replace(session, task_names=names, slots=command.slots))
    step.freed_sessions[session.id] = None
    return Done()


def close_session(step: Step, command: CloseSession) -> AnyResult:
    _end(step, _require(step, command.session_id), "closed by the worker")
    return Done()


def expire_session(step: Step, command: ExpireSession) -> AnyResult:
    _end(step, _require(step, command.session_id), "nothing was heard of the worker", lost=True)
    return Done()


def _end(step: Step, session: Session, reason: str, *, lost: bool = False) -> None:
    for token in sorted(step.state.leases_of.get(session.id, ())):
        lease = step.state.leases[token,]
        leases.drop(step, lease)
        if not lease.fenced:
            step.send(WorkerLost(lease.namespace, lease.workflow_id, lease.task_sequence, token))
    step.write(Table.SESSION, (session.id,), None)
    step.effects.append(SessionEnded(session.id, reason, lost))


def poll_tasks(step: Step, command: PollTasks) -> AnyResult:
    names = _names(command.task_names)
    session = step.state.sessions.get((command.session_id,))
    if session is not None and session.kind is not SessionKind.POLL:
        refuse(Code.FAILED_PRECONDITION, "SESSION_OF_ANOTHER_KIND", "the session is that of a worker's stream")
    wanted = min(max(command.max_tasks, 1), limits.DELIVERED_TOGETHER)
    tokens: list[int] = []
    while len(tokens) < wanted:
        ready = leases.best_ready(step.state, command.namespace, command.domain, names)
        if ready is None:
            break
        if not ready.response_timeout_ms:
            ready = replace(ready, response_timeout_ms=limits.POLLED_RESPONSE_MS)
        tokens.append(leases.take(step, ready, command.session_id, command.worker_id))
    if tokens:
        used = len(tokens) + (0 if session is None else session.used)
        row = Session(
            command.session_id,
            SessionKind.POLL,
            command.namespace,
            command.domain,
            command.worker_id,
            names,
            used,
            used,
            0,
            step.now if session is None else session.opened_ms,
            tokens[-1],
        )
        step.write(Table.SESSION, (row.id,), row)
    return Polled(tuple(tokens))


def note_pollers(step: Step, command: NotePollers) -> AnyResult:
    pollers.seen(step, command.namespace, command.domain, _names(command.task_names))
    return Done()


def _require(step: Step, session_id: str) -> Session:
    session = step.state.sessions.get((session_id,))
    if session is None:
        refuse(Code.NOT_FOUND, "WORKER_SESSION_NOT_FOUND", f"there is no worker session {session_id!r}")
    return session


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    # Sorted, so that sessions of the same names are of one pool however they list them.
    distinct = tuple(sorted(dict.fromkeys(names)))
    if not 1 <= len(distinct) <= limits.TASK_NAMES:
        message = f"a worker takes 1 to {limits.TASK_NAMES} task names"
        refuse(Code.INVALID_ARGUMENT, "TASK_NAMES_INVALID", message, field="task_names")
    return distinct


def _check_slots(slots: int) -> None:
    if not 0 <= slots <= limits.SLOTS:
        refuse(Code.INVALID_ARGUMENT, "SLOTS_INVALID", f"slots are 0 to {limits.SLOTS}", field="slots")
