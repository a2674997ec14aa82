"""What waits for workers, by queue: for people and scripts that watch queues.

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
    task: str = ""  # as far as something is in it
    workers: list[pb.TaskQueueWorker] = field(default_factory=list)


async def task_queues(
    state: State, polls: PollData, namespace: str, names: Collection[str]
) -> list[pb.TaskQueue]:
    """By name and domain, of these tasks or queues or of all. Counts may be of slightly different moments."""
    found: dict[tuple[str, str], _Queue] = {}

    def queue(name: str, domain: str, task: str = "") -> _Queue:
        one = found.setdefault((name, domain), _Queue())
        one.task = task or one.task
        return one

    for position, ready in enumerate(list(state.ready.values())):
        if position % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        if ready.namespace == namespace:
            one = queue(ready.queue or ready.name, ready.domain, ready.name)
            one.ready += 1
            one.oldest_ms = min(one.oldest_ms or ready.queued_ms, ready.queued_ms)
    for position, lease in enumerate(list(state.leases.values())):
        if position % _SLICE == _SLICE - 1:
            await asyncio.sleep(0)
        session = state.sessions.get((lease.session_id,))
        if lease.namespace == namespace:
            queue(lease.queue or lease.name, "" if session is None else session.domain, lease.name).leased += 1
    for session in list(state.sessions.values()):
        if session.namespace != namespace or session.kind is not SessionKind.STREAM:
            continue
        for name in session.task_names:
            worker = pb.TaskQueueWorker(worker_id=session.worker_id, slots=session.slots, used=session.used)
            queue(name, session.domain).workers.append(worker)
    for key in polls.queues(namespace):
        queue(key[2], key[1]).workers.extend(
            pb.TaskQueueWorker(worker_id=worker_id, last_poll_age_ms=age_ms)
            for worker_id, age_ms in sorted(polls.of(key).items())
        )
    return [
        _message(state, namespace, name, domain, each)
        for (name, domain), each in sorted(found.items())
        if not names or name in names or each.task in names
    ]


def _message(state: State, namespace: str, name: str, domain: str, queue: _Queue) -> pb.TaskQueue:
    head = state.queues.head((namespace, domain, name))
    task = queue.task or name
    limits = throttle.registered_limits(state, namespace, task)
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
        handed_out_in_window=throttle.handed_out(state, (namespace, task)) if limits.in_window else 0,
        worker_count=len(queue.workers),
        workers=list(islice(queue.workers, WORKERS_SHOWN)),
        queue=f"{domain}:{name}" if domain else name,
    )
