"""What is registered: one definition as it was given, or all of them."""

from __future__ import annotations

from typing import Any

import click

from orchestrator.cli.output import table
from orchestrator.cli.session import Session, calls_cluster
from orchestrator_client import Client


@click.command("definition")
@click.argument("name")
@click.option("--version", type=click.IntRange(min=0), default=0, help="The highest if not given.")
@calls_cluster
async def workflow_definition(session: Session, client: Client, name: str, version: int) -> None:
    """Print the definition of the workflow NAME, in JSON."""
    session.output.data(await client.workflow_definition(name, version))


@click.command("definitions")
@calls_cluster
async def workflow_definitions(session: Session, client: Client) -> None:
    """List the registered workflows by name and version."""
    documents = [document async for document in client.workflow_definitions()]
    rows = [(one["name"], one.get("version", 1), len(one["tasks"]), _described(one)) for one in documents]
    session.output.show(documents, table(("WORKFLOW", "V", "TASKS", "DESCRIPTION"), rows, right=[1, 2]))


@click.command("definition")
@click.argument("name")
@calls_cluster
async def task_definition(session: Session, client: Client, name: str) -> None:
    """Print the definition of the task NAME, in JSON."""
    session.output.data(await client.task_definition(name))


@click.command("definitions")
@calls_cluster
async def task_definitions(session: Session, client: Client) -> None:
    """List the registered tasks by name."""
    documents = [document async for document in client.task_definitions()]
    rows = [(one["name"], one.get("retryCount", ""), one.get("timeoutSeconds", ""), _described(one))
            for one in documents]
    session.output.show(documents, table(("TASK", "RETRIES", "TIMEOUT", "DESCRIPTION"), rows, right=[1, 2]))


def _described(document: dict[str, Any]) -> str:
    return str(document.get("description") or "")


WORKFLOW_COMMANDS = (workflow_definition, workflow_definitions)
TASK_COMMANDS = (task_definition, task_definitions)
