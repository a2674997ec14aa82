"""A test that waits for what will never come is told what everything waits for."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.testing import Cluster, Stuck, fail, virtual
from orchestrator_client import TerminalError, Workflow, task
from tests.testing_kit.shop import ORDER, charge, refund, reserve, saga, ship


async def stuck(cluster: Cluster, workflow: Workflow = saga) -> str:
    run = await cluster.client.start(workflow, ORDER, id="order-1")
    with pytest.raises(Stuck) as reason:
        await run.result()
    return str(reason.value)


async def test_nobody_serves_a_task(cluster: Cluster) -> None:
    cluster.serve(reserve, charge)
    expected = "workflow order-1 waits for a worker of 'ship' and none serves it"
    assert await stuck(cluster) == f"nothing will happen any more: {expected}"
    cluster.serve(ship)
    assert (await cluster.client.run("order-1").result()).tracking == "tracking 17"


@virtual(nodes=1)
async def test_also_when_the_node_was_restarted_meanwhile(cluster: Cluster) -> None:
    cluster.serve(reserve, charge)
    run = await cluster.client.start(saga, ORDER, id="order-1")
    await cluster.advance(minutes=5)
    cluster.kill_leader()
    with pytest.raises(Stuck, match="order-1 waits for a worker of 'ship' and none serves it"):
        await run.result()


async def test_nobody_gives_a_signal(cluster: Cluster) -> None:
    workflow = Workflow("waits")
    workflow.wait(signal="packed")
    assert "workflow order-1 waits at 'wait' for the signal 'packed'" in await stuck(cluster, workflow)


@task
async def sleeps_for_ever(id: str) -> None:
    await asyncio.Event().wait()


async def test_a_task_waits_for_ever(cluster: Cluster) -> None:
    workflow = Workflow("sleeps")
    workflow.step(sleeps_for_ever, workflow.input.id)
    cluster.serve(sleeps_for_ever, slots=1)
    first = await cluster.client.start(workflow, ORDER, id="first")
    reason = await stuck(cluster, workflow)
    assert "first waits for 'sleeps_for_ever' (attempt 1 on worker-1), whose function waits for" in reason
    assert "order-1 waits for a worker of 'sleeps_for_ever', and all of its 1 slots are taken" in reason
    assert (await first.get()).status == "RUNNING"


async def test_a_compensation_that_fails_to_the_end(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, charge, fail(ship, TerminalError("NO")), fail(refund, OSError("the bank is closed")))
    reason = await stuck(cluster)
    assert "can't undo 'charge': refund has failed 20 times, with: OSError: the bank is closed" in reason
    assert len(calls.of(refund)) == 20


async def test_a_workflow_waits_for_another(cluster: Cluster) -> None:
    asks = {"name": "asks", "version": 1, "tasks": [{"name": "yes", "taskReferenceName": "yes", "type": "HUMAN"}]}
    parent = {"name": "parent", "version": 1, "tasks": [
        {"name": "sub", "taskReferenceName": "sub", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "asks"}}]}
    await cluster.client.register(asks)
    run = await cluster.client.start(parent, {}, id="order-1")
    with pytest.raises(Stuck, match=r"order-1 is RUNNING, and open are: sub \(SUB_WORKFLOW\)") as reason:
        await run.result()
    assert "waits at 'yes' for the signal 'yes'" in str(reason.value)


async def test_a_workflow_is_paused(cluster: Cluster) -> None:
    run = await cluster.client.start(saga, ORDER, id="order-1")
    await run.pause()
    with pytest.raises(Stuck, match="order-1 is paused"):
        await run.result()


def test_the_test_waits_for_something_else() -> None:
    async def test(cluster: Cluster) -> None:
        await asyncio.get_running_loop().create_future()

    with Cluster() as cluster, pytest.raises(Stuck, match="no workflow is open; and the test waits for something else"):
        cluster.run(test(cluster))


async def test_who_has_a_deadline_is_not_stuck(cluster: Cluster) -> None:
    run = await cluster.client.start(saga, ORDER)
    with pytest.raises(TimeoutError):
        await run.result(timeout_s=3600)
