"""`orchestrator event`: what is to be done when something has happened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from orchestrator.cli.output import compact, facts, moment, stacked, status, table, visible
from orchestrator.cli.session import Session, calls_cluster, json_object
from orchestrator_client import Client, EventRun, TrailEntry, TrailEntryKind
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
@click.option("--correlation-id", default="", help="What it belongs to: see `event trail`.")
@click.option("--source", default="", help="The service that publishes it.")
@calls_cluster
async def publish(session: Session, client: Client, name: str, payload: dict[str, Any] | None, message_id: str,
                  correlation_id: str, source: str) -> None:
    """Publish the event NAME."""
    published = await client.events.publish(
        name, payload or {}, message_id=message_id, correlation_id=correlation_id, source=source
    )
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


@event.command()
@click.argument("correlation_id", metavar="ID")
@calls_cluster
async def trail(session: Session, client: Client, correlation_id: str) -> None:
    """Show everything under a correlation ID: events, what they led to, and the workflows that took part."""
    found = [entry async for entry in client.events.trail(correlation_id)]
    lines = {entry.number: position for position, entry in enumerate(found, 1) if entry.number}
    rows = [(position, moment(entry.time, milliseconds=True), *_told(entry), _cause(entry, lines), entry.reason)
            for position, entry in enumerate(found, 1)]
    headings = ("LINE", "TIME", "WHO", "WHAT", "CAUSED BY", "REASON")
    session.output.show(found, table(headings, rows, right=[0]))


def _told(entry: TrailEntry) -> tuple[str, Text]:
    """Who, and what."""
    execution = f"{entry.workflow} {entry.workflow_id}".strip()
    said = f"{entry.event} {f'({entry.event_label})' if entry.event_label else ''}".strip()
    match entry.kind:
        case TrailEntryKind.EVENT_OUT:
            return f"workflow {execution}", visible(f"publishes {said}")
        case TrailEntryKind.EVENT_IN if entry.caused_by:
            return "stream", visible(f"brings {said}")
        case TrailEntryKind.EVENT_IN if entry.failed:
            return f"service {entry.source}".strip(), Text.assemble(visible(f"publishes {said} "), status("FAILED"))
        case TrailEntryKind.EVENT_IN:
            return f"service {entry.source}" if entry.source else "a service", visible(f"publishes {said}")
        case TrailEntryKind.ACTION:
            outcome = status("FAILED" if entry.failed else "COMPLETED")
            who = f"handler {entry.handler}" if entry.handler else "kept event"
            did = "".join(f"{each} " for each in (entry.action, execution) if each)
            return who, Text.assemble(visible(did), outcome)
        case TrailEntryKind.WORKFLOW_STARTED:
            return f"workflow {execution}", visible("begins")
        case TrailEntryKind.WORKFLOW_ENDED:
            return f"workflow {execution}", Text.assemble("ends ", status(entry.workflow_status))
        case _:
            return "", visible("something that this version does not know")


def _cause(entry: TrailEntry, lines: dict[int, int]) -> str:
    """Another line, or what this one itself knows of it."""
    if entry.caused_by in lines:
        return f"line {lines[entry.caused_by]}"
    match entry.kind:
        case TrailEntryKind.EVENT_OUT:
            return entry.source
        case TrailEntryKind.ACTION:
            return f"event {entry.event} {entry.event_id}".rstrip()
        case _:
            return f"workflow {entry.parent_workflow_id}" if entry.parent_workflow_id else ""


@event.command()
@calls_cluster
async def streams(session: Session, client: Client) -> None:
    """Show how the streams of Redis do that events go to and come from."""
    found = await client.events.streams()
    leaving = [(each.stream, each.owed_events, each.owed_bytes, moment(each.oldest_time), each.last_error)
               for each in found.outgoing]
    coming = [(each.stream, each.group, each.cursor, each.received, each.repeated, each.dead_letters,
               "" if each.lag is None else each.lag, each.last_error) for each in found.incoming]
    link = "not configured" if not found.configured else "connected" if found.connected else "not connected"
    session.output.show(found, stacked(
        facts([("Redis", link), ("last error", found.last_error)]), "",
        table(("OWED TO STREAM", "EVENTS", "BYTES", "OLDEST", "ERROR"), leaving, right=[1, 2]), "",
        table(("READ FROM STREAM", "GROUP", "CURSOR", "RECEIVED", "REPEATED", "DEAD", "LAG", "ERROR"), coming,
              right=[3, 4, 5, 6]),
    ))


def _active(document: dict[str, Any]) -> str:
    return "yes" if document.get("active") else "no"
