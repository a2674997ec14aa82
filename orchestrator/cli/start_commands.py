"""What starts workflows, and moves on those that wait for somebody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import exits
from orchestrator.cli.output import facts, stacked, status
from orchestrator.cli.session import Session, calls_cluster, json_object
from orchestrator.cli.workflow_commands import describe, show_end
from orchestrator_client import Awaited, Client, InvalidRequest, ReturnStrategy, TaskStatus, WorkflowStatus
from orchestrator_client.definitions import load_file

_ENDS = [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.FAILED_WITH_TERMINAL_ERROR, TaskStatus.IN_PROGRESS]


def _domain(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    found = {}
    for value in values:
        name, separator, domains = value.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{value!r} is not TASK=DOMAIN,...")
        found[name] = domains
    return found


def _definition(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    if value is None:
        return None
    documents = load_file(Path(value))
    if len(documents) != 1:
        raise click.BadParameter(f"{value} has {len(documents)} documents: a definition is one")
    return dict(documents[0])


def _starts(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of everything that starts a workflow."""
    for option in reversed((
        click.argument("name", required=False, default=""),
        click.option("--input", "-i", "input", type=json_object, metavar="JSON|@FILE|@-", help="What it works on."),
        click.option("--id", default="", help="Its id; made by the cluster if not given."),
        click.option("--if-exists", type=click.Choice(["fail", "return"]), default="fail", show_default=True,
                     help="When the id is taken: refuse, or answer the workflow that has it."),
        click.option("--idempotency-key", default="",
                     help="Your name for this invocation; see --idempotency-strategy."),
        click.option("--idempotency-strategy", type=click.Choice(["fail", "return_existing", "fail_on_running"]),
                     default="fail", show_default=True,
                     help="When the workflow was started with this key before: refuse, answer what was started, or "
                          "refuse unless that has ended."),
        click.option("--version", type=click.IntRange(min=0), default=0,
                     help="Of the definition; the highest if not given."),
        click.option("--correlation-id", default="", help="Any text to find related workflows by."),
        click.option("--priority", type=click.IntRange(0, 99), default=0, show_default=True),
        click.option("--domain", "task_to_domain", multiple=True, metavar="TASK=DOMAIN,...", callback=_domain,
                     help="Where the workers of a task are, or with * of all others; may be repeated."),
        click.option("--created-by", default="cli", show_default=True),
        click.option("--definition", metavar="FILE", type=click.Path(exists=True, dir_okay=False), callback=_definition,
                     help="A workflow to run without registering it, instead of NAME."),
    )):
        command = option(command)
    return command


def _what(name: str, definition: dict[str, Any] | None) -> str | dict[str, Any]:
    if bool(name) == (definition is not None):
        raise InvalidRequest("say which workflow: its NAME, or its --definition")
    return definition or name


@click.command()
@_starts
@click.option("--wait", is_flag=True, help="Wait for its end and print it; exit code 1 if it did not end well.")
@click.option("--wait-timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="With --wait: give up waiting (the workflow goes on).")
@calls_cluster
async def start(session: Session, client: Client, *, name: str, input: dict[str, Any] | None,
                definition: dict[str, Any] | None, wait: bool, wait_timeout: float | None,
                **options: Any) -> int | None:
    """Start the workflow NAME. Acknowledged means: on a majority of disks."""
    run = await client.start(_what(name, definition), input or {}, **options)
    if not wait:
        verb = "exists already:" if run.existing else "started"
        session.output.said(f"{verb} {run.workflow_id}", {"workflow_id": run.workflow_id, "existing": run.existing})
        return None
    return show_end(session, await client.wait(run.workflow_id, wait_timeout, tasks=True))


def _waits(seconds: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of what waits until a workflow is blocked."""
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((
            click.option("--wait-seconds", "wait_s", type=click.FloatRange(min=0), default=seconds, show_default=True,
                         help="For how long at most."),
            click.option("--return", "return_strategy", default=ReturnStrategy.TARGET_WORKFLOW, show_default=True,
                         type=click.Choice(list(ReturnStrategy), case_sensitive=False),
                         help="What to print: this workflow, that which has the task at which it is blocked (it may be "
                              "a sub-workflow), or that task."),
            click.option("--conductor", is_flag=True, help="As Conductor answers it, in JSON."),
        )):
            command = option(command)
        return command
    return add


@click.command()
@_starts
@click.option("--until", "wait_until", multiple=True, metavar="REFERENCE",
              help="Be content when this task has ended; may be repeated.")
@_waits(10.0)
@calls_cluster
async def execute(session: Session, client: Client, *, name: str, input: dict[str, Any] | None,
                  definition: dict[str, Any] | None, conductor: bool, **options: Any) -> int | None:
    """Start the workflow NAME and wait until it ends or is blocked.

    It is blocked at a WAIT without a time or a HUMAN, of its own or of a sub-workflow. Exit code 1 if it ended and
    not well.
    """
    what = _what(name, definition)
    if conductor:
        session.output.data(await client.conductor.execute(what, input or {}, **options))
        return None
    return _show(session, await client.execute(what, input or {}, **options))


@click.command("wait-blocked")
@click.argument("workflow_id", metavar="ID")
@click.option("--until", "wait_until", multiple=True, metavar="REFERENCE",
              help="Be content when this task has ended; may be repeated.")
@_waits(10.0)
@calls_cluster
async def wait_blocked(session: Session, client: Client, *, workflow_id: str, wait_s: float, conductor: bool,
                       **options: Any) -> int | None:
    """Wait until a workflow ends or is blocked, as `execute` does."""
    if conductor:
        session.output.data(await client.conductor.wait_blocked(workflow_id, wait_s, **options))
        return None
    return _show(session, await client.wait_blocked(workflow_id, wait_s, **options))


@click.command()
@click.argument("workflow_id", metavar="ID")
@click.argument("task_status", metavar="STATUS", default=TaskStatus.COMPLETED,
                type=click.Choice(_ENDS, case_sensitive=False))
@click.option("--output", "-o", type=json_object, metavar="JSON|@FILE|@-", help="Merged into its output so far.")
@_waits(0.0)
@calls_cluster
async def signal(session: Session, client: Client, *, workflow_id: str, task_status: str, output: dict[str, Any] | None,
                 conductor: bool, wait_s: float, return_strategy: str) -> int | None:
    """Say what the task has come to at which a workflow, or else a sub-workflow of it, waits for somebody.

    That is the first WAIT or HUMAN in progress. With --wait-seconds it waits then for what comes next.
    """
    if conductor:
        session.output.data(await client.conductor.signal(
            workflow_id, task_status, output, wait_s=wait_s, return_strategy=return_strategy))
        return None
    awaited = await client.signal_task(workflow_id, task_status, output, wait_s=wait_s, return_strategy=return_strategy)
    if awaited is not None:
        return _show(session, awaited)
    session.output.said(f"signalled the task at which {workflow_id} waits",
                        {"workflow_id": workflow_id, "status": str(task_status)})
    return None


def _show(session: Session, awaited: Awaited) -> int | None:
    task = awaited.task
    about = facts((
        ("workflow", awaited.target_workflow_id), ("status", status(awaited.target_status)),
        ("timed out", "it has neither ended nor is it blocked" if awaited.timed_out else ""),
        ("blocked at", "" if task is None else f"{task.reference} of {awaited.workflow_id}"),
        ("left out", "its tasks: they do not fit into a message" if awaited.tasks_left_out else ""),
        ("input", "" if task is None else str(task.input)),
    ))
    whole = None if awaited.workflow is None else describe(awaited.workflow)
    session.output.show(awaited, about if whole is None else stacked(about, "", whole))
    ended = awaited.target_status.ended
    return exits.FAILED if ended and awaited.target_status != WorkflowStatus.COMPLETED else None


WORKFLOW_COMMANDS = (start, execute, wait_blocked)
TASK_COMMANDS = (signal,)
