"""`orchestrator schema`: JSON schemas that inputs and outputs have to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from orchestrator.cli.output import table
from orchestrator.cli.session import Session, calls_cluster
from orchestrator_client import Client
from orchestrator_client.definitions import load_file

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_NAME = click.argument("name")


@click.group()
def schema() -> None:
    """Register JSON schemas, which definitions name as inputSchema and outputSchema."""


@schema.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_FILE)
@click.option("--overwrite", is_flag=True, help="Replace versions that are registered with another content.")
@calls_cluster
async def register(session: Session, client: Client, files: Sequence[Path], overwrite: bool) -> None:
    """Register the schemas in JSON or YAML files: records with name, version and data."""
    records = [record for file in files for record in load_file(file)]
    await client.schemas.register_records(*records, overwrite=overwrite)
    names = [f"{record.get('name', '')} version {record.get('version') or 1}" for record in records]
    session.output.said(f"registered {', '.join(names)}", {"registered": names})


@schema.command()
@_NAME
@click.option("--version", type=click.IntRange(min=1), help="The highest if not given.")
@calls_cluster
async def get(session: Session, client: Client, name: str, version: int | None) -> None:
    """Show the record of a schema, the schema itself included."""
    session.output.data(await client.schemas.get(name, version))


@schema.command("list")
@calls_cluster
async def list_schemas(session: Session, client: Client) -> None:
    """List the schemas by name and version."""
    records = [record async for record in client.schemas.list()]
    rows = [(record["name"], str(record.get("version") or 1), record.get("description") or "") for record in records]
    session.output.show(records, table(("SCHEMA", "VERSION", "DESCRIPTION"), rows))


@schema.command()
@_NAME
@click.option("--version", type=click.IntRange(min=1), help="All versions if not given.")
@calls_cluster
async def delete(session: Session, client: Client, name: str, version: int | None) -> None:
    """Remove a schema: what has begun keeps it, and nothing begins that names it."""
    await client.schemas.delete(name, version)
    which = f"{name} version {version}" if version else name
    session.output.said(f"deleted {which}", {"deleted": which})
