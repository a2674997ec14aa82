"""Three replicated logs: election, replication, crashes, catching up, reads, minorities."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import pytest

from orchestrator.replication.errors import LostLeadership, NotLeader, Stopped
from orchestrator.replication.log import Role
from orchestrator.replication.settings import RaftSettings
from tests.replication.cluster import Cluster, Node, wait_until, within


async def test_one_node_elects_itself_and_commits(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1) as cluster:
        await cluster.put(b"alone")
        node = cluster["n1"]
        assert await within("a barrier", node.log.barrier()) == node.log.commit_index
        await node.kill()
        await node.start()
        await cluster.put(b"again")
        assert node.applied == [b"alone", b"again"]


async def test_three_elect_append_and_commit_on_all(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        for number in range(50):
            await cluster.put(b"%d" % number)
        await cluster.converged()
        assert leader.applied == [b"%d" % number for number in range(50)]
        for node in cluster.others(leader):
            with pytest.raises(NotLeader) as refused:
                node.log.append(b"no")
            assert refused.value.leader == leader.name == node.log.leader
            with pytest.raises(NotLeader):
                await node.log.barrier()
        assert leader.roles[-1] == (Role.LEADER, leader.log.term)


async def test_a_killed_node_restarts_and_catches_up_from_the_log(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        follower = cluster.others(leader)[0]
        await cluster.put(b"before")
        await follower.kill()
        for number in range(200):
            leader.log.append(b"%d" % number)
        await cluster.put(b"during", [node for node in cluster.nodes.values() if node is not follower])
        await follower.start()
        await cluster.put(b"after")
        await cluster.converged()
        assert len(follower.applied) == 203
        assert follower.installs == 0


async def test_acknowledged_entries_survive_killing_everyone(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        for round_ in range(3):
            for number in range(20):
                await cluster.put(b"%d.%d" % (round_, number))
            await asyncio.gather(*(node.kill() for node in cluster.nodes.values()))
            await asyncio.gather(*(node.start() for node in cluster.nodes.values()))
        await cluster.put(b"end")
        await cluster.converged()
        assert cluster["n1"].applied == [b"%d.%d" % (round_, number) for round_ in range(3) for number in range(20)] + [
            b"end"
        ]


async def test_a_dead_leader_is_replaced_before_the_election_timeout(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        took: list[float] = []
        for _ in range(3):
            leader = await cluster.leader()
            await cluster.put(b"x")
            await cluster.converged()
            began = time.monotonic()
            await leader.kill()
            await cluster.leader(cluster.others(leader))
            took.append(time.monotonic() - began)
            await leader.start()
            await cluster.put(b"y")
            await cluster.converged()
        assert min(took) < cluster.settings.election_timeout_min_ms / 1000


async def test_a_conflicting_long_tail_is_replaced(tmp_path: Path) -> None:
    """B4: a leader that was cut off comes back with thousands of entries that nobody else has."""
    settings = RaftSettings(batch_bytes_max=64 << 10, probe_bytes_max=4 << 10, journal_segment_bytes=256 << 10)
    async with Cluster(tmp_path, settings=settings) as cluster:
        old = await cluster.leader()
        await cluster.put(b"common")
        await cluster.converged()
        others = cluster.others(old)
        cluster.network.isolate(old.name)
        for number in range(3000):
            old.log.append(b"lost %d " % number + b"x" * 200)
        new = await cluster.leader(others)
        for number in range(3000):
            new.log.append(b"kept %d " % number + b"y" * 200)
        await cluster.put(b"last", others)
        assert old.applied == [b"common"]
        cluster.network.heal()
        await cluster.converged()
        assert old.applied[-1] == b"last" and not any(data.startswith(b"lost") for data in old.applied)
        assert not any(node.fatal for node in cluster.nodes.values())


async def test_a_minority_leader_commits_nothing_steps_down_and_fails_reads(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        old = await cluster.leader()
        await cluster.put(b"before")
        commit = old.log.commit_index
        cluster.network.isolate(old.name)
        index, term = old.log.append(b"never")
        reading = asyncio.create_task(old.log.barrier())
        with pytest.raises(LostLeadership):
            await within("the read to fail", asyncio.wait_for(reading, None))
        assert old.log.role is not Role.LEADER
        assert old.log.commit_index == commit
        await cluster.put(b"majority", cluster.others(old))
        cluster.network.heal()
        await cluster.converged()
        assert old.applied == [b"before", b"majority"]
        assert (index, term) != (old.applied_index, old.applied_term)


async def test_barrier_sees_everything_acknowledged_and_is_shared(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        index, _ = await cluster.put(b"x")
        before = leader.log._core.barrier.round
        read = await within(
            "barriers", asyncio.wait_for(asyncio.gather(*(leader.log.barrier() for _ in range(100))), None)
        )
        assert min(read) >= index
        assert leader.log._core.barrier.round - before <= 2


async def test_a_node_that_was_cut_off_does_not_disturb_a_living_leader(tmp_path: Path) -> None:
    """Pre-vote and loyal voters: its term did not rise, and nobody helps it."""
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")
        await cluster.converged()
        follower = cluster.others(leader)[0]
        term = leader.log.term
        cluster.network.isolate(follower.name)
        await wait_until("the follower to miss its leader", lambda: follower.log.leader is None)
        await wait_until("several pre-votes", lambda: follower.log._core.elections._round >= 3)
        assert follower.log.term == term
        cluster.network.heal()
        await wait_until("the follower to find its leader", lambda: follower.log.leader == leader.name)
        await cluster.put(b"y")
        assert (leader.log.role, leader.log.term) == (Role.LEADER, term)


async def test_a_vote_request_is_ignored_while_the_leader_lives(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")
        await cluster.converged()
        follower = cluster.others(leader)[0]
        term = leader.log.term
        follower.log._core.elections._campaign(transfer=False)
        await wait_until(
            "the leader to hear of the higher term, or the candidate to be ignored",
            lambda: follower.log._core.elections._requested,
        )
        assert cluster.others(leader)[1].log.term == term
        await cluster.put(b"y")
        await cluster.converged()


async def test_leadership_is_handed_over_without_an_election_timeout(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        old = await cluster.leader()
        await cluster.put(b"x")
        began = time.monotonic()
        assert await within("the transfer", old.log.transfer_leadership())
        new = await cluster.leader()
        assert new is not old
        assert time.monotonic() - began < cluster.settings.election_timeout_min_ms / 1000
        await cluster.put(b"y")
        await cluster.converged()
        assert old.log.term == new.log.term


async def test_leadership_is_not_handed_to_who_stands_back(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        for _ in range(3):
            old = await cluster.leader()
            reluctant, fit = cluster.others(old)
            for node in cluster.nodes.values():
                node.log.set_gossip({"stands_back": int(node is reluctant)})
            await wait_until("the gossip", lambda: old.log.peer_gossip().get(reluctant.name) == {"stands_back": 1}  # noqa: B023 - looked at in this turn
                             and old.log.peer_gossip().get(fit.name) == {"stands_back": 0})  # noqa: B023 - as above
            assert await within("the transfer", old.log.transfer_leadership())
            assert await cluster.leader() is fit


async def test_committed_and_append_after_stop(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1) as cluster:
        await cluster.put(b"x")
        node = cluster["n1"]
        waiting = asyncio.create_task(node.log.committed(node.applied_index))
        await asyncio.sleep(0)
        await node.stop()
        with pytest.raises(Stopped):
            await within("the waiting reader to be told", asyncio.wait_for(waiting, None))
        with pytest.raises(Stopped):
            node.log.append(b"y")
        with pytest.raises(Stopped):
            await node.log.barrier()


async def test_gossip_and_clock_offsets_reach_everyone(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        cluster["n2"].clock.wall_offset_ms = 5000
        cluster["n2"].log.set_gossip({"grpc": "host:1", "hash": b"\x00", "applied": 7})
        await wait_until(
            "gossip of n2",
            lambda: all(
                node.log.peer_gossip().get("n2") == {"grpc": "host:1", "hash": b"\x00", "applied": 7}
                and 4500 < node.log.peer_clock_offsets().get("n2", 0) < 5500
                for node in (cluster["n1"], cluster["n3"])
            ),
        )
        await wait_until("gossip at n2", lambda: -5500 < cluster["n2"].log.peer_clock_offsets().get("n1", 0) < -4500)


async def test_a_follower_acknowledges_only_what_is_durable(tmp_path: Path) -> None:
    """With the followers' disks standing still nothing is committed, though every byte arrived."""
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")
        await cluster.converged()
        followers = cluster.others(leader)
        for node in followers:
            node.log._durable.disk._running = True  # as if a batch were under way
        commit = leader.log.commit_index
        index, _ = leader.log.append(b"y")
        await wait_until("the entry to arrive", lambda: all(node.log.last_index == index for node in followers))
        reads = [await within("a barrier", leader.log.barrier()) for _ in range(3)]
        assert reads == [commit] * 3 and leader.log.commit_index == commit
        for node in followers:
            node.log._durable.disk._running = False
            node.log._wake()
        await wait_until("the commit", lambda: leader.log.commit_index >= index)
        await cluster.converged()


async def test_a_disk_error_stops_the_node_and_the_others_go_on(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")

        def fail() -> None:
            raise OSError(5, "Input/output error")

        leader.log._durable.disk.sync = fail
        leader.log.append(b"y")
        await wait_until("the node to stop", lambda: leader.fatal)
        assert isinstance(leader.fatal[0], OSError)
        with pytest.raises(Stopped):
            leader.log.append(b"z")
        await cluster.put(b"others", cluster.others(leader))


async def measure(leader: Node, count: int) -> list[float]:
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        index, _ = leader.log.append(b"x" * 100)
        while leader.applied_index < index:
            await leader.log._handing_out.wait()
            await asyncio.sleep(0)
        took.append((time.perf_counter() - began) * 1000)
    return took


async def test_commit_latency_is_far_below_the_heartbeat(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        took = await within("300 commits", measure(leader, 300))
        assert statistics.median(took) < cluster.settings.heartbeat_interval_ms / 2
