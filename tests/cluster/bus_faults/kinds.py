"""The faults. Each takes a session whose crowd is at work, and leaves it so, with everything running again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import redis

from tests.cluster.bus_faults.crowd import ANSWERS, IN
from tests.cluster.bus_faults.session import Session, position
from tests.cluster.workload import eventually

GROUP = "orchestrator:default"
# Events that are written before the nodes see that Redis has begun anew.
NEW = 10
Fault = Callable[[Session], Awaitable[None]]


async def _a_while(session: Session) -> None:
    """What needs no Redis goes on."""
    await session.crowd.progress(session.dice.choice((10, 20, 100)))


async def kill_redis(session: Session) -> None:
    """What it is owed meanwhile is seen."""
    session.redis.kill()
    await _a_while(session)
    await session.backlog_is_visible()
    await session.backlog_is_measured()
    session.redis.start()


async def kill_leader(session: Session) -> None:
    leader = await session.cluster.wait_leader()
    await session.cluster.kill_node(leader)
    await session.crowd.progress()
    session.cluster.start_node(leader)


async def kill_both(session: Session) -> None:
    """First the one, then, before or after it is back, the other."""
    leader = await session.cluster.wait_leader()
    kills = [session.redis.kill, lambda: session.cluster.kill_node(leader)]
    session.dice.shuffle(kills)
    for kill in kills:
        done = kill()
        if done is not None:
            await done
        await asyncio.sleep(session.dice.choice((0.0, 0.05, 0.5)))  # one fault within the other
    session.redis.start()
    session.cluster.start_node(leader)
    await session.crowd.progress()


async def kill_all(session: Session) -> None:
    """The whole cluster, at once."""
    for name in session.cluster.nodes:
        await session.cluster.kill_node(name)
    for name in session.cluster.nodes:
        session.cluster.start_node(name)
    await session.crowd.progress()


async def pause_leader(session: Session) -> None:
    """Afterwards it believes for a moment that it leads, and holds entries that it was given before."""
    leader = await session.cluster.wait_leader()
    session.cluster.pause(leader)
    await session.cluster.wait_leader(other_than=leader)
    await session.crowd.progress(10)
    session.cluster.resume(leader)


async def pause_redis(session: Session) -> None:
    session.redis.pause()
    await _a_while(session)
    await session.backlog_is_visible()
    session.redis.resume()


# --- the network


async def cut(session: Session) -> None:
    session.gate.cut()
    await _a_while(session)
    await session.backlog_is_visible()
    session.gate.heal()


async def swallow(session: Session) -> None:
    """Nothing arrives, and nobody is told; what was sent may arrive in the end."""
    session.gate.hold()
    await _a_while(session)
    await session.backlog_is_visible()
    session.gate.heal(late=session.dice.random() < 0.6)


async def late_words(session: Session) -> None:
    """What a leader has said to Redis arrives when the leader is dead, and the next one has long said it again."""
    leader = await session.cluster.wait_leader()
    session.gate.hold()
    await _a_while(session)
    await session.cluster.kill_node(leader)
    await session.crowd.progress(10)
    session.gate.heal()
    session.cluster.start_node(leader)


# --- Redis does what it should not


async def deliver_again(session: Session) -> None:
    """Redis hands out once more what it has handed out, and what was acknowledged."""
    await _groups(session, "SETID", "0")
    await session.crowd.progress(10)


async def put_ahead(session: Session) -> None:
    """Redis takes for delivered what it has never handed out."""
    for _ in range(3):
        await _groups(session, "SETID", "$")
        # What is written now waits to be read.
        session.gate.hold()
        await session.crowd.progress(4)
        await _groups(session, "SETID", "$")
        session.gate.heal()
        await session.crowd.progress(4)


async def destroy_group(session: Session) -> None:
    await _groups(session, "DESTROY")
    await session.crowd.progress(10)


async def _groups(session: Session, command: str, *words: str) -> None:
    """As soon as there are any, which the nodes make, and make again."""
    def done(stream: str) -> bool:
        try:
            session.redis.command("XGROUP", command, stream, GROUP, *words)
        except redis.ResponseError:
            return False
        return True

    for stream in (IN, ANSWERS):
        await eventually(lambda stream=stream: done(stream), f"the group of {stream}")


async def lose_data(session: Session) -> None:
    """Redis begins anew. What was written and not taken up is lost, unless its publisher writes it again."""
    await _lose(session, _restart)


async def flush(session: Session) -> None:
    """The same while it runs on."""
    await _lose(session, lambda session: session.redis.command("FLUSHALL"))


async def turn_back(session: Session) -> None:
    """Redis begins anew, with a clock that was set back: the ids of entries are smaller than those before."""
    await _lose(session, _restart, first_ms=1)


def _restart(session: Session) -> None:
    session.redis.restart(keep_data=False)


async def _lose(session: Session, lose: Callable[[Session], Any], first_ms: int = 0) -> None:
    crowd = session.crowd
    taken = await session.cursor()
    session.gate.cut()
    await crowd.pause(answers=False)
    # Redis has dealt with all that has reached it before, as it answers in turn.
    for _ in range(2):
        session.redis.command("PING")
    await session.reading.catch_up()
    # These may have been taken up, or be in Redis alone.
    doubtful = [each for each, entry_id in (crowd.written | crowd.poison).items()
                if not entry_id or position(entry_id) > taken]
    lose(session)
    session.reading.begin_anew()
    is_told = session.dice.random() < 0.5
    again = [each for each in doubtful if is_told and each in crowd.written and crowd.has_id(each)]
    session.judge.excused |= set(doubtful) - set(again)
    await crowd.write(again, NEW, first_ms=first_ms)
    session.gate.heal()
    if first_ms:
        # Ids with which the clock is right again would hide those from whoever has not looked yet.
        await session.judge.events_taken()
    crowd.answer_again()
    crowd.resume()
    await crowd.progress(10)


FAULTS: dict[str, Fault] = {fault.__name__: fault for fault in (
    kill_redis, kill_leader, kill_both, kill_all, pause_leader, pause_redis, cut, swallow, late_words, deliver_again,
    put_ahead, destroy_group, lose_data, flush, turn_back)}
