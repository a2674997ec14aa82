"""`orchestrator task`: what concerns tasks apart from their workflows."""

from __future__ import annotations

from collections.abc import Sequence

import click

from orchestrator.cli.output import table
from orchestrator.cli.session import Session, calls_cluster
from orchestrator.cli.workflow_commands import task
from orchestrator_client import Client, TaskQueue

__all__ = ["task"]


@task.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--workers", is_flag=True, help="Who serves them, and who polled last.")
@calls_cluster
async def queues(session: Session, client: Client, names: Sequence[str], workers: bool) -> None:
    """Show what waits for workers: of these tasks or queues, or in all.

    A queue is called [domain:]task[@executionNameSpace][-isolationGroupId].

    A queue needs no repair: what waits is part of the state, so there is nothing to put back into it.
    """
    found = await client.task_queues(*names)
    if workers:
        polls = [(q.queue, w.worker_id, w.slots or "", w.used if w.slots else "", _seconds(w.last_poll_age_ms))
                 for q in found for w in q.workers]
        headings: Sequence[str] = ("QUEUE", "WORKER", "SLOTS", "USED", "LAST POLL")
        session.output.show(found, table(headings, polls, right=[2, 3, 4]))
        return
    rows = [(q.queue, q.ready, _seconds(q.oldest_ready_age_ms), q.leased, _limits(q), q.worker_count)
            for q in found]
    headings = ("QUEUE", "WAITING", "OLDEST", "WITH WORKERS", "LIMITS", "WORKERS")
    session.output.show(found, table(headings, rows, right=[1, 2, 3, 5]))


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds else ""


def _limits(queue: TaskQueue) -> str:
    limits = [f"{queue.concurrent_limit} at once"] if queue.concurrent_limit else []
    if queue.rate_limit:
        given = f"{queue.handed_out_in_window} of {queue.rate_limit}"
        limits.append(f"{given} in {queue.rate_window_ms / 1000:g} s")
    return ", ".join(limits) + (" (held back)" if queue.held_back else "")
