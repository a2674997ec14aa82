"""Which domains have somebody who takes tasks: an open session, or a poller that was seen a short while ago.

A domain of a taskToDomain list is chosen by it, so it has to be known to all replicas alike. Polls that find nothing
are not in the log, but for a note from time to time that there are such pollers; those of no domain are not noted, for
a list has NO_DOMAIN as its last.
"""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from orchestrator.engine import limits
from orchestrator.engine.model import Table, TimerKind
from orchestrator.engine.queues import QueueKey
from orchestrator.engine.resident import Poller, Timer
from orchestrator.engine.state import State
from orchestrator.engine.step import Step


def is_served(state: State, queue: QueueKey) -> bool:
    """Whether somebody has a session for the queue (namespace, domain, task name), or polls it."""
    return state.queues.serves(queue) or queue in state.resident[Table.POLLER]


def seen(step: Step, namespace: str, domain: str, names: tuple[str, ...]) -> None:
    """Somebody polls these queues. They are known for ten seconds from each of their polls, and some seconds longer."""
    if not domain:
        return
    for name in names:
        key = (namespace, domain, name)
        row = _row(step, key)
        if row is None:
            step.write(Table.POLLER, key, Poller(*key, step.now, _arm(step, key, step.now)))
        elif step.now - row.seen_ms >= limits.POLLS_NOTED_MS:
            step.write(Table.POLLER, key, replace(row, seen_ms=step.now))


def forget_unseen(step: Step, timer: Timer) -> None:
    """The time is over for which the poller is known, unless it was seen since."""
    key = (timer.namespace, timer.domain, timer.name)
    row = _row(step, key)
    if row is None or row.timer != timer.number:
        return
    if row.seen_ms + limits.POLLER_KNOWN_MS <= step.now:
        step.write(Table.POLLER, key, None)
    else:
        step.write(Table.POLLER, key, replace(row, timer=_arm(step, key, row.seen_ms)))


def _row(step: Step, key: QueueKey) -> Poller | None:
    return cast(Poller | None, step.state.resident[Table.POLLER].get(key))


def _arm(step: Step, key: QueueKey, seen_ms: int) -> int:
    namespace, domain, name = key
    number = step.timer_number()
    fire_ms = seen_ms + limits.POLLER_KNOWN_MS
    step.write(Table.TIMER, (number,), Timer(number, fire_ms, TimerKind.POLLER, namespace, "", 0, name, domain))
    return number
