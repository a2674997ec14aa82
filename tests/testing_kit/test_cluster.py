"""The cluster is a real one: it elects, loses, heals, and takes the same steps for the same seed."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest

from orchestrator.replication.log import EntryKind
from orchestrator.testing import Cluster, ClusterFailed, slow
from orchestrator.testing.kills import described
from orchestrator.testing.nodes import LogObserver, TestMember, TestNode
from orchestrator_client import DeadlineExceeded, NoLeader
from tests.testing_kit.shop import ORDER, charge, reserve, saga, ship


async def test_another_node_leads_when_the_leader_is_killed(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, slow(charge, 5), ship)
    run = await cluster.client.start(saga, ORDER)
    killed = cluster.kill_leader(restart_after=60)
    assert cluster.leader is None
    with pytest.raises(RuntimeError, match="no leader now"):
        cluster.kill_leader()
    assert await cluster.elected() != killed
    assert (await run.result()).tracking == "tracking 17"
    assert [call.attempt for call in calls.all] == [1, 1, 1]
    status = await cluster.client.status()
    assert status.faults_tolerable == 0
    await cluster.advance(seconds=70)
    assert (await cluster.client.status()).faults_tolerable == 1


async def test_a_node_that_lost_its_power_comes_back_with_what_it_had_synced(cluster: Cluster) -> None:
    cluster.serve(reserve, charge, ship)
    run = await cluster.client.start(saga, ORDER, id="a")
    for node in cluster.nodes:
        cluster.lose_power(node, restart_after=5)
    await cluster.advance(seconds=10)
    assert (await run.result()).tracking == "tracking 17"


async def test_a_leader_without_the_others_gives_way(cluster: Cluster) -> None:
    cluster.serve(reserve, charge, ship)
    leader = await cluster.elected()
    cluster.partition([leader], [node for node in cluster.nodes if node != leader])
    await cluster.advance(seconds=3)
    assert await cluster.elected() != leader
    assert (await (await cluster.client.start(saga, ORDER)).result()).tracking == "tracking 17"
    cluster.heal()
    await cluster.advance(seconds=3)
    assert (await cluster.client.status()).faults_tolerable == 1


async def test_a_paused_leader_gives_way_too(cluster: Cluster) -> None:
    leader = await cluster.elected()
    cluster.pause(leader)
    assert await cluster.elected() != leader
    await cluster.advance(days=2)
    cluster.resume(leader)
    cluster.serve(reserve, charge, ship)
    assert (await (await cluster.client.start(saga, ORDER)).result()).tracking == "tracking 17"


async def test_who_starts_and_waits_does_so_in_the_time_of_the_test(cluster: Cluster) -> None:
    cluster.serve(reserve, slow(charge, 8), ship)
    with pytest.raises(DeadlineExceeded):
        await cluster.client.start_and_wait(saga, ORDER, id="a", timeout_s=1)
    waiting = asyncio.ensure_future(
        cluster.client.start_and_wait(saga, ORDER, id="a", if_exists="return", timeout_s=7_200)
    )
    await cluster.advance(seconds=1)
    cluster.kill_leader(restart_after=60)
    assert (await waiting).tracking == "tracking 17"


async def test_without_a_majority_nothing_is_acknowledged(cluster: Cluster) -> None:
    for node in cluster.nodes[:2]:
        cluster.kill(node, restart_after=None)
    with pytest.raises(NoLeader):
        await cluster.client.start(saga, ORDER, timeout_s=5)
    await cluster.advance(days=1)
    cluster.restart(cluster.nodes[0])
    cluster.serve(reserve, charge, ship)
    assert (await (await cluster.client.start(saga, ORDER)).result()).tracking == "tracking 17"


async def test_a_worker_can_be_cut_off(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, slow(charge, 2, times=1), ship)
    run = await cluster.client.start(saga, ORDER)
    await cluster.advance(seconds=1)
    cluster.partition([calls.worker], cluster.nodes)
    await cluster.advance(seconds=30)
    cluster.heal()
    assert (await run.result()).tracking == "tracking 17"
    assert [call.attempt for call in calls.of(charge)] == [1, 2]
    assert calls.effects == ["reserve", "charge", "ship"]


async def test_nobody_is_called_by_a_wrong_name(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="there is no 'n9'; there are n1, n2, n3"):
        cluster.kill("n9")
    with pytest.raises(ValueError, match="1 or 3 nodes, not 2"):
        Cluster(nodes=2)


def test_a_cluster_is_not_for_another_loop() -> None:
    async def inside() -> None:
        with Cluster():
            pass

    with pytest.raises(RuntimeError, match="a loop of its own"):
        asyncio.run(inside())


class Recorder(LogObserver):
    """Every step of the log, and when."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, ...]] = []

    def appended(self, member: TestMember, index: int, kind: EntryKind, data: bytes) -> None:
        self.steps.append((member.machine.loop.now, "appended", member.name, index, str(described(member, kind, data))))

    def durable(self, member: TestMember, index: int) -> None:
        self.steps.append((member.machine.loop.now, "durable", member.name, index))

    def applied(self, member: TestMember, index: int) -> None:
        self.steps.append((member.machine.loop.now, "applied", member.name, index))


def recorded(seed: int) -> list[tuple[Any, ...]]:
    async def test(cluster: Cluster) -> None:
        cluster.serve(reserve, slow(charge, 3), ship)
        runs = [await cluster.client.start(saga, ORDER) for _ in range(5)]
        await cluster.advance(seconds=1)
        cluster.kill_leader()
        for run in runs:
            await run.result()
        await cluster.advance(hours=3)

    recorder = Recorder()
    with Cluster(seed=seed, observer=recorder) as cluster:
        cluster.run(test(cluster))
    return recorder.steps


def test_the_same_seed_takes_the_same_steps() -> None:
    first = recorded(5)
    assert len(first) > 50
    assert recorded(5) == first
    assert recorded(6) != first


async def _raise(cluster: Cluster) -> None:
    cluster.serve(reserve, charge, ship)
    held.append(await cluster.client.start(saga, ORDER))
    cluster.kill_leader()
    background.append(asyncio.create_task(asyncio.sleep(1e9)))
    raise LookupError("a test that fails")


held: list[Any] = []
background: list[Any] = []


def test_nothing_is_left_of_a_cluster_not_even_by_who_holds_a_part(caplog: pytest.LogCaptureFixture) -> None:
    gc.collect()
    caplog.set_level(logging.DEBUG)
    with pytest.raises(LookupError) as failed, Cluster(seed=1) as cluster:
        cluster.run(_raise(cluster))
    assert failed.traceback and held and background
    assert not [one for one in gc.get_objects() if isinstance(one, TestNode)]
    assert not [record for record in caplog.records if record.name.startswith("orchestrator")]
    assert gc.isenabled()
    held.clear()
    background.clear()


def test_a_node_that_stops_itself_is_not_the_tests_fault() -> None:
    async def test(cluster: Cluster) -> None:
        member = cluster._members["n1"]
        assert member.node is not None
        member.node._fail(AssertionError("an invariant does not hold"))
        await cluster.advance(days=1)

    with Cluster() as cluster, pytest.raises(ClusterFailed, match="node n1 stopped itself"):
        cluster.run(test(cluster))
