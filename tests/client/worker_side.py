"""Workers, tasks and assignments that the worker's tests share."""


from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_client import (
    Client,
    CompensationContext,
    Task,
    TaskContext,
    Worker,
    task,
)
from tests.client.fake_cluster import FakeCluster, WorkStream


def assignment(name: str, number: int = 1, token: int = 1, input: str = "{}", **fields: Any) -> pb.Assignment:
    return pb.Assignment(
        workflow_id="w",
        task_id=f"t{number}",
        fencing_token=token,
        idempotency_key=f"key-{number}",
        name=name,
        reference=name,
        input=Payload(inline=input.encode()),
        **fields,
    )


class Gate:
    """A task that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.runs = 0

        @task(name="gated")
        async def gated() -> str:
            self.runs += 1
            self.started.set()
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return "done"

        self.task = gated

    async def wait(self, event: asyncio.Event) -> None:
        async with asyncio.timeout(60):
            await event.wait()


@dataclass
class Running:
    worker: Worker
    run: asyncio.Task[None]


@asynccontextmanager
async def working(client: Client, *tasks: Task[..., Any], **options: Any) -> AsyncIterator[Running]:
    worker = Worker(client, tasks, handle_signals=False, **options)
    run = asyncio.ensure_future(worker.run())
    try:
        yield Running(worker, run)
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


@asynccontextmanager
async def streaming(cluster: FakeCluster, client: Client, *tasks: Task[..., Any]) -> AsyncIterator[WorkStream]:
    async with working(client, *tasks):
        stream = await cluster.stream()
        stream.welcome()
        yield stream


@dataclass
class Order:
    id: str
    quantity: int = 1


@dataclass
class Charge:
    receipt: str


@task
async def charge(order: Order, ctx: TaskContext) -> Charge:
    return Charge(f"{order.id} {ctx.idempotency_key} {ctx.attempt}")


@charge.compensation
async def refund(order: Order, done: Charge | None, ctx: CompensationContext) -> dict[str, Any]:
    receipt = done.receipt if done else None
    return {"order": order.id, "receipt": receipt, "key": ctx.step.idempotency_key, "outcome": ctx.outcome}


