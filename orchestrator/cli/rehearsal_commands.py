"""`orchestrator workflow test`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import exits
from orchestrator.cli.output import facts, stacked
from orchestrator.cli.session import Session, calls_cluster
from orchestrator.cli.workflow_commands import describe
from orchestrator_client import Client, InvalidRequest, WorkflowStatus
from orchestrator_client.definitions import load_file

_FILE = click.Path(exists=True, dir_okay=False, readable=True)


@click.command("test")
@click.argument("file", type=_FILE)
@click.option("--definitions", "-d", "definitions", multiple=True, metavar="FILE", type=_FILE,
              help="Workflows and tasks that are there in this test only; may be repeated.")
@click.option("--conductor", is_flag=True, help="Print it as Conductor shows it, in JSON.")
@calls_cluster
async def test_workflow(session: Session, client: Client, file: str, definitions: Sequence[str],
                        conductor: bool) -> int | None:
    """Run a workflow with mocked outcomes of its tasks: nothing is executed, and nothing is kept.

    \b
    FILE (JSON or YAML) has Conductor's shape of such a test:
      {"name": "order", "input": {...}, "taskRefToMockOutput":
        {"charge": [{"status": "FAILED"}, {"status": "COMPLETED", "output": {...}}]}}
    With workflowDef it brings its definition along. Exit code 1 if the workflow did not complete.
    """
    documents = load_file(Path(file))
    if len(documents) != 1:
        raise InvalidRequest(f"{file} has {len(documents)} documents: a test is one")
    if conductor:
        shown_there = await client.conductor.test(documents[0], definitions=definitions)
        session.output.data(shown_there)
        return None if shown_there["status"] == WorkflowStatus.COMPLETED else exits.FAILED
    rehearsed = await client.test_document(documents[0], definitions=definitions)
    about = facts((
        ("without a mock", ", ".join(rehearsed.without_mock)), ("unused mocks", ", ".join(rehearsed.unused_mocks)),
    ))
    shown: list[Any] = [describe(rehearsed.execution)]
    for execution in rehearsed.sub_workflows:
        shown += ["", describe(execution)]
    if rehearsed.without_mock or rehearsed.unused_mocks:
        shown += ["", about]
    session.output.show(rehearsed, stacked(*shown))
    return None if rehearsed.execution.status == WorkflowStatus.COMPLETED else exits.FAILED
