"""`orchestrator secret`: values that tasks get when they are handed out. They come from a file, stdin or a prompt."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from orchestrator.cli import exits
from orchestrator.cli.output import moment, table
from orchestrator.cli.session import Session, calls_cluster, common_options, current_session
from orchestrator.engine import limits
from orchestrator.sealing.errors import KeyFileInvalid
from orchestrator.sealing.key_file import load_keys
from orchestrator.sealing.keys import new_key_line
from orchestrator_client import Client
from orchestrator_client.secrets import SecretInfo

_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_NAME = click.argument("name")


@click.group()
def secret() -> None:
    """Put, list and delete secrets; make and change the keys that seal them."""


@secret.command()
@_NAME
@click.option("--from-file", type=_FILE, help="Where the value is; otherwise stdin, or a prompt.")
@calls_cluster
async def put(session: Session, client: Client, name: str, from_file: Path | None) -> None:
    """Put a secret, or another value in its place.

    One end of line at the end of the value is left out. It is never an argument: those are seen by all of a machine.
    """
    version = await client.secrets.put(name, _value(from_file))
    session.output.said(f"put {name}, version {version}", {"put": name, "version": version})


@secret.command("list")
@calls_cluster
async def list_secrets(session: Session, client: Client) -> None:
    """List the secrets by name, without their values."""
    _show(session, [one async for one in client.secrets.list()])


@secret.command()
@_NAME
@calls_cluster
async def get(session: Session, client: Client, name: str) -> None:
    """Show what is known of a secret, but for its value."""
    _show(session, [await client.secrets.get(name)])


@secret.command()
@_NAME
@calls_cluster
async def delete(session: Session, client: Client, name: str) -> None:
    """Remove a secret: tasks that name it fail from then on."""
    await client.secrets.delete(name)
    session.output.said(f"deleted {name}", {"deleted": name})


@secret.command()
@calls_cluster
async def rotate(session: Session, client: Client) -> None:
    """Seal all secrets of all namespaces with the first key of the leader's file."""
    done = await client.secrets.rotate()
    values = {"sealed": done.sealed, "total": done.total, "key_id": done.key_id}
    session.output.said(f"sealed {done.sealed} of {done.total} secrets with the key {done.key_id}", values)


@secret.command()
@click.option("--ids", "file", type=_FILE, help="Show the ids of the keys in this file instead.")
@common_options
def key(file: Path | None) -> None:
    """Make a key: a line for secret_keys_file, whose first key seals while all open."""
    if file is None:
        click.echo(new_key_line(os.urandom))
        return
    try:
        ids = [*load_keys(file, Path.read_bytes).ids]
    except KeyFileInvalid as error:
        raise exits.Failure(str(error), exits.USAGE) from None
    current_session().output.show(ids, table(("KEY",), [(one,) for one in ids]))


def _show(session: Session, found: Sequence[SecretInfo]) -> None:
    rows = [
        (one.name, str(one.version), one.key_id, "yes" if one.readable else "no", moment(one.updated))
        for one in found
    ]
    session.output.show(found, table(("SECRET", "VERSION", "KEY", "READABLE", "UPDATED"), rows))


def _value(file: Path | None) -> str:
    if file is not None:
        data = file.read_bytes()
    elif sys.stdin.isatty():
        return str(click.prompt("value", hide_input=True, confirmation_prompt=True))
    else:
        data = sys.stdin.buffer.read(limits.SECRET_BYTES + 3)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise exits.Failure("the value is not text in UTF-8; encode it, as base64 for example", exits.USAGE) from None
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
