"""A leader that was paused (SIGSTOP) wakes up as one of the past: it acknowledges nothing and answers nothing old."""

from __future__ import annotations

import asyncio
from collections import Counter

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, Workflow
from orchestrator_client.status import Failure
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import Pinned, caught_up, check_same_content, pinned, role_of
from tests.cluster.workload import Load, arithmetic, eventually, within, working

PAUSE_S = 5.0
CALLS = 20

waiter = Workflow("waiter")
waiter.wait(signal="go")
waiter.returns(done=True)


async def ask_the_past(old: Pinned, workflow_id: str) -> tuple[list[object], list[object]]:
    """Starts and reads that reach the paused node, which finds them when it wakes."""
    starts = [old.start("waiter", correlation_id=f"past-{n}", timeout_s=30) for n in range(CALLS)]
    reads = [old.get(workflow_id, timeout_s=30) for _ in range(CALLS)]
    answers = await asyncio.gather(*starts, *reads)
    return list(answers[:CALLS]), list(answers[CALLS:])


async def test_a_leader_that_was_paused_acknowledges_nothing_and_reads_nothing_old(
    cluster: LocalCluster, client: Client, ledger: Ledger
) -> None:
    workflow, tasks = arithmetic(ledger)
    await client.register(waiter)
    await client.start("waiter", id="changed-meanwhile")
    async with working(client, tasks), Load(client, ledger, workflow) as load:
        await load.progress()
        leader = await cluster.wait_leader()
        async with pinned(cluster, leader) as old:
            # The connection has to be there before its node can't answer any more.
            assert not isinstance(await old.get("changed-meanwhile"), Failure)
            cluster.pause(leader)
            asked = asyncio.create_task(ask_the_past(old, "changed-meanwhile"))
            fault_over = asyncio.create_task(asyncio.sleep(PAUSE_S))  # the fault has to last
            await cluster.wait_leader(other_than=leader)
            await client.signal("changed-meanwhile", "go")
            assert (await client.wait("changed-meanwhile", 30)).status == "COMPLETED"
            await load.progress()
            await fault_over
            cluster.resume(leader)
            starts, reads = await within(asked, "the paused node to answer")
        await load.progress()
        await check_rejoined(cluster, leader)
    # Nothing that it was asked while it slept can have been acknowledged: another one leads.
    assert [type(answer) for answer in starts] == [Failure] * CALLS, starts
    assert [answer for answer in reads if not isinstance(answer, Failure)] == []
    counts = Counter([each.correlation_id async for each in client.search(name="waiter")])
    assert all(counts[f"past-{n}"] <= 1 for n in range(CALLS))
    await ledger.check(client)
    await check_same_content(cluster)


async def check_rejoined(cluster: LocalCluster, name: str) -> None:
    await cluster.wait_ready()

    async def follows() -> bool:
        return await role_of(cluster, name) == "FOLLOWER"

    await eventually(follows, f"node {name} to follow")
    await caught_up(cluster, name)


async def test_a_follower_that_is_paused_holds_nobody_up(
    cluster: LocalCluster, client: Client, ledger: Ledger
) -> None:
    workflow, tasks = arithmetic(ledger)
    leader = await cluster.wait_leader()
    follower = next(name for name in cluster.nodes if name != leader)
    async with working(client, tasks), Load(client, ledger, workflow) as load:
        await load.progress()
        term = (await cluster.status(leader)).term  # type: ignore[union-attr]  # it runs
        cluster.pause(follower)
        await load.progress(200)
        cluster.resume(follower)
        await caught_up(cluster, follower)
        status = await cluster.status(leader)
        assert status is not None and (status.leader, status.term) == (leader, term)
    await ledger.check(client)
    await check_same_content(cluster)
