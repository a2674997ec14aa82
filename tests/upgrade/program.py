"""Somebody's program: a client and a worker, on whatever release of the SDK runs it; knows nothing else of us.

python program.py ENDPOINTS PREFIX

Until its standard input ends it starts workflows and executes their tasks; then it prints what it was told and did.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from orchestrator_client import Client, TaskContext, Worker, Workflow, task

LANES = 2
THINKING_S = 0.02
PATIENCE_S = 60.0

acknowledged: dict[str, int] = {}
finished: dict[str, Any] = {}
ran: list[dict[str, Any]] = []


@dataclass
class Number:
    x: int


def note(ctx: TaskContext) -> None:
    ran.append({
        "workflow_id": ctx.workflow_id, "reference": ctx.reference, "iteration": ctx.iteration, "attempt": ctx.attempt,
        "task_id": ctx.task_id, "fencing_token": ctx.fencing_token, "idempotency_key": ctx.idempotency_key,
    })


@task(name="program-double")
async def double(x: int, ctx: TaskContext) -> int:
    note(ctx)
    return 2 * x


@task(name="program-add")
def add(x: int, y: int, ctx: TaskContext) -> int:
    note(ctx)
    return x + y


def workflow() -> Workflow:
    flow = Workflow("program", input=Number)
    once = flow.step(double, flow.input.x)
    flow.returns(total=flow.step(add, flow.step(double, once), flow.input.x))
    return flow


async def lane(client: Client, flow: Workflow, prefix: str, number: int, stopping: asyncio.Event) -> None:
    x = number
    while not stopping.is_set():
        run = await client.start(flow, Number(x), id=f"{prefix}-{x}")
        acknowledged[run.workflow_id] = x
        result = await run.result(timeout_s=PATIENCE_S)
        finished[run.workflow_id] = result.total
        x += LANES
        await asyncio.sleep(THINKING_S)  # others are to get on, too


async def main(endpoints: str, prefix: str) -> None:
    stopping = asyncio.Event()
    async with Client(endpoints) as client:
        worker = Worker(client, [double, add], handle_signals=False)
        working = asyncio.create_task(worker.run())
        lanes = [asyncio.create_task(lane(client, workflow(), prefix, number, stopping)) for number in range(LANES)]
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        await asyncio.wait({ended, *lanes, working}, return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        await asyncio.gather(*lanes)
        await worker.stop(timeout_s=5)
        await working
    import orchestrator_client

    print(json.dumps({
        "sdk": orchestrator_client.__file__, "acknowledged": acknowledged, "finished": finished, "ran": ran}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
