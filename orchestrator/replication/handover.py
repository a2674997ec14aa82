"""Leadership handed over on purpose, without waiting for an election timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container

from orchestrator.replication.core import SyncObj
from orchestrator.replication.frames import TimeoutNow
from orchestrator.replication.state import Role

# The target's progress is looked at this often; nothing else signals it.
LOOK_EVERY_S = 0.005


async def hand_over(
    raft: SyncObj,
    wait: Callable[[float], Awaitable[None]],
    among: Container[str] | None = None,
    rather_not: Container[str] = (),
) -> bool:
    """Lets the most caught-up follower catch up whole, then tells it to campaign; nothing may be appended meanwhile.

    `rather_not` are passed over if there is anybody else. With `among` it is the most caught-up one of those, if that
    lags little: there is no hurry then.
    """
    replicator = raft.replicator
    there = replicator.reachable(raft.clock.monotonic())
    if among is not None:
        there = {name for name in there if name in among and replicator.caught_up(name, 0)}
    candidates = [(name not in rather_not, raft.match_index(name), name) for name in raft.other_voters if name in there]
    if not candidates:
        return False
    target = max(candidates)[2]
    term = raft.term

    def leads() -> bool:
        return raft.role is Role.LEADER and raft.term == term

    try:
        async with asyncio.timeout(2 * raft.settings.election_timeout_max_ms / 1000):
            while leads() and raft.match_index(target) < raft.last_index:
                await wait(LOOK_EVERY_S)
            if leads():
                raft.send(target, TimeoutNow(term))
            while leads():
                await wait(LOOK_EVERY_S)
    except TimeoutError:
        pass
    return not leads()
