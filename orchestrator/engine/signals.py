"""Signals: kept until a WAIT of their name takes them, the oldest first, whichever of the two comes first."""

from __future__ import annotations

from orchestrator.engine import attempts, blob_uses, inbox, limits
from orchestrator.engine.errors import LimitExceeded, has_ended, refuse
from orchestrator.engine.expressions import PayloadInvalid, check_payload
from orchestrator.engine.model import Signal, Table, TaskAttempt, TaskStatus, WorkflowStatus
from orchestrator.engine.payloads import check_room, store_brought
from orchestrator.engine.results import Code
from orchestrator.engine.scopes import load
from orchestrator.engine.step import Step


def take(step: Step, attempt: TaskAttempt) -> None:
    """A WAIT begins: it takes the oldest signal of its name, if there is one."""
    for number in sorted(step.hot.signals):
        signal = step.hot.signals[number]
        if signal.name == attempt.signal:
            attempts.complete_operator(step, attempt, signal.payload)
            step.write(Table.SIGNAL, (step.x.namespace, step.x.workflow_id, number), None)
            size = len(load(step.hot, signal.payload))
            step.change(signals=step.x.signals - 1, signal_bytes=step.x.signal_bytes - size)
            return


def give(step: Step, namespace: str, workflow_id: str, name: str, payload: bytes) -> None:
    """A signal has come: the WAIT that began first takes it, or it is kept. What is refused has changed nothing."""
    step.require(namespace, workflow_id)
    _check(name, payload)
    blob_uses.require(step, "payload", payload)
    if step.is_over:
        has_ended((step.x.ending or step.x.status).name)
    if step.phase is WorkflowStatus.COMPENSATING:
        refuse(Code.FAILED_PRECONDITION, "WORKFLOW_COMPENSATING", "the workflow is compensating: it takes no signals")
    size, waiting = len(payload), _waiting(step, name)
    try:
        check_room(step, size)
        blob_uses.check(step, payload)
    except LimitExceeded as exceeded:
        refuse(Code.RESOURCE_EXHAUSTED, "EXECUTION_TOO_LARGE", str(exceeded), limit="execution_bytes")
    is_full = step.x.signals - step.x.messages >= limits.SIGNALS or step.x.signal_bytes + size > limits.SIGNAL_BYTES
    if waiting is None and is_full:
        message = f"an execution keeps at most {limits.SIGNALS} signals and {limits.SIGNAL_BYTES} bytes of them"
        refuse(Code.RESOURCE_EXHAUSTED, "SIGNALS_FULL", message, limit="signals")
    number = step.x.next_number
    step.change(next_number=number + 1)
    kept = store_brought(step, payload)
    if waiting is not None:
        attempts.complete_operator(step, waiting, kept)
        return
    step.write(Table.SIGNAL, (namespace, workflow_id, number), Signal(number, name, kept, step.now))
    step.change(signals=step.x.signals + 1, signal_bytes=step.x.signal_bytes + size)


def _check(name: str, payload: bytes) -> None:
    if not 1 <= len(name) <= limits.NAME_CHARS:
        message = f"a signal's name has 1 to {limits.NAME_CHARS} characters"
        refuse(Code.INVALID_ARGUMENT, "SIGNAL_NAME_INVALID", message, field="name")
    if name.startswith(inbox.RESERVED):
        message = f"a signal's name can't begin with {inbox.RESERVED}"
        refuse(Code.INVALID_ARGUMENT, "SIGNAL_NAME_INVALID", message, field="name")
    try:
        check_payload(payload)
    except PayloadInvalid as error:
        refuse(Code.INVALID_ARGUMENT, "PAYLOAD_INVALID", f"payload: {error}", field="payload", limit=error.limit)


def _waiting(step: Step, name: str) -> TaskAttempt | None:
    for sequence in sorted(step.hot.open):
        attempt = step.hot.tasks[sequence]
        if attempt.signal == name and attempt.status is TaskStatus.IN_PROGRESS:
            return attempt
    return None
