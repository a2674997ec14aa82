"""What waits for workers, by task and domain: for people and scripts that watch queues.

Nothing here has to be repaired: a queue is rows of the state, and an attempt that waits is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice

from orchestrator.engine import throttle
from orchestrator.engine.definitions.model import NO_LIMITS
from orchestrator.engine.model import SessionKind
from orchestrator.engine.state import State
from orchestrator.rpc.poll_data import PollData
from orchestrator_api.v1 import workers_pb2 as pb

WORKERS_SHOWN = 20
# Counting goes on in slices, for consensus shares the loop.
_SLICE = 5_000


@dataclass
class _Queue:
    ready: int = 0
    leased: int = 0
    oldest_ms: int = 0
    workers: list[pb.TaskQueueWorker] = field(default_factory=list)


async def task_queues(
    state: State, polls: PollData, namespace: str, names: Collection[str]
) -> list[pb.TaskQueue]:
    """By task and domain, of these tasks or of all. Counts may be of slightly different moments."""
    found: dict[tuple[str, str], _Queue] = {}

    def queue(name: str, domain: str) -> _Queue | None:
        return found.setdefault((name, domain), _Queue()) if not names or name in names else None

    for position, ready in enumerate(list(state.ready.values())):
        if position % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        one = queue(ready.name, ready.domain) if ready.namespace == namespace else None
        if one is not None:
            one.ready += 1
            one.oldest_ms = min(one.oldest_ms or ready.queued_ms, ready.queued_ms)
    for position, lease in enumerate(list(state.leases.values())):
        if position % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        session = state.sessions.get((lease.session_id,))
        if lease.namespace == namespace:
            one = queue(lease.name, "" if session is None else session.domain)
            if one is not None:
                one.leased += 1
    for session in list(state.sessions.values()):
        if session.namespace != namespace or session.kind is not SessionKind.STREAM:
            continue
        for name in session.task_names:
            one = queue(name, session.domain)
            if one is not None:
                worker = pb.TaskQueueWorker(worker_id=session.worker_id, slots=session.slots, used=session.used)
                one.workers.append(worker)
    for key in polls.queues(namespace):
        one = queue(key[2], key[1])
        if one is not None:
            one.workers.extend(
                pb.TaskQueueWorker(worker_id=worker_id, last_poll_age_ms=age_ms)
                for worker_id, age_ms in sorted(polls.of(key).items())
            )
    return [_message(state, namespace, name, domain, each) for (name, domain), each in sorted(found.items())]


def _message(state: State, namespace: str, name: str, domain: str, queue: _Queue) -> pb.TaskQueue:
    head = state.queues.head((namespace, domain, name))
    limits = throttle.registered_limits(state, namespace, name)
    if limits is None:
        limits = NO_LIMITS if head is None else throttle.limits_of(state, head)
    age_ms = max(0, state.meta.log_time_ms - queue.oldest_ms) if queue.oldest_ms else 0
    return pb.TaskQueue(
        name=name,
        domain=domain,
        ready=queue.ready,
        leased=queue.leased,
        oldest_ready_age_ms=age_ms,
        held_back=head is not None and not throttle.has_room(state, head),
        concurrent_limit=limits.at_once,
        rate_limit=limits.in_window,
        rate_window_ms=limits.window_ms if limits.in_window else 0,
        handed_out_in_window=throttle.handed_out(state, (namespace, name)) if limits.in_window else 0,
        worker_count=len(queue.workers),
        workers=list(islice(queue.workers, WORKERS_SHOWN)),
    )
