"""`orchestrator service`: where services are and how they are called, so that workflows need not say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import click

from orchestrator.cli import exits
from orchestrator.cli.output import facts, plain, table
from orchestrator.cli.session import Session, calls_cluster
from orchestrator_client import Client
from orchestrator_client.definitions import load_file

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_NAME = click.argument("name")


@click.group()
def service() -> None:
    """Register services, which HTTP and GRPC tasks call by name."""


@service.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=_FILE)
@click.option("--descriptor-set", type=click.File("rb"), metavar="FILE",
              help="Of the one GRPC service given: what `protoc --include_imports --descriptor_set_out` wrote.")
@calls_cluster
async def register(session: Session, client: Client, files: Sequence[Path], descriptor_set: BinaryIO | None) -> None:
    """Register the services in JSON or YAML files, or replace their records."""
    records = [record for file in files for record in load_file(file)]
    if descriptor_set is not None and len(records) != 1:
        raise exits.Failure(f"--descriptor-set is for one service, not {len(records)}", exits.USAGE)
    descriptors = None if descriptor_set is None else descriptor_set.read()
    names = []
    for record in records:
        await client.register_service(record, descriptor_set=descriptors)
        names.append(str(record.get("name", "")))
    session.output.said(f"registered {', '.join(names)}", {"registered": names})


@service.command()
@_NAME
@calls_cluster
async def get(session: Session, client: Client, name: str) -> None:
    """Show the record of a service."""
    record = await client.service(name)
    session.output.show(record, facts(_facts(record)))


@service.command("list")
@calls_cluster
async def list_services(session: Session, client: Client) -> None:
    """List the services by name."""
    records = [record async for record in client.services()]
    rows = [(record["name"], record.get("protocol", "HTTP"), ", ".join(record["endpoints"])) for record in records]
    session.output.show(records, table(("SERVICE", "PROTOCOL", "ENDPOINTS"), rows))


@service.command()
@_NAME
@calls_cluster
async def delete(session: Session, client: Client, name: str) -> None:
    """Remove a service; tasks that name it fail from then on."""
    await client.delete_service(name)
    session.output.said(f"deleted {name}", {"deleted": name})


def _facts(record: dict[str, Any]) -> list[tuple[str, Any]]:
    """One for each field, in the order of the document; of a descriptor set only that it is there."""
    return [(key, _shown(key, value)) for key, value in record.items()]


def _shown(key: str, value: Any) -> str:
    if key == "descriptorSet":
        return f"{len(str(value)) // 4 * 3:,} bytes"
    if isinstance(value, str):
        return value
    if key == "endpoints":
        return ", ".join(value)
    return json.dumps(plain(value), ensure_ascii=True)
