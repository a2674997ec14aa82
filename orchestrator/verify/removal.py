"""Takes away what a run has made: executions and definitions under its prefix, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import time

from orchestrator.verify.work import Work, only_news
from orchestrator_client import Client, NotFound, Worker

REMOVED_S = 120.0
_POLL_S = 0.2
_BATCH = 500


class NotRemoved(Exception):
    """What is left, and why."""


async def remove(client: Client, prefix: str, timeout_s: float = REMOVED_S) -> int:
    """Answers how many executions it has removed. Compensations that are under way are ended by a worker here."""
    work = Work(prefix)
    with only_news():
        removed = await _remove_all_executions(client, work, time.monotonic() + timeout_s)
    for name in work.workflow_names():
        with contextlib.suppress(NotFound):
            await client.delete_workflow_definition(name)
    for name in work.task_names():
        with contextlib.suppress(NotFound):
            await client.delete_task_definition(name)
    return removed


async def _remove_all_executions(client: Client, work: Work, deadline: float) -> int:
    worker = Worker(client, work.tasks, worker_id=f"{work.prefix}-removal", handle_signals=False)
    working = asyncio.create_task(worker.run())
    removed = 0
    try:
        for name in work.workflow_names():
            removed += await _remove_executions(client, name, deadline)
    finally:
        await worker.stop(timeout_s=5)
        with contextlib.suppress(asyncio.CancelledError):
            await working
    return removed


async def _remove_executions(client: Client, name: str, deadline: float) -> int:
    """All that a search finds, until it finds none."""
    removed = 0
    while True:
        found: list[str] = []
        async for execution in client.search(name=name, page_size=_BATCH):
            found.append(execution.workflow_id)
            if len(found) == _BATCH:
                break
        if not found:
            return removed
        done = await client.operate("terminate_and_delete", found, reason="the run is over", compensation="skip",
                                    effects="keep")
        removed += len(done.succeeded)
        if time.monotonic() > deadline:
            raise NotRemoved(f"executions of {name} are left: {dict(list(done.failed.items())[:3])}")
        if done.failed:
            await asyncio.sleep(_POLL_S)  # what compensates ends by itself
