"""Waits, delays and timeouts that are under way when nodes die: each comes once, and never early in log time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, Execution, Retry, TaskAttempt, TaskContext, Workflow, task
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import check_same_content
from tests.cluster.workload import PATIENCE_S, Number, eventually, working

WAIT_MS = 2_000
DELAY_MS = 1_500
RUNS = 10

Fault = Callable[[LocalCluster], Awaitable[None]]


async def leader_dies(cluster: LocalCluster) -> None:
    leader = await cluster.wait_leader()
    await cluster.kill_node(leader)
    await cluster.wait_leader(other_than=leader)
    cluster.start_node(leader)


async def all_die(cluster: LocalCluster) -> None:
    for name in cluster.nodes:
        cluster.pause(name)
    for name in cluster.nodes:
        await cluster.kill_node(name)
    await cluster.start()


def took(task: TaskAttempt) -> timedelta:
    return stamp(task.end_time) - stamp(task.scheduled_time)


def stamp(moment: datetime | None) -> datetime:
    assert moment is not None
    return moment


@pytest.mark.parametrize("fault", [leader_dies, all_die])
async def test_a_wait_ends_once_and_not_early(
    cluster: LocalCluster, client: Client, ledger: Ledger, fault: Fault
) -> None:
    @task
    async def after(x: int, ctx: TaskContext) -> int:
        ledger.runs(ctx)
        return x

    workflow = Workflow("wait", input=Number)
    workflow.wait(duration_ms=WAIT_MS)
    workflow.returns(x=workflow.step(after, workflow.input.x))
    async with working(client, [after]):
        runs = [await client.start(workflow, Number(x), id=f"wait-{x}") for x in range(RUNS)]
        for x, run in enumerate(runs):
            ledger.acknowledge(run.workflow_id, {"x": x})
        await fault(cluster)
        ended = await asyncio.gather(*(run.wait(PATIENCE_S, tasks=True) for run in runs))
    for execution in ended:
        (waited,) = (each for each in execution.tasks if each.type == "WAIT")
        assert waited.status == "COMPLETED" and took(waited) >= timedelta(milliseconds=WAIT_MS)
    await ledger.check(client)
    await check_same_content(cluster)


@pytest.mark.parametrize("fault", [leader_dies, all_die])
async def test_a_retry_comes_once_and_after_its_delay(
    cluster: LocalCluster, client: Client, ledger: Ledger, fault: Fault
) -> None:
    @task(retry=Retry.fixed(delay_ms=DELAY_MS, attempts=3))
    async def fragile(x: int, ctx: TaskContext) -> int:
        ledger.runs(ctx)
        if ctx.attempt == 1:
            raise ValueError("the first attempt fails")
        return x

    workflow = Workflow("retry", input=Number)
    workflow.returns(x=workflow.step(fragile, workflow.input.x))
    async with working(client, [fragile]):
        runs = [await client.start(workflow, Number(x), id=f"retry-{x}") for x in range(RUNS)]
        for x, run in enumerate(runs):
            ledger.acknowledge(run.workflow_id, {"x": x})
        await eventually(lambda: len(ledger.ran) >= RUNS, "the first attempts")
        await fault(cluster)
        ended = await asyncio.gather(*(run.wait(PATIENCE_S, tasks=True) for run in runs))
    for execution in ended:
        first, second = execution.tasks
        assert (first.status, second.status) == ("FAILED", "COMPLETED")
        assert stamp(second.start_time) - stamp(first.end_time) >= timedelta(milliseconds=DELAY_MS)
    await ledger.check(client, attempts_max=2)
    await check_same_content(cluster)


async def test_a_timeout_comes_once_though_the_leader_dies(cluster: LocalCluster, client: Client) -> None:
    """The attempt is silent on a live worker, which is told to stop."""
    cancelled: list[str] = []

    @task(timeout_ms=WAIT_MS, retry=Retry.none())
    async def silent(x: int, ctx: TaskContext) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(ctx.workflow_id)
            raise
        return x

    workflow = Workflow("silent", input=Number)
    workflow.step(silent, workflow.input.x)
    async with working(client, [silent]) as worker:
        run = await client.start(workflow, Number(1), id="silent")
        await eventually(lambda: worker.running == 1, "the attempt to run")
        await leader_dies(cluster)
        execution: Execution = await run.wait(PATIENCE_S, tasks=True)
        await eventually(lambda: cancelled, "the worker to be told")
    assert execution.status in ("FAILED", "TIMED_OUT")
    assert [each.status for each in execution.tasks] == ["TIMED_OUT"]
    assert stamp(execution.tasks[0].end_time) - stamp(execution.tasks[0].start_time) >= timedelta(milliseconds=WAIT_MS)
    assert cancelled == ["silent"]
