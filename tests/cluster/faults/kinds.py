"""The faults. Each is done under load, takes its parameters from dice, and answers the pause that clients saw.

A pause of 0 is one that was not measured: nothing is expected of a cluster under that fault but to survive it. Nodes
that are down, paused or cut off at its end come back afterwards.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from orchestrator.verify.machines.cluster import FaultyCluster, NetworkedCluster
from tests.cluster.faults.session import Session, now
from tests.cluster.workload import eventually

Fault = Callable[[Session, random.Random], Awaitable[float]]
UNMEASURED = 0.0
# Short of and beyond what makes the others elect another leader.
PAUSES_S = (0.1, 0.4, 1.0, 2.5)
# Cuts last for longer than it takes to notice them.
LASTS_S = (1.0, 4.0)
INSTALLS = 3
NEEDED_S = 8


async def _leader(session: Session) -> str:
    return await session.cluster.wait_leader(timeout_s=60)


async def _follower(session: Session, dice: random.Random) -> str:
    leader = await _leader(session)
    return dice.choice([name for name in session.cluster.nodes if name != leader])


async def _last(dice: random.Random, longest_s: float = 2.0) -> None:
    """The fault has to last."""
    await asyncio.sleep(dice.uniform(0, longest_s))


# ---- processes


async def kill_leader(session: Session, dice: random.Random) -> float:
    leader = await _leader(session)
    at = now()
    await session.cluster.kill_node(leader)
    pause_s = await session.resumed(at)
    await _last(dice)
    return pause_s


async def kill_follower(session: Session, dice: random.Random) -> float:
    at = now()
    await session.cluster.kill_node(await _follower(session, dice))
    pause_s = await session.resumed(at)
    await _last(dice)
    return pause_s


async def kill_majority(session: Session, dice: random.Random) -> float:
    names = dice.sample(list(session.cluster.nodes), len(session.cluster.nodes) // 2 + 1)
    at = now()
    await asyncio.gather(*map(session.cluster.kill_node, names))
    await _last(dice, 1.0)
    for name in names:
        session.cluster.start_node(name)
    return await session.resumed(at)


async def kill_all(session: Session, dice: random.Random) -> float:
    """At once. Perhaps the leader comes back last, when the others have had time to go on without it."""
    leader = await _leader(session)
    at = now()
    for name in session.cluster.nodes:
        session.cluster.pause(name)
    for name in session.cluster.nodes:
        await session.cluster.kill_node(name)
    late = {leader} if dice.randrange(2) else set()
    for name in dice.sample(list(session.cluster.nodes), len(session.cluster.nodes)):
        if name not in late:
            session.cluster.start_node(name)
            await _last(dice, 0.5)
    if late:
        await session.resumed(at)
        session.cluster.start_node(leader)
    return await session.resumed(at)


async def kill_again(session: Session, dice: random.Random) -> float:
    """The leader, and the next one as soon as it leads, while the first comes back."""
    at = now()
    for _ in range(2):
        leader = await _leader(session)
        await session.cluster.kill_node(leader)
        session.cluster.start_node(leader)
    return await session.resumed(at)


async def kill_installing(session: Session, dice: random.Random) -> float:
    """A follower that was away for long is killed, again and again, while it is sent a snapshot or installs it."""
    follower = await _follower(session, dice)
    await session.cluster.kill_node(follower)
    await session.progress(dice.randrange(150, 400))
    for _ in range(INSTALLS):
        sent = _snapshots(session.cluster, "sends a snapshot")
        session.cluster.start_node(follower)
        try:
            await eventually(lambda sent=sent: _snapshots(session.cluster, "sends a snapshot") > sent,  # type: ignore[misc]  # the default binds it
                             "a snapshot to be sent", NEEDED_S)
        except AssertionError:
            session.tally.counts["installs not needed"] += 1
        await _last(dice, 0.15)
        await session.cluster.kill_node(follower)
        session.tally.counts["installs struck"] += 1
        await session.progress(100)
    return UNMEASURED


async def pause_leader(session: Session, dice: random.Random) -> float:
    leader = await _leader(session)
    at = now()
    session.cluster.pause(leader)
    pause_s = await session.resumed(at)
    await _last(dice)
    return pause_s


async def pause_briefly(session: Session, dice: random.Random) -> float:
    """Whoever; the leader may or may not lose its office."""
    name = dice.choice([await _leader(session), *session.cluster.nodes])
    at = now()
    session.cluster.pause(name)
    await asyncio.sleep(dice.choice(PAUSES_S))
    session.cluster.resume(name)
    return await session.resumed(at)


async def pause_follower(session: Session, dice: random.Random) -> float:
    at = now()
    session.cluster.pause(await _follower(session, dice))
    pause_s = await session.resumed(at)
    await _last(dice)
    return pause_s


async def pause_all(session: Session, dice: random.Random) -> float:
    at = now()
    for name in session.cluster.nodes:
        session.cluster.pause(name)
    await asyncio.sleep(dice.choice(PAUSES_S))
    for name in dice.sample(list(session.cluster.nodes), len(session.cluster.nodes)):
        session.cluster.resume(name)
    return await session.resumed(at)


async def stop_leader(session: Session, dice: random.Random) -> float:
    """SIGTERM: it hands over."""
    leader = await _leader(session)
    at = now()
    if (code := await session.cluster.stop_node(leader, timeout_s=60)) != 0:
        raise AssertionError(f"node {leader} stopped with exit code {code}\n{session.cluster.nodes[leader].log_tail()}")
    return await session.resumed(at)


async def kill_worker(session: Session, dice: random.Random) -> float:
    """And perhaps the leader, at once."""
    await session.crowd.kill_worker()
    if dice.randrange(2):
        return await kill_leader(session, dice)
    return UNMEASURED


async def kill_client(session: Session, dice: random.Random) -> float:
    """And perhaps the leader, at once."""
    killing = asyncio.create_task(session.crowd.kill_client())
    pause_s = await kill_leader(session, dice) if dice.randrange(2) else UNMEASURED
    await killing
    return pause_s


# ---- networks


def _network(session: Session) -> NetworkedCluster:
    assert isinstance(session.cluster, NetworkedCluster)
    return session.cluster


async def _cut(session: Session, dice: random.Random, *directions: tuple[str, str]) -> float:
    cluster = _network(session)
    assert cluster.namespaces is not None
    at = now()
    await cluster.namespaces.cut(*directions)
    return await _goes_on(session, dice, at)


async def _goes_on(session: Session, dice: random.Random, at: float) -> float:
    """There is a majority that hears itself: the cluster works while the fault lasts."""
    pause_s = await session.resumed(at)
    await asyncio.sleep(dice.uniform(*LASTS_S))
    await session.progress()
    return pause_s


def _between(some: list[str], others: list[str]) -> list[tuple[str, str]]:
    return [pair for one in some for other in others for pair in ((one, other), (other, one))]


async def partition_leader(session: Session, dice: random.Random) -> float:
    """With as many others as are not a majority."""
    leader = await _leader(session)
    others = dice.sample([name for name in session.cluster.nodes if name != leader], len(session.cluster.nodes) - 1)
    few = (len(session.cluster.nodes) - 1) // 2 - 1
    return await _cut(session, dice, *_between([leader, *others[:few]], others[few:]))


async def partition_follower(session: Session, dice: random.Random) -> float:
    follower = await _follower(session, dice)
    others = [name for name in session.cluster.nodes if name != follower]
    return await _cut(session, dice, *_between([follower], others))


async def leader_unheard(session: Session, dice: random.Random) -> float:
    """It hears the others, and they do not hear it."""
    leader = await _leader(session)
    return await _cut(session, dice, *((leader, name) for name in session.cluster.nodes if name != leader))


async def leader_deaf(session: Session, dice: random.Random) -> float:
    """It is heard, and hears nobody."""
    leader = await _leader(session)
    return await _cut(session, dice, *((name, leader) for name in session.cluster.nodes if name != leader))


async def one_way(session: Session, dice: random.Random) -> float:
    """Between two, in one direction."""
    source, target = dice.sample(list(session.cluster.nodes), 2)
    return await _cut(session, dice, (source, target))


async def bridge(session: Session, dice: random.Random) -> float:
    """One sees all; the others are in two groups that do not see each other."""
    names = dice.sample(list(session.cluster.nodes), len(session.cluster.nodes))
    half = (len(names) - 1) // 2
    return await _cut(session, dice, *_between(names[1 : 1 + half], names[1 + half :]))


async def ring(session: Session, dice: random.Random) -> float:
    """Of five, each sees its two neighbours only: always a majority, and never the same."""
    names = dice.sample(list(session.cluster.nodes), len(session.cluster.nodes))
    far = [(names[a], names[b]) for a in range(len(names)) for b in range(len(names))
           if (a - b) % len(names) not in (0, 1, len(names) - 1)]
    return await _cut(session, dice, *far)


async def clients_cut(session: Session, dice: random.Random) -> float:
    """Clients do not reach the leader, which the other nodes do; nothing can be acknowledged until that is over."""
    cluster = _network(session)
    assert cluster.namespaces is not None
    at = now()
    await cluster.namespaces.cut(clients_from=[await _leader(session)])
    await asyncio.sleep(dice.uniform(0.5, 4.0))
    await cluster.namespaces.heal()
    await session.resumed(at)
    return UNMEASURED


async def loss(session: Session, dice: random.Random) -> float:
    """Packets between the nodes are lost; perhaps the leader is killed meanwhile."""
    cluster = _network(session)
    assert cluster.namespaces is not None
    names = dice.choice([list(cluster.nodes), [await _leader(session)], [await _follower(session, dice)]])
    await cluster.namespaces.lose(dice.choice((10, 50, 100, 250)), names)
    await asyncio.sleep(dice.uniform(1.0, 5.0))
    if dice.randrange(3) == 0:
        await session.cluster.kill_node(await _leader(session))
    await _last(dice)
    return UNMEASURED


async def delay(session: Session, dice: random.Random) -> float:
    """Some directions are slow; perhaps the leader is killed meanwhile."""
    cluster = _network(session)
    names = dice.choice([list(cluster.nodes), [await _leader(session)], [await _follower(session, dice)]])
    slow = [pair for pair in _between(names, list(cluster.nodes)) if pair[0] != pair[1]]
    if dice.randrange(2):
        slow = [pair for pair in slow if dice.randrange(2)]
    delay_ms = dice.choice((5, 25, 60, 120))
    cluster.relay.delay(dict.fromkeys(slow, delay_ms), jitter_ms=delay_ms / 2)
    await asyncio.sleep(dice.uniform(1.0, 4.0))
    if dice.randrange(3) == 0:
        await session.cluster.kill_node(await _leader(session))
    await session.progress()
    return UNMEASURED


async def held_back(session: Session, dice: random.Random) -> float:
    """What the leader says to the others, or they to it, is on its way for seconds, on connections that stay open."""
    cluster = _network(session)
    leader = await _leader(session)
    others = [name for name in cluster.nodes if name != leader]
    held: list[tuple[str, str]] = [(leader, name) for name in others]
    if dice.randrange(2):
        held = [(target, source) for source, target in held]
    at = now()
    cluster.relay.delay(dict.fromkeys(held))
    return await _goes_on(session, dice, at)


async def heal(cluster: FaultyCluster) -> None:
    """The network is as before."""
    if isinstance(cluster, NetworkedCluster):
        assert cluster.namespaces is not None
        cluster.relay.delay({})
        await cluster.namespaces.heal()


def _snapshots(cluster: FaultyCluster, said: str) -> int:
    return sum(node.log_file.read_bytes().count(said.encode()) for node in cluster.nodes.values())


# Fault -> its weight among those of a seed.
PROCESSES: dict[Fault, int] = {
    kill_leader: 16, kill_all: 4, kill_installing: 3, kill_majority: 2, kill_again: 2, kill_follower: 1,
    pause_leader: 3, pause_follower: 1, pause_all: 2, pause_briefly: 2, stop_leader: 1, kill_worker: 2, kill_client: 1,
}
NETWORKS: dict[Fault, int] = {
    partition_leader: 4, partition_follower: 2, leader_unheard: 3, leader_deaf: 3, one_way: 2, bridge: 3,
    clients_cut: 1, loss: 3, delay: 3, held_back: 3, kill_leader: 5, kill_all: 1, pause_leader: 1,
}
OF_FIVE: dict[Fault, int] = {ring: 5}
