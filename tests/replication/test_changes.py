"""Members come, go and are replaced while the cluster works: one at a time, learners first, never without a quorum."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from orchestrator.replication.errors import (
    ChangeInProgress,
    InvalidMember,
    LostLeadership,
    MemberExists,
    NotLeader,
    OutcomeUnknown,
    UnknownMember,
    WouldLoseQuorum,
)
from orchestrator.replication.log import Role
from orchestrator.replication.settings import RaftSettings
from tests.replication.cluster import Cluster, Node, free_port, wait_until

SMALL = RaftSettings(journal_segment_bytes=1 << 10, journal_tail_entries=5, journal_tail_bytes=1 << 10)


async def on_leader(cluster: Cluster, change: Callable[[Node], Awaitable[None]]) -> None:
    """As an operator's command does it: asks whoever leads, again when leadership moved."""
    while True:
        node = await cluster.leader([node for node in cluster.nodes.values() if not node.log._stopped])
        try:
            await change(node)
        except (NotLeader, LostLeadership, OutcomeUnknown):
            await asyncio.sleep(0.01)
        else:
            return


def members(node: Node) -> list[str]:
    found = node.log.status().configuration
    return sorted(found.members) if found is not None else []


def learners(node: Node) -> list[str]:
    found = node.log.status().configuration
    return sorted(found.learners) if found is not None else []


async def votes(cluster: Cluster, name: str) -> None:
    """Until every running node, the new one included, has it as a member."""
    running = [node for node in cluster.nodes.values() if not node.log._stopped]

    def votes_on(node: Node) -> bool:
        return name in members(node) and node.log._membership.index <= node.log.commit_index

    await wait_until(f"{name} to vote", lambda: all(votes_on(node) for node in running))


async def come(cluster: Cluster, name: str) -> Node:
    """A blank node, started; it is no member yet."""
    address = f"127.0.0.1:{free_port()}"
    cluster.members = {**cluster.members, name: address}
    cluster.network.ports[int(address.rpartition(":")[2])] = name
    node = cluster.nodes[name] = cluster.make(name)
    await node.start()
    return node


async def add(cluster: Cluster, name: str) -> Node:
    node = await come(cluster, name)
    incarnation = node.identity().incarnation
    await on_leader(cluster, lambda leader: leader.log.add_member(name, incarnation, cluster.members[name]))
    await votes(cluster, name)
    return node


async def remove(cluster: Cluster, name: str) -> Node:
    await on_leader(cluster, lambda leader: leader.log.remove_member(name))
    return cluster.nodes.pop(name)


async def wipe(cluster: Cluster, name: str) -> Node:
    if not cluster[name].log._stopped:
        await cluster[name].kill()
    shutil.rmtree(cluster.directory / name)
    cluster[name].database.unlink(missing_ok=True)
    node = cluster.nodes[name] = cluster.make(name)
    await node.start()
    return node


async def replace(cluster: Cluster, name: str) -> Node:
    node = await wipe(cluster, name)
    incarnation = node.identity().incarnation
    await on_leader(cluster, lambda leader: leader.log.replace_member(name, incarnation))
    await votes(cluster, name)
    return node


async def test_one_node_grows_to_three_and_five_and_shrinks_to_three(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1) as cluster:
        for size in range(2, 6):
            await cluster.put(b"at %d" % size)
            await add(cluster, f"n{size}")
            assert (await cluster.leader()).log._core.majority == size // 2 + 1
        await cluster.converged()
        gone = [await remove(cluster, name) for name in ("n1", "n4")]
        for node in gone:
            await wait_until("it to know", lambda node=node: node.log.role is Role.AWAITING_ADMISSION)  # type: ignore[misc]
            assert "was removed" in str(node.log.status().awaiting_reason)
        await cluster.put(b"by three")
        await cluster.converged()
        # The three are whole: one of them may die, and it is none of the removed that fills its place.
        leader = await cluster.leader()
        await leader.kill()
        await cluster.put(b"by two", cluster.others(leader))
        await leader.start()
        await cluster.converged()
        terms = [node.log.term for node in gone]
        await asyncio.sleep(1)
        assert [node.log.term for node in gone] == terms
        for node in gone:
            await node.stop()


async def test_a_blank_node_waits_learns_and_votes(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"before")
        node = await come(cluster, "n4")
        await wait_until("it to wait", lambda: node.log.role is Role.AWAITING_ADMISSION)
        assert "cluster add n4" in str(node.log.status().awaiting_reason)
        leader = await cluster.leader()
        found = leader.log.candidates()["n4"]
        assert (found.incarnation, found.address) == (node.identity().incarnation, cluster.members["n4"])
        await leader.log.add_member("n4", found.incarnation, found.address)
        await votes(cluster, "n4")
        assert Role.LEARNER in [role for role, _ in node.roles]
        await cluster.converged()
        assert node.applied == [b"before"]
        # Asked again, as after a lost answer.
        await leader.log.add_member("n4", found.incarnation, found.address)
        # Four of four are there, so two may not die, but one may.
        await cluster["n1"].kill()
        await cluster.put(b"after", cluster.others(cluster["n1"]))
        await cluster["n1"].start()
        await cluster.converged()


@pytest.mark.parametrize("flushed", [False, True])
async def test_a_wiped_node_is_replaced_and_then_another_may_die(tmp_path: Path, flushed: bool) -> None:
    async with Cluster(tmp_path, settings=SMALL) as cluster:
        for number in range(50):
            await cluster.put(b"%d" % number + b"x" * 100)
        await cluster.converged()
        leader = await cluster.leader()
        if flushed:
            for node in cluster.nodes.values():
                node.flush()
            assert leader.log._core.journal.base_index > 0
        lost = cluster.others(leader)[0].name
        node = await replace(cluster, lost)
        await cluster.converged()
        assert node.installs == (1 if flushed else 0)
        await leader.kill()
        await cluster.put(b"by the new one and the third", cluster.others(leader))
        await leader.start()
        await cluster.converged()
        # Everything is known again from disk alone.
        await asyncio.gather(*(node.kill() for node in cluster.nodes.values()))
        await asyncio.gather(*(node.start() for node in cluster.nodes.values()))
        await cluster.put(b"after a stop of all")
        await cluster.converged()
        assert all(members(node) == ["n1", "n2", "n3"] for node in cluster.nodes.values())


async def test_everyone_is_replaced_one_after_the_other(tmp_path: Path) -> None:
    """In the end nobody that formed the cluster is left, and a node that slept through all of it still catches up."""
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        sleeper = await add(cluster, "n4")
        await add(cluster, "n5")
        await cluster.converged()
        await sleeper.kill()
        for name in ("n1", "n2", "n3", "n5"):
            await replace(cluster, name)
        await cluster.put(b"y", cluster.others(sleeper))
        await sleeper.start()
        await cluster.put(b"z")
        await cluster.converged()


async def test_only_one_change_at_a_time(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        followers = cluster.others(leader)
        for node in followers:  # what is appended now stays uncommitted
            cluster.network.cut(leader.name, node.name)
        await wait_until("no connection", lambda: not any(leader.log._core.connected(n.name) for n in followers))
        leader.log._core.replicator.reachable = lambda now: {"n1", "n2", "n3"}  # type: ignore[method-assign]
        changes = leader.log._changes
        first = leader.log._core.barrier.wait
        leader.log._core.barrier.wait = lambda: asyncio.sleep(0, 0)  # type: ignore[method-assign]
        pending = asyncio.create_task(leader.log.add_member("n8", "i8", "127.0.0.1:1"))
        await wait_until("it to be in the journal", lambda: changes._membership.index > leader.log.commit_index)
        for attempt in (
            leader.log.add_member("n9", "i9", "127.0.0.1:2"),
            leader.log.remove_member(followers[0].name),
            leader.log.remove_member("n8"),
            leader.log.replace_member(followers[0].name, "other"),
        ):
            with pytest.raises(ChangeInProgress):
                await attempt
        assert learners(leader) == ["n8"]
        with pytest.raises(OutcomeUnknown):
            await asyncio.wait_for(pending, 15)
        leader.log._core.barrier.wait = first  # type: ignore[method-assign]
        # The others elect one of them, whose log lacks the change: it is rolled back.
        await cluster.put(b"x", followers)
        cluster.network.heal()
        await wait_until("the change to be rolled back", lambda: learners(leader) == [])
        assert "n8" not in leader.log._core.peers
        await cluster.converged()


async def test_a_learner_that_never_comes_blocks_others_until_it_is_removed(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await leader.log.add_member("n4", "nobody", "127.0.0.1:1")
        with pytest.raises(ChangeInProgress, match="n4"):
            await leader.log.add_member("n5", "i5", "127.0.0.1:2")
        # It is counted nowhere: two of three are a majority.
        follower = cluster.others(leader)[0]
        await follower.kill()
        await cluster.put(b"x", cluster.others(follower))
        await follower.start()
        leader = await cluster.leader()
        await on_leader(cluster, lambda leader: leader.log.remove_member("n4"))
        assert learners(await cluster.leader()) == []


async def test_a_change_that_would_lose_the_quorum_is_refused(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        dead, alive = cluster.others(leader)
        await dead.kill()
        await wait_until("the leader to miss it", lambda: not leader.log._core.connected(dead.name))
        for name in (alive.name, leader.name):
            with pytest.raises(WouldLoseQuorum, match="majority"):
                await leader.log.remove_member(name)
        assert leader.log.role is Role.LEADER
        await leader.log.remove_member(dead.name)
        cluster.nodes.pop(dead.name)
        await cluster.put(b"by two")
        await cluster.converged()


async def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1) as cluster:
        node = await cluster.leader()
        own = node.identity().incarnation
        with pytest.raises(MemberExists):
            await node.log.add_member("n1", "other", "127.0.0.1:1")
        with pytest.raises(InvalidMember):
            await node.log.add_member("n2", own, "127.0.0.1:1")
        with pytest.raises(InvalidMember):
            await node.log.add_member("n2", "i", "nowhere")
        with pytest.raises(InvalidMember):
            await node.log.add_member("n2", "i", cluster.members["n1"])
        with pytest.raises(UnknownMember):
            await node.log.remove_member("n2")
        with pytest.raises(UnknownMember):
            await node.log.replace_member("n2", "i")
        with pytest.raises(WouldLoseQuorum):
            await node.log.remove_member("n1")
        await cluster.put(b"x")


async def test_a_leader_that_is_removed_hands_over_first(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")
        with pytest.raises(NotLeader):
            await leader.log.remove_member(leader.name)
        assert leader.log.role is not Role.LEADER
        await remove(cluster, leader.name)
        await wait_until("it to know", lambda: leader.log.role is Role.AWAITING_ADMISSION)
        await cluster.put(b"y")
        await cluster.converged()
        # Its data are still its own: it may come back.
        cluster.nodes[leader.name] = leader
        address = cluster.members[leader.name]
        own = leader.identity().incarnation
        await on_leader(cluster, lambda node: node.log.add_member(leader.name, own, address))
        await votes(cluster, leader.name)
        await cluster.converged()


async def test_a_removed_node_that_was_away_hears_it_when_it_is_back(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        away = cluster.others(await cluster.leader())[0]
        await away.kill()
        await remove(cluster, away.name)
        await away.start()
        await wait_until("it to know", lambda: away.log.role is Role.AWAITING_ADMISSION)
        await cluster.put(b"y")
        await away.stop()


async def test_a_learner_neither_votes_in_a_commit_nor_campaigns(tmp_path: Path) -> None:
    slow = RaftSettings(learner_lag_entries_max=1)
    async with Cluster(tmp_path, 1, slow) as cluster:
        node = await come(cluster, "n2")
        leader = cluster["n1"]
        leader.log._core.replicator.caught_up = lambda name, index: False  # type: ignore[method-assign]
        await cluster.leader([leader])
        await leader.log.add_member("n2", node.identity().incarnation, cluster.members["n2"])
        await wait_until("it to learn", lambda: node.log.role is Role.LEARNER)
        await node.kill()
        await cluster.put(b"alone", [leader])
        await node.start()
        await cluster.converged()
        await leader.kill()
        term = node.log.term
        await asyncio.sleep(1.5)
        assert (node.log.role, node.log.term) == (Role.LEARNER, term)
        await leader.start()
        await votes(cluster, "n2")


async def test_the_clock_of_a_learner_counts_when_it_votes(tmp_path: Path) -> None:
    """The median is the members', as a learner can't take the lead."""
    async with Cluster(tmp_path, 1) as cluster:
        leader = await cluster.leader()
        node = await come(cluster, "n2")
        replicator = leader.log._core.replicator
        caught_up, replicator.caught_up = replicator.caught_up, lambda name, index: False  # type: ignore[method-assign]
        await leader.log.add_member("n2", node.identity().incarnation, cluster.members["n2"])
        await wait_until("its clock to be heard", lambda: "n2" in leader.log._gossiper.clock_offsets())
        assert leader.log.peer_clock_offsets() == {}
        replicator.caught_up = caught_up  # type: ignore[method-assign]
        await votes(cluster, "n2")
        await wait_until("its clock to count", lambda: "n2" in leader.log.peer_clock_offsets())
