"""`orchestrator event`: what is to be done when something has happened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.output import compact, facts, moment, status, table
from orchestrator.cli.session import Session, calls_cluster, json_object
from orchestrator_client import Client, EventRun
from orchestrator_client.definitions import load_file

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_NAME = click.argument("name")


@click.group()
def event() -> None:
    """Publish events, and say what is to be done with them."""


@event.command()
@_NAME
@click.option("--payload", "-p", type=json_object, metavar="JSON|@FILE|@-", help="What has happened.")
@click.option("--message-id", default="", help="Your name for this message: the same again does nothing for a day.")
@calls_cluster
async def publish(session: Session, client: Client, name: str, payload: dict[str, Any] | None, message_id: str) -> None:
    """Publish the event NAME."""
    published = await client.events.publish(name, payload or {}, message_id=message_id)
    said = f"published {name}: {published.handlers} handlers"
    session.output.said("published before: nothing was done" if published.repeated else said, published)


@event.group()
def handler() -> None:
    """Event handlers."""


@handler.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_FILE)
@calls_cluster
async def put(session: Session, client: Client, files: Sequence[Path]) -> None:
    """Create the handlers in JSON or YAML files, or replace those of their names."""
    names = []
    for document in [document for file in files for document in load_file(file)]:
        await client.events.put_handler(document)
        names.append(str(document.get("name", "")))
    session.output.said(f"put {', '.join(names)}", {"put": names})


@handler.command()
@_NAME
@calls_cluster
async def get(session: Session, client: Client, name: str) -> None:
    """Show one handler."""
    document = await client.events.handler(name)
    shown = [
        ("handler", document["name"]), ("event", document["event"]), ("active", _active(document)),
        ("condition", document.get("condition")),
        *((f"action {number}", compact(each)) for number, each in enumerate(document["actions"], 1)),
    ]
    session.output.show(document, facts(shown))


@handler.command("list")
@click.option("--event", "of_event", default="", help="Only those of this event.")
@calls_cluster
async def list_handlers(session: Session, client: Client, of_event: str) -> None:
    """List the handlers by name."""
    found = [each async for each in client.events.handlers(of_event)]
    rows = [(each["name"], each["event"], _active(each), ", ".join(one["action"] for one in each["actions"]),
             each.get("condition", "")) for each in found]
    session.output.show(found, table(("HANDLER", "EVENT", "ACTIVE", "ACTIONS", "CONDITION"), rows))


@handler.command()
@_NAME
@calls_cluster
async def delete(session: Session, client: Client, name: str) -> None:
    """Remove a handler; what it has begun is done."""
    await client.events.delete_handler(name)
    session.output.said(f"deleted {name}", {"deleted": name})


@event.command()
@click.option("--handler", "of_handler", default="", help="Only of this handler.")
@click.option("--event", "of_event", default="", help="Only of this event.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@calls_cluster
async def runs(session: Session, client: Client, of_handler: str, of_event: str, limit: int) -> None:
    """List what handlers have done, the newest first."""
    found: list[EventRun] = []
    async for run in client.events.runs(handler=of_handler, event=of_event, page_size=min(limit, 1_000)):
        found.append(run)
        if len(found) == limit:
            break
    rows = [(moment(each.end_time), each.event, each.handler, each.action, status(each.state), each.workflow_id,
             each.reason) for each in found]
    session.output.show(found, table(("TIME", "EVENT", "HANDLER", "ACTION", "STATE", "WORKFLOW ID", "REASON"), rows))


@event.command()
@calls_cluster
async def pending(session: Session, client: Client) -> None:
    """List events that are not done with, the oldest first."""
    found = [each async for each in client.events.pending()]
    rows = [(each.event_number, each.event, moment(each.publish_time), ", ".join(each.undecided_handlers),
             each.under_way) for each in found]
    headings = ("NUMBER", "EVENT", "PUBLISHED", "CONDITIONS TO EVALUATE", "UNDER WAY")
    session.output.show(found, table(headings, rows, right=[0, 4]))


def _active(document: dict[str, Any]) -> str:
    return "yes" if document.get("active") else "no"
