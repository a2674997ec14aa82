"""`orchestrator workflow` and `orchestrator task`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from orchestrator.cli import exits
from orchestrator.cli.output import compact, facts, moment, stacked, status, table, visible
from orchestrator.cli.session import Session, calls_cluster, json_object
from orchestrator_client import Client, CompensationState, Execution, WorkflowStatus

_DEFINITIONS = click.Path(exists=True, dir_okay=False, readable=True)
_ID = click.argument("workflow_id", metavar="ID")
_DATES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S%z"]


@click.group()
def workflow() -> None:
    """Register, start, watch and operate workflows."""


@click.group()
def task() -> None:
    """Register tasks, and remove their definitions."""


async def _register(session: Session, client: Client, files: Sequence[str], overwrite: bool = False) -> None:
    await client.register(*files, overwrite=overwrite)
    session.output.said(f"registered {', '.join(files)}", {"registered": list(files)})


@workflow.command("register")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_DEFINITIONS)
@click.option("--overwrite", is_flag=True, help="Replace a version that has other content.")
@calls_cluster
async def register_workflow(session: Session, client: Client, files: Sequence[str], overwrite: bool) -> None:
    """Register the workflows and tasks in JSON or YAML files."""
    await _register(session, client, files, overwrite)


@workflow.command("validate")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_DEFINITIONS)
@calls_cluster
async def validate_workflow(session: Session, client: Client, files: Sequence[str]) -> None:
    """Check the workflows in JSON or YAML files as registration does, and store nothing."""
    await client.validate(*files)
    session.output.said(f"valid: {', '.join(files)}", {"valid": list(files)})


@task.command("register")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_DEFINITIONS)
@calls_cluster
async def register_task(session: Session, client: Client, files: Sequence[str]) -> None:
    """Register the tasks in JSON or YAML files."""
    await _register(session, client, files)


@workflow.command("unregister")
@click.argument("name")
@click.option("--version", type=click.IntRange(min=1), help="The one to remove.")
@click.option("--all-versions", is_flag=True, help="Every version that there is.")
@calls_cluster
async def unregister_workflow(
    session: Session, client: Client, name: str, version: int | None, all_versions: bool
) -> None:
    """Remove a workflow's definition: what has begun keeps it, and nothing begins by it any more."""
    if (version is None) is not all_versions:
        raise click.UsageError("either --version or --all-versions")
    await client.delete_workflow_definition(name, version)
    which = f"{name} version {version}" if version else name
    session.output.said(f"unregistered {which}", {"unregistered": which})


@task.command("unregister")
@click.argument("name")
@calls_cluster
async def unregister_task(session: Session, client: Client, name: str) -> None:
    """Remove a task's definition: what has begun keeps it."""
    await client.delete_task_definition(name)
    session.output.said(f"unregistered {name}", {"unregistered": name})


@workflow.command()
@_ID
@click.option("--conductor", is_flag=True, help="As Conductor shows it, in JSON.")
@click.option("--no-tasks", is_flag=True, help="Without its tasks: a large one does not fit into a message with them.")
@calls_cluster
async def get(session: Session, client: Client, workflow_id: str, conductor: bool, no_tasks: bool) -> None:
    """Show one workflow with its tasks."""
    if conductor:
        session.output.data(await client.conductor.get(workflow_id, tasks=not no_tasks))
        return
    execution = await client.get(workflow_id, tasks=not no_tasks)
    session.output.show(execution, describe(execution))


@workflow.command("list")
@click.option("--name", default="", help="Of the definition.")
@click.option("--status", "statuses", multiple=True, help="Any of these; may be repeated.",
              type=click.Choice([s for s in WorkflowStatus if s != WorkflowStatus.UNKNOWN], case_sensitive=False))
@click.option("--compensation", "compensations", multiple=True, help="Any of these; may be repeated.",
              type=click.Choice([s for s in CompensationState if s != CompensationState.UNKNOWN], case_sensitive=False))
@click.option("--correlation-id", default="")
@click.option("--started-from", type=click.DateTime(_DATES), help="Local time unless it says otherwise.")
@click.option("--started-before", type=click.DateTime(_DATES))
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="0 for all.")
@calls_cluster
async def list_workflows(session: Session, client: Client, *, name: str, statuses: Sequence[str],
                         compensations: Sequence[str], correlation_id: str, started_from: datetime | None,
                         started_before: datetime | None, limit: int) -> None:
    """List workflows, the newest first."""
    found: list[Execution] = []
    more = False
    async for execution in client.search(
            name=name, statuses=statuses, compensation_states=compensations, correlation_id=correlation_id,
            started_from=_aware(started_from), started_before=_aware(started_before),
            page_size=min(limit + 1, 1_000) if limit else 1_000):
        if limit and len(found) == limit:
            more = True
            break
        found.append(execution)
    rows = [(e.workflow_id, e.name, e.version, status(e.status), moment(e.start_time), moment(e.end_time), e.reason)
            for e in found]
    session.output.show(found, table(("ID", "WORKFLOW", "V", "STATUS", "STARTED", "ENDED", "REASON"), rows, right=[2]))
    if more:
        click.echo(f"there are more; these are the newest {limit} (--limit 0 for all)", err=True)


@workflow.command()
@_ID
@calls_cluster
async def watch(session: Session, client: Client, workflow_id: str) -> int | None:
    """Print every change of a workflow until its end."""
    seen: dict[str, str] = {}
    last: Execution | None = None
    async for execution in client.watch(workflow_id, tasks=True):
        if session.as_json:
            session.output.data(execution, on_one_line=True)
        else:
            _print_changes(session, execution, last, seen)
        last = execution
    return None if last is None or last.status == WorkflowStatus.COMPLETED else exits.FAILED


def _print_changes(session: Session, now: Execution, before: Execution | None, seen: dict[str, str]) -> None:
    clock = now.update_time.astimezone().strftime("%H:%M:%S.%f")[:-3] if now.update_time else ""
    for attempt in now.tasks:
        if seen.get(attempt.task_id) == attempt.status:
            continue
        seen[attempt.task_id] = attempt.status
        tries = f" #{attempt.attempt}" if attempt.attempt > 1 else ""
        undoes = f" (undoes {attempt.compensates})" if attempt.compensates else ""
        line = visible(f"{clock}  {attempt.reference}{tries}{undoes}  ").append_text(status(attempt.status))
        session.output.show(None, line.append_text(visible(f"  {attempt.reason}" if attempt.reason else "")))
    if before is None or before.status != now.status or before.compensation.state != now.compensation.state:
        line = visible(f"{clock}  {now.workflow_id}  ").append_text(status(now.status))
        session.output.show(None, line.append_text(visible(f"  {now.reason}" if now.reason else "")))


@workflow.command()
@_ID
@click.option("--wait-timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Give up waiting.")
@calls_cluster
async def wait(session: Session, client: Client, workflow_id: str, wait_timeout: float | None) -> int | None:
    """Wait for the end of a workflow; exit code 1 if it did not end well."""
    return show_end(session, await client.wait(workflow_id, wait_timeout, tasks=True))


@workflow.command()
@_ID
@click.argument("name")
@click.option("--payload", "-p", type=json_object, metavar="JSON|@FILE|@-",
              help="The output of the task that waits for it.")
@calls_cluster
async def signal(session: Session, client: Client, workflow_id: str, name: str, payload: dict[str, Any] | None) -> None:
    """Give a workflow the signal NAME; kept until a task waits for it."""
    await client.signal(workflow_id, name, payload or {})
    _done(session, workflow_id, f"signalled {name} to")


@workflow.group()
def compensation() -> None:
    """Decide about a compensation that is stuck."""


@compensation.command("retry")
@_ID
@calls_cluster
async def retry_compensation(session: Session, client: Client, workflow_id: str) -> None:
    """Give it a fresh set of attempts."""
    await client.retry_compensation(workflow_id)
    _done(session, workflow_id, "retried the compensation of")


@compensation.command("skip")
@_ID
@calls_cluster
async def skip_compensation(session: Session, client: Client, workflow_id: str) -> None:
    """Record it as left, and go on with the next."""
    await client.skip_compensation(workflow_id)
    _done(session, workflow_id, "skipped the compensation that was stuck of")


@compensation.command("abandon")
@_ID
@click.option("--reason", default="", help="Why; shown wherever the workflow is.")
@calls_cluster
async def abandon_compensation(session: Session, client: Client, workflow_id: str, reason: str) -> None:
    """End the workflow with steps left that were not undone."""
    await client.abandon_compensation(workflow_id, reason)
    _done(session, workflow_id, "abandoned the compensation of")


def describe(execution: Execution) -> Any:
    """One workflow for people."""
    report = execution.compensation
    steps = [f"{step.reference}{' (outcome unknown)' if step.outcome_unknown else ''}" for step in report.left]
    head = facts((
        ("workflow", f"{execution.name} version {execution.version}"), ("id", execution.workflow_id),
        ("status", status(execution.status)), ("reason", execution.reason), ("failed task", execution.failed_task),
        ("waits for", execution.waiting_for), ("idempotency key", execution.idempotency_key),
        ("correlation id", execution.correlation_id),
        ("started", moment(execution.start_time)), ("ended", moment(execution.end_time)),
        ("input", compact(execution.input)), ("output", compact(execution.output)),
        ("compensation", status(report.state) if report.state != CompensationState.NONE else ""),
        ("undone", ", ".join(step.reference for step in report.done)),
        ("not undone" if execution.status.ended else "to undo if it fails", ", ".join(steps)),
    ))
    if not execution.tasks:
        return head
    rows = [(t.reference, f"undoes {t.compensates}" if t.compensates else t.type, t.attempt, status(t.status),
             t.worker_id, moment(t.end_time), t.reason) for t in execution.tasks]
    return stacked(head, "", table(("TASK", "TYPE", "TRY", "STATUS", "WORKER", "ENDED", "REASON"), rows, right=[2]))


def show_end(session: Session, execution: Execution) -> int | None:
    session.output.show(execution, describe(execution))
    return None if execution.status == WorkflowStatus.COMPLETED else exits.FAILED


def _done(session: Session, workflow_id: str, what: str) -> None:
    session.output.said(f"{what} {workflow_id}", {"workflow_id": workflow_id, "done": what.split(maxsplit=1)[0]})


def _aware(value: datetime | None) -> datetime | None:
    return value.astimezone() if value is not None else None
