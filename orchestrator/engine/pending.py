"""What is owed to the world, derived from the state: what a new leader asks first."""

from __future__ import annotations

from orchestrator.engine.effects import Cancel, Deliver, TaskQueued
from orchestrator.engine.leases import cancel_effect
from orchestrator.engine.queues import queue_of
from orchestrator.engine.resident import Lease
from orchestrator.engine.state import State


def effects_owed(state: State) -> list[Deliver | Cancel | TaskQueued]:
    """Every lease is to be delivered or cancelled, every ready attempt is to be watched, in order of their numbers.

    A worker that has the attempt already recognises it by its token.
    """
    owed: list[Deliver | Cancel | TaskQueued] = []
    for _, lease in sorted(state.leases.items()):
        owed.extend(_owed_for(state, lease))
    for _, ready in sorted(state.ready.items()):
        owed.append(TaskQueued(ready.number, *queue_of(ready), ready.poll_timeout_ms))
    return owed


def effects_owed_to(state: State, session_id: str) -> list[Deliver | Cancel]:
    """The part of `effects_owed` that concerns one session's leases."""
    leases = [state.leases[token,] for token in sorted(state.leases_of.get(session_id, ()))]
    return [effect for lease in leases for effect in _owed_for(state, lease)]


def _owed_for(state: State, lease: Lease) -> list[Deliver | Cancel]:
    if lease.fenced:
        return [cancel_effect(lease, "the attempt has ended", fenced=True)]
    if not lease.started:
        return []
    deliver = Deliver(lease.session_id, lease.token, lease.namespace, lease.workflow_id, lease.task_sequence)
    if not lease.settling:
        return [deliver]
    return [deliver, cancel_effect(lease, "the workflow is compensating", fenced=False)]
