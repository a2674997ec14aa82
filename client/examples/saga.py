"""A saga to break: the goods are packed when you say so, then no truck is found, and the money goes back.

    python client/examples/saga.py                          then, in another terminal:
    orchestrator workflow signal order-1 packed
"""

from __future__ import annotations

import asyncio
import os
import sys

import orchestrator_client
from orchestrator_client import Client, TerminalError, Worker, Workflow, WorkflowFailed, task


@task
async def charge(order: str, cents: int) -> str:
    print(f"charge {cents} for {order}", flush=True)
    return "receipt 17"


@charge.compensation                                # done is None: nobody knows whether it happened
async def refund(order: str, cents: int, done: str | None) -> None:
    print(f"refund {cents} for {order}, {done}", flush=True)


@task
async def ship(order: str, receipt: str) -> str:
    raise TerminalError("NO_TRUCKS", "all trucks are out")      # no retry: the saga turns round


saga = Workflow("order", version=1)
receipt = saga.step(charge, saga.input.order, saga.input.cents)
saga.wait(signal="packed")
sent = saga.step(ship, saga.input.order, receipt, pivot=True)   # once it has completed, nothing is undone
saga.returns(tracking=sent)


async def main(endpoints: str) -> None:
    tls, shown = orchestrator_client.TLS.from_environment(), os.environ.get("ORCHESTRATOR_TOKEN_FILE")
    async with Client(endpoints, tls=tls, token_file=shown) as client:
        worker = Worker(client, tasks=[charge, ship])
        working = asyncio.create_task(worker.run())
        run = await client.start(saga, {"order": "order-1", "cents": 1200}, id="order-1", if_exists="return")
        try:
            print((await run.result()).tracking)
        except WorkflowFailed as failed:
            print(f"{failed.reason}; compensation {failed.compensation.state}")
        await worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:7400,localhost:7401,localhost:7402"))
