"""`orchestrator workflow search` and `orchestrator task search`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import click

from orchestrator.cli.output import moment, status, table
from orchestrator.cli.session import Session, calls_cluster
from orchestrator.cli.workflow_commands import task, workflow
from orchestrator_client import Client, Execution, FoundTask, Hits

T = TypeVar("T")

__all__ = ["task", "workflow"]

_HELP = "Conditions on fields: \"status IN (FAILED, TIMED_OUT) AND startTime > 2026-11-01\"; a wrong field lists them."


def _asked(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of both searches."""
    for option in reversed((
        click.option("--query", "-q", default="", help=_HELP),
        click.option("--free-text", "-f", default="", help="Some text in it, whatever its case."),
        click.option("--sort", "-s", default="", metavar="FIELD:ASC|DESC", help="The newest first if not given."),
        click.option("--full", is_flag=True, help="With --json: with inputs and outputs."),
        click.option("--conductor", is_flag=True, help="As Conductor shows them, in JSON."),
        click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="0 for all."),
        click.option("--count", is_flag=True, help="Only how many there are; counts up to 10,000."),
    )):
        command = option(command)
    return command


@workflow.command("search")
@_asked
@calls_cluster
async def search_workflows(session: Session, client: Client, *, query: str, free_text: str, sort: str, full: bool,
                           conductor: bool, limit: int, count: bool) -> None:
    """Search workflows by conditions on their fields, and by text in them."""
    if count:
        _show_count(session, await client.count(query=query, free_text=free_text))
        return
    if conductor:
        documents, more = await _first(client.conductor.search(
            query=query, free_text=free_text, sort=sort, full=full, page_size=_page_size(limit)), limit)
        session.output.data(documents)
        _say_more(more, limit)
        return
    found, more = await _first(
        client.search(query=query, free_text=free_text, sort=sort, full=full, page_size=_page_size(limit)), limit)
    session.output.show(found, table(("ID", "WORKFLOW", "V", "STATUS", "STARTED", "ENDED", "REASON"),
                                     [_execution(one) for one in found], right=[2]))
    _say_more(more, limit)


@task.command("search")
@_asked
@calls_cluster
async def search_tasks(session: Session, client: Client, *, query: str, free_text: str, sort: str, full: bool,
                       conductor: bool, limit: int, count: bool) -> None:
    """Search attempts of tasks by conditions on their fields, and by text in them."""
    if count:
        _show_count(session, await client.count_tasks(query=query, free_text=free_text))
        return
    if conductor:
        documents, more = await _first(client.conductor.search_tasks(
            query=query, free_text=free_text, sort=sort, full=full, page_size=_page_size(limit)), limit)
        session.output.data(documents)
        _say_more(more, limit)
        return
    found, more = await _first(
        client.search_tasks(query=query, free_text=free_text, sort=sort, full=full, page_size=_page_size(limit)), limit)
    session.output.show(found, table(("TASK", "WORKFLOW", "ID", "TRY", "STATUS", "WORKER", "SCHEDULED", "REASON"),
                                     [_task(one) for one in found], right=[3]))
    _say_more(more, limit)


async def _first(found: AsyncIterator[T], limit: int) -> tuple[list[T], bool]:
    """As many as were asked for, and whether there are more."""
    kept: list[T] = []
    async for one in found:
        if limit and len(kept) == limit:
            return kept, True
        kept.append(one)
    return kept, False


def _show_count(session: Session, hits: Hits) -> None:
    session.output.show(hits, f"{hits.count}{' or more' if hits.is_lower_bound else ''}")


def _page_size(limit: int) -> int:
    return min(limit + 1, 1_000) if limit else 1_000


def _say_more(more: bool, limit: int) -> None:
    if more:
        click.echo(f"there are more; these are the first {limit} (--limit 0 for all)", err=True)


def _execution(one: Execution) -> tuple[Any, ...]:
    return (one.workflow_id, one.name, one.version, status(one.status), moment(one.start_time), moment(one.end_time),
            one.reason)


def _task(one: FoundTask) -> tuple[Any, ...]:
    return (one.task.reference, one.workflow_name, one.workflow_id, one.task.attempt, status(one.task.status),
            one.task.worker_id, moment(one.task.scheduled_time), one.task.reason)
