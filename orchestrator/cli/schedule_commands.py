"""`orchestrator schedule`: workflows that are started at the times of cron expressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import exits
from orchestrator.cli.output import compact, facts, moment, status, table
from orchestrator.cli.session import Session, calls_cluster
from orchestrator_client import Client, FireTime, Schedule
from orchestrator_client.definitions import load_file

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_NAME = click.argument("name")
_REASON = click.option("--reason", default="", help="Why; shown wherever the schedule is.")


@click.group()
def schedule() -> None:
    """Start workflows at the times of cron expressions."""


@schedule.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_FILE)
@calls_cluster
async def put(session: Session, client: Client, files: Sequence[Path]) -> None:
    """Create the schedules in JSON or YAML files, or replace those of their names."""
    names = []
    for document in [document for file in files for document in load_file(file)]:
        await client.schedules.put(document)
        names.append(str(document.get("name", "")))
    session.output.said(f"put {', '.join(names)}", {"put": names})


@schedule.command()
@_NAME
@calls_cluster
async def get(session: Session, client: Client, name: str) -> None:
    """Show one schedule."""
    found = await client.schedules.get(name)
    session.output.show(found, facts(_facts(found)))


@schedule.command("list")
@calls_cluster
async def list_schedules(session: Session, client: Client) -> None:
    """List the schedules by name."""
    found = [each async for each in client.schedules.list()]
    rows = [(each.name, _crons(each), _request(each).get("name", ""), _state(each), moment(each.next_time))
            for each in found]
    session.output.show(found, table(("SCHEDULE", "TIMES", "WORKFLOW", "STATE", "NEXT"), rows))
    if await client.schedules.all_paused():
        click.echo("all schedules are paused (orchestrator schedule resume-all)", err=True)


@schedule.command()
@_NAME
@calls_cluster
async def delete(session: Session, client: Client, name: str) -> None:
    """Remove a schedule; executions go on."""
    await client.schedules.delete(name)
    session.output.said(f"deleted {name}", {"deleted": name})


@schedule.command()
@_NAME
@_REASON
@calls_cluster
async def pause(session: Session, client: Client, name: str, reason: str) -> None:
    """Run nothing until `resume`."""
    await client.schedules.pause(name, reason)
    session.output.said(f"paused {name}", {"paused": name})


@schedule.command()
@_NAME
@calls_cluster
async def resume(session: Session, client: Client, name: str) -> None:
    """Go on after `pause`."""
    await client.schedules.resume(name)
    session.output.said(f"resumed {name}", {"resumed": name})


@schedule.command("pause-all")
@_REASON
@calls_cluster
async def pause_all(session: Session, client: Client, reason: str) -> None:
    """Pause all schedules of the cluster, in all namespaces."""
    await client.schedules.pause_all(reason)
    session.output.said("paused all schedules", {"paused": "all"})


@schedule.command("resume-all")
@calls_cluster
async def resume_all(session: Session, client: Client) -> None:
    """Go on after `pause-all`; what is paused itself stays so."""
    await client.schedules.resume_all()
    session.output.said("resumed all schedules", {"resumed": "all"})


@schedule.command()
@_NAME
@calls_cluster
async def run(session: Session, client: Client, name: str) -> None:
    """Run a schedule now, whatever its times are."""
    started = await client.schedules.run(name)
    what = f"started {started.workflow_id}" if started.workflow_id else "the run waits for the end of the one before"
    session.output.said(what, started)


@schedule.command()
@_NAME
@calls_cluster
async def runs(session: Session, client: Client, name: str) -> None:
    """List the newest runs of a schedule, the newest first."""
    found = await client.schedules.runs(name)
    rows = [(moment(each.scheduled_time), status(each.state), each.count if each.count > 1 else "", each.workflow_id,
             each.cron or "by hand", each.reason) for each in found]
    session.output.show(found, table(("TIME", "STATE", "TIMES", "WORKFLOW ID", "CRON", "REASON"), rows, right=[2]))


@schedule.command()
@click.argument("name", required=False)
@click.option("--file", "-f", type=_FILE, help="Of a schedule that is only thought of.")
@click.option("--count", type=click.IntRange(1, 100), default=5, show_default=True)
@calls_cluster
async def times(session: Session, client: Client, name: str | None, file: Path | None, count: int) -> None:
    """Show the next times of the schedule NAME, or of the one in a file."""
    if (name is None) == (file is None):
        raise exits.Failure("give the name of a schedule, or a file", exits.USAGE)
    found: tuple[FireTime, ...] = ()
    if name is not None:
        found = await client.schedules.fire_times(name, count)
    elif file is not None:
        documents = load_file(file)
        if len(documents) != 1:
            raise exits.Failure(f"{file} has {len(documents)} schedules, not one", exits.USAGE)
        found = await client.schedules.fire_times(documents[0], count)
    session.output.show(found, table(("TIME", "CRON"), [(moment(each.time), each.cron) for each in found]))


def _facts(found: Schedule) -> list[tuple[str, Any]]:
    document, request = found.document, _request(found)
    return [
        ("schedule", found.name), ("description", document.get("description")), ("times", _crons(found)),
        ("workflow", request.get("name")), ("input", compact(request.get("input"))), ("state", _state(found)),
        ("reason", found.paused_reason), ("next", moment(found.next_time)),
        ("if runs overlap", document.get("overlapPolicy")), ("running", found.running_workflow_id),
        ("created", moment(found.create_time)), ("changed", moment(found.update_time)),
    ]


def _request(found: Schedule) -> dict[str, Any]:
    request: dict[str, Any] = found.document["startWorkflowRequest"]
    return request


def _crons(found: Schedule) -> str:
    document = found.document
    crons = document.get("cronSchedules") or [document]
    return ", ".join(f"{cron['cronExpression']} {cron.get('zoneId') or 'UTC'}" for cron in crons)


def _state(found: Schedule) -> Any:
    return status("PAUSED" if found.paused else "ENDED" if found.ended else "ACTIVE")
