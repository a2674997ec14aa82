"""Idempotency keys: one invocation of a workflow has one execution, whatever its id.

A key belongs to a workflow's name. It is known for as long as the newest execution that was started with it is kept,
and stands beside the workflow id: who names both is answered by the key first.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import cast

from orchestrator.engine import limits
from orchestrator.engine.choices import IdempotencyStrategy
from orchestrator.engine.errors import refuse
from orchestrator.engine.model import Table
from orchestrator.engine.resident import IdempotencyKey
from orchestrator.engine.results import Code, Started
from orchestrator.engine.step import Step
from orchestrator.engine.transitions import WORKFLOW_TERMINAL

_DIGEST_BYTES = 16


def prior(step: Step, namespace: str, name: str, key: str, strategy: IdempotencyStrategy) -> Started | None:
    """The execution to answer with; None if one is to be started. Refuses what the strategy refuses."""
    if len(key) > limits.IDEMPOTENCY_KEY_CHARS:
        message = f"an idempotency key may have {limits.IDEMPOTENCY_KEY_CHARS} characters"
        refuse(Code.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_TOO_LONG", message, field="idempotency_key")
    row = _row(step, _digest(namespace, name, key))
    if row is None or (strategy is IdempotencyStrategy.FAIL_ON_RUNNING and row.has_ended):
        return None
    if strategy is IdempotencyStrategy.RETURN_EXISTING:
        return Started(row.workflow_id, existing=True)
    message = f"workflow {name} was started with the idempotency key {key!r} as {row.workflow_id!r}"
    refuse(Code.ALREADY_EXISTS, "IDEMPOTENCY_KEY_TAKEN", message, workflow_id=row.workflow_id)


def keep(step: Step) -> None:
    """The step's execution, which has just begun, is the newest with its key."""
    x = step.x
    if x.idempotency_key:
        step.write(Table.IDEMPOTENCY, (_digest(x.namespace, x.name, x.idempotency_key),), IdempotencyKey(x.workflow_id))


def follow(step: Step) -> None:
    """The step's execution may have ended, or gone on after its end."""
    x = step.x
    if not x.idempotency_key:
        return
    digest = _digest(x.namespace, x.name, x.idempotency_key)
    row = _row(step, digest)
    has_ended = x.status in WORKFLOW_TERMINAL
    if row is not None and row.workflow_id == x.workflow_id and row.has_ended != has_ended:
        step.write(Table.IDEMPOTENCY, (digest,), IdempotencyKey(x.workflow_id, has_ended))


def forget(step: Step, namespace: str, name: str, key: str, workflow_id: str) -> None:
    """The execution is kept no longer: nor is its key, unless a newer one has it."""
    digest = _digest(namespace, name, key)
    row = _row(step, digest)
    if row is not None and row.workflow_id == workflow_id:
        step.write(Table.IDEMPOTENCY, (digest,), None)


def _row(step: Step, digest: bytes) -> IdempotencyKey | None:
    return cast(IdempotencyKey | None, step.state.resident[Table.IDEMPOTENCY].get((digest,)))


def _digest(*parts: str) -> bytes:
    # The lengths keep ("ab", "c") and ("a", "bc") apart.
    text = "".join([f"{len(part)}:{part}" for part in parts])
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES, person=b"idempotency").digest()
