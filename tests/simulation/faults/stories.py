"""Faults that follow from each other, as when a network fails by and by: each is a chain of events that is unlikely to
come about by faults that know nothing of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator.testing.network import Direction
from tests.simulation.cluster import Member
from tests.simulation.faults.occasion import Kind, Occasion, names

# For which a run needs as many: two sides that are no majority each, and somebody between them.
MANY = 5
LOOK_SECONDS = 0.005


def _apart(one: Member, others: list[Member]) -> list[Direction]:
    return [pair for other in others for pair in ((other.name, one.name), (one.name, other.name))]


async def _leader_sleeps(it: Occasion) -> None:
    """The leader stands still, and when it goes on it hears its callers, and nobody who could say who leads now."""
    leaders = it.cluster.leaders()
    if len(leaders) != 1:
        return
    leader = leaders[0]
    others = [member for member in it.shuffled(it.cluster.voters()) if member is not leader]
    asleep, alone = 0.5 + it.dice.expovariate(1.5), it.dice.random()
    it.does(f"{leader.name} for {asleep:.2f} s, and then it hears no other node for {alone:.2f} s")
    directions = _apart(leader, others)
    it.cluster.network.block(directions)
    leader.machine.pause()
    await it.hold([leader], asyncio.sleep(asleep))
    leader.machine.resume()
    await asyncio.sleep(alone)
    it.cluster.network.unblock(directions)


async def _late_answers(it: Occasion) -> None:
    """What one follower answers to the leader is held up, until that one has lost the lead and got it back.

    Meanwhile nobody else hears the leader, so the others elect another one, which overwrites what only those two have.
    Callers find the first leader only, so that what it wrote is more than what the others put in its place. When the
    answers come, it reaches one other node only: less than a majority, unless it believes them.
    """
    leaders = it.cluster.leaders()
    followers = [member for member in it.shuffled(it.cluster.voters()) if member not in leaders]
    if len(leaders) != 1 or len(followers) < MANY - 1:
        return
    leader = leaders[0]
    slow, near, *others = followers
    late = [(slow.name, leader.name)]
    unfound = [(person, other.name) for person in it.cluster.people for other in followers]
    it.does(f"{leader.name} hears {slow.name} late and is cut off from {names([near, *others])}")
    it.cluster.network.block([*late, *unfound])
    await _while_blocked(it, _apart(leader, [near, *others]), lambda: bool(_others_lead(it, leader)), 2.0)
    await _hand_back(it, leader)
    it.cluster.network.unblock([*late, *unfound])
    it.does(f"{names(it.cluster.leaders())} leads when the answers come, and {leader.name} reaches {near.name}")
    unheard = [(leader.name, other.name) for other in (slow, *others)]
    await _while_blocked(it, unheard, lambda: False, 0.2 + it.dice.random())


async def _alone_with_a_learner(it: Occasion) -> None:
    """A leader hears no member for a while, only a learner that it sends its log to: who has no vote does not count."""
    for _ in range(int(3 / LOOK_SECONDS)):
        for leader in it.cluster.leaders():
            assert leader.node is not None
            learners = leader.node.log._core.learners
            if learners and len(it.cluster.leaders()) == 1:
                others = [other for other in it.cluster.members.values() if other.name not in learners]
                seconds = 0.2 + it.dice.random()
                it.does(f"{leader.name} with {' '.join(sorted(learners))} for {seconds:.2f} s")
                await _while_blocked(it, _apart(leader, others), lambda: False, seconds)
                return
        await asyncio.sleep(LOOK_SECONDS)


async def _hand_back(it: Occasion, leader: Member) -> None:
    """Whoever leads hands over until it is the one."""
    for _ in range(50):
        for member in _others_lead(it, leader):
            assert member.node is not None
            handing = member.machine.spawn(member.node.log.transfer_leadership({leader.name}), "hand over")
            await asyncio.wait([handing], timeout=1)
        await asyncio.sleep(LOOK_SECONDS)
        if it.cluster.leaders() == [leader]:
            return


def _others_lead(it: Occasion, leader: Member) -> list[Member]:
    return [member for member in it.cluster.leaders() if member is not leader]


async def _while_blocked(
    it: Occasion, directions: list[Direction], enough: Callable[[], bool], seconds: float
) -> None:
    """Nothing passes until it is enough, or the time is over."""
    it.cluster.network.block(directions)
    for _ in range(int(seconds / LOOK_SECONDS)):
        if enough():
            break
        await asyncio.sleep(LOOK_SECONDS)
    it.cluster.network.unblock(directions)


KINDS: dict[str, Kind] = {"leader_sleeps": _leader_sleeps}
# Of runs in which members come and go.
OF_CHANGING: dict[str, Kind] = {"alone_with_a_learner": _alone_with_a_learner}
OF_MANY: dict[str, Kind] = {"late_answers": _late_answers}
