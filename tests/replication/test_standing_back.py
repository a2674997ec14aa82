"""A node that stands back leaves the lead to others, as long as one of them can have it; it votes as ever."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from tests.replication.cluster import Cluster, Node, wait_until, within


def is_drained(node: Node, others: list[Node]) -> bool:
    return all(other.log.peer_gossip().get(node.name, {}).get("drained") for other in others)


def is_in_service(node: Node, other: Node) -> bool:
    return not is_drained(node, [other])


async def drained(cluster: Cluster, *nodes: Node) -> None:
    for node in nodes:
        node.log.stand_back("drained", True)
        node.log.set_gossip({"drained": 1, "stands_back": 1})
    for node in nodes:
        others = [other for other in cluster.others(node) if not other.log._stopped]
        await wait_until(f"{node.name} to be known as drained", partial(is_drained, node, others))


async def test_who_stands_back_does_not_lead_while_another_can(tmp_path: Path) -> None:
    """Killed again and again, the lead goes to the same node, which would be chance one time in sixteen."""
    async with Cluster(tmp_path) as cluster:
        for _ in range(4):
            await cluster.put(b"x")
            leader = await cluster.leader()
            stands_back, other = cluster.others(leader)
            await cluster.converged()
            await drained(cluster, stands_back)
            await leader.kill()
            assert await cluster.leader([stands_back, other]) is other
            stands_back.log.stand_back("drained", False)
            stands_back.log.set_gossip({})
            await leader.start()
            await cluster.converged()


async def test_the_only_ones_that_are_left_lead_though_they_stand_back(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        leader = await cluster.leader()
        left = cluster.others(leader)
        await drained(cluster, *left)
        await leader.kill()
        await cluster.put(b"y", left)
        await leader.start()
        await cluster.converged()


async def test_who_lacks_entries_does_not_keep_the_one_that_has_them_waiting_for_long(tmp_path: Path) -> None:
    """The dead leader and the node that stands back have an entry that the third lacks: nobody else can lead."""
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        leader = await cluster.leader()
        stands_back, lacks = cluster.others(leader)
        await cluster.converged()
        await drained(cluster, stands_back)
        cluster.network.isolate(lacks.name)
        await cluster.put(b"y", [leader, stands_back])
        await leader.kill()
        cluster.network.heal()
        assert await cluster.leader([stands_back, lacks]) is stands_back
        await wait_until("the third to have it, too", lambda: lacks.applied == [b"x", b"y"])
        await leader.start()
        await cluster.converged()


async def test_a_handover_passes_over_who_is_drained_unless_there_is_nobody_else(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        for _ in range(3):
            await cluster.put(b"x")
            leader = await cluster.leader()
            stands_back, other = cluster.others(leader)
            await cluster.converged()
            await drained(cluster, stands_back)
            assert await leader.log.transfer_leadership()
            assert await cluster.leader() is other
            stands_back.log.set_gossip({})
            stands_back.log.stand_back("drained", False)
            await wait_until("it to be in service", partial(is_in_service, stands_back, other))
        leader = await cluster.leader()
        await drained(cluster, *cluster.others(leader))
        assert await leader.log.transfer_leadership()
        assert await cluster.leader() is not leader


async def test_who_waits_for_a_leader_is_told_when_there_is_one_and_when_the_node_stops(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        old = await cluster.leader()
        await cluster.converged()
        assert await old.log.wait_leader(0) == old.name
        first, second = cluster.others(old)
        # Nobody can be elected: one of three is left, which then campaigns in vain.
        for node in (old, second):
            await node.kill()
        await wait_until("the last one to know no leader", lambda: first.log.leader is None)
        assert await first.log.wait_leader(0.01) is None
        waits = asyncio.create_task(first.log.wait_leader(3_600))
        await second.start()
        assert await within("a leader", waits) in (first.name, second.name)
        await second.kill()
        await wait_until("the last one to know no leader", lambda: first.log.leader is None)
        waits = asyncio.create_task(first.log.wait_leader(3_600))
        await asyncio.sleep(0)
        await first.kill()
        assert await within("the end", waits) is None
