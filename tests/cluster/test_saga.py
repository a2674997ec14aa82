"""A saga whose compensation is under way when nodes die: everything owed is undone, once, in order."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.verify.attempts import wrong_steps
from orchestrator_client import Client, CompensationContext, Task, TaskContext, TerminalError, Workflow, task
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import check_same_content
from tests.cluster.test_time import Fault, all_die, leader_dies
from tests.cluster.workload import PATIENCE_S, Number, within, working

ORDERS = 8


class Shop:
    """Books by idempotency key, as real services would keep them."""

    def __init__(self, ledger: Ledger) -> None:
        self.done: Counter[str] = Counter()
        self.undone: Counter[str] = Counter()
        self.refunds_begun = asyncio.Semaphore(0)
        self.refunds_go_on = asyncio.Event()
        steps = [self._reserve(ledger), self._charge(ledger), self._ship(ledger)]
        self.tasks: list[Task[..., int]] = steps
        self.workflow = Workflow("order", input=Number)
        for step in steps:
            self.workflow.step(step, self.workflow.input.x)

    def _reserve(self, ledger: Ledger) -> Task[..., int]:
        @task
        async def reserve(x: int, ctx: TaskContext) -> int:
            ledger.runs(ctx)
            self.done[ctx.idempotency_key] += 1
            return x

        @reserve.compensation
        async def release(x: int, ctx: CompensationContext) -> None:
            ledger.runs(ctx)
            self.undone[ctx.step.idempotency_key] += 1

        return reserve

    def _charge(self, ledger: Ledger) -> Task[..., int]:
        @task
        async def charge(x: int, ctx: TaskContext) -> int:
            ledger.runs(ctx)
            self.done[ctx.idempotency_key] += 1
            return x

        @charge.compensation
        async def refund(x: int, ctx: CompensationContext) -> None:
            ledger.runs(ctx)
            self.refunds_begun.release()
            await self.refunds_go_on.wait()
            self.undone[ctx.step.idempotency_key] += 1

        return charge

    def _ship(self, ledger: Ledger) -> Task[..., int]:
        @task
        async def ship(x: int, ctx: TaskContext) -> int:
            ledger.runs(ctx)
            raise TerminalError("NO_TRUCKS")

        return ship


@pytest.mark.parametrize("fault", [leader_dies, all_die])
async def test_a_compensation_goes_on_where_it_was(
    cluster: LocalCluster, client: Client, ledger: Ledger, fault: Fault
) -> None:
    shop = Shop(ledger)
    async with working(client, shop.tasks):
        runs = [await client.start(shop.workflow, Number(x), id=f"order-{x}") for x in range(ORDERS)]
        for _ in runs:
            await within(shop.refunds_begun.acquire(), "a refund to begin")
        assert {each.status for each in await asyncio.gather(*(run.get() for run in runs))} == {"COMPENSATING"}
        await fault(cluster)
        await cluster.wait_ready()
        assert {each.status for each in await asyncio.gather(*(run.get() for run in runs))} == {"COMPENSATING"}
        shop.refunds_go_on.set()
        ended = await asyncio.gather(*(run.wait(PATIENCE_S, tasks=True) for run in runs))
    for execution in ended:
        assert (execution.status, execution.failed_task) == ("FAILED", "ship")
        assert "NO_TRUCKS" in execution.reason
        assert execution.compensation.state == "COMPLETE" and execution.compensation.left == []
        assert [step.reference for step in execution.compensation.done] == ["charge", "reserve"]
        ran = [each for each in ledger.ran if each.workflow_id == execution.workflow_id]
        assert list(wrong_steps(execution, ran, 1)) == []
    assert len(shop.done) == 2 * ORDERS and set(shop.done.values()) == {1}
    assert shop.undone == shop.done
    await check_same_content(cluster)
