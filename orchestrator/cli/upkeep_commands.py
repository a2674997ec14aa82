"""What operators do to workflows, one or many, and to tasks; and for how long what has ended is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any, Literal

import click
from rich.text import Text

from orchestrator.cli import exits
from orchestrator.cli.output import facts, moment, table, visible
from orchestrator.cli.session import Session, calls_cluster, json_object
from orchestrator_client import BulkResult, Client, NotFound, RetentionPolicy, TaskStatus, Waiting, WrongState
from orchestrator_client.upkeep import Operation

_IDS = click.argument("workflow_ids", metavar="ID...", nargs=-1, required=True)
_ID = click.argument("workflow_id", metavar="ID")
_DAY = timedelta(days=1)


def _effects_option(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--compensate-first", "effects", flag_value="compensate_first",
                           help="Undo completed steps first; it goes when that has been done.")(command)
    return click.option("--keep-effects", "effects", flag_value="keep",
                        help="Leave completed steps as they are. One of the two must be said if there are any to undo."
                        )(command)


async def _each(session: Session, client: Client, operation: Operation, ids: Sequence[str], done: str,
                one: Callable[[str], Awaitable[None]], **options: Any) -> int | None:
    """One is done as itself, with its own error; of several each is told what became of it."""
    if len(ids) == 1:
        await one(ids[0])
        session.output.said(f"{done} {ids[0]}", {"workflow_id": ids[0], "done": done.split(maxsplit=1)[0]})
        return None
    result = await client.operate(operation, ids, **options)
    session.output.show(result, _told(result, done))
    return exits.FAILED if result.failed else None


def _told(result: BulkResult, done: str) -> Text:
    lines = [Text.assemble(("✓ ", "green"), visible(f"{done} {one}")) for one in result.succeeded]
    lines += [Text.assemble(("✗ ", "red"), visible(f"{one}: {why.message}")) for one, why in result.failed.items()]
    return Text("\n").join(lines)


@click.command()
@_IDS
@calls_cluster
async def pause(session: Session, client: Client, workflow_ids: Sequence[str]) -> int | None:
    """Schedule nothing new; running tasks may finish."""
    return await _each(session, client, "pause", workflow_ids, "paused", client.pause)


@click.command()
@_IDS
@calls_cluster
async def resume(session: Session, client: Client, workflow_ids: Sequence[str]) -> int | None:
    """Go on after `pause`."""
    return await _each(session, client, "resume", workflow_ids, "resumed", client.resume)


@click.command()
@_IDS
@click.option("--resume-sub-workflows", "resume", is_flag=True,
              help="Failed sub-workflows go on; otherwise new ones are started.")
@calls_cluster
async def retry(session: Session, client: Client, workflow_ids: Sequence[str], resume: bool) -> int | None:
    """Try the failed tasks of ended workflows again."""

    async def one(workflow_id: str) -> None:
        await client.retry(workflow_id, resume_sub_workflows=resume)

    return await _each(session, client, "retry", workflow_ids, "retried", one, resume_sub_workflows=resume)


@click.command()
@_IDS
@click.option("--reason", default="", help="Why; shown wherever the workflow is.")
@click.option("--compensation", type=click.Choice(["run", "skip"]),
              help="Undo completed steps, or leave them. Must be said if there are any to undo.")
@click.option("--delete", "and_delete", is_flag=True, help="Delete it, too: with `run`, when it has been undone.")
@calls_cluster
async def terminate(session: Session, client: Client, *, workflow_ids: Sequence[str], reason: str,
                    compensation: Literal["run", "skip"] | None, and_delete: bool) -> int | None:
    """End workflows."""
    if and_delete:
        result = await client.operate("terminate_and_delete", workflow_ids, reason=reason, compensation=compensation)
        session.output.show(result, _told(result, "terminated and deleted"))
        return exits.FAILED if result.failed else None

    async def one(workflow_id: str) -> None:
        await client.terminate(workflow_id, reason, compensation=compensation)

    return await _each(session, client, "terminate", workflow_ids, "terminated", one, reason=reason,
                       compensation=compensation)


@click.command()
@_IDS
@_effects_option
@calls_cluster
async def delete(session: Session, client: Client, workflow_ids: Sequence[str],
                 effects: Literal["keep", "compensate_first"] | None) -> int | None:
    """Remove ended workflows with everything that belongs to them; their ids may be used again."""

    async def one(workflow_id: str) -> None:
        await client.delete(workflow_id, effects=effects)

    return await _each(session, client, "delete", workflow_ids, "deleted", one, effects=effects)


@click.command()
@_IDS
@click.option("--latest", is_flag=True, help="Take the definitions as they are registered now.")
@_effects_option
@calls_cluster
async def restart(session: Session, client: Client, workflow_ids: Sequence[str], latest: bool,
                  effects: Literal["keep", "compensate_first"] | None) -> int | None:
    """Begin ended workflows anew, under their ids."""

    async def one(workflow_id: str) -> None:
        await client.restart(workflow_id, use_latest_definitions=latest, effects=effects)

    return await _each(session, client, "restart", workflow_ids, "restarted", one, effects=effects,
                       use_latest_definitions=latest)


@click.command()
@_ID
@click.option("--from", "task_id", default="", metavar="TASK_ID", help="The task to begin with; all by default.")
@click.option("--task-input", type=json_object, metavar="JSON|@FILE|@-",
              help="The task's input, instead of what it would be.")
@click.option("--input", "workflow_input", type=json_object, metavar="JSON|@FILE|@-",
              help="The workflow's input from now on.")
@click.option("--correlation-id", default="", help="The correlation id from now on.")
@_effects_option
@calls_cluster
async def rerun(session: Session, client: Client, workflow_id: str, task_id: str, task_input: dict[str, Any] | None,
                workflow_input: dict[str, Any] | None, correlation_id: str,
                effects: Literal["keep", "compensate_first"] | None) -> None:
    """Run an ended workflow again from one of its tasks, or from the beginning with another input."""
    await client.rerun(
        workflow_id, task_id, task_input=task_input, workflow_input=workflow_input,
        correlation_id=correlation_id, effects=effects,
    )
    session.output.said(f"{workflow_id} runs again", {"workflow_id": workflow_id, "done": "rerun"})


@click.command("skip-task")
@_ID
@click.argument("reference")
@click.option("--output", "-o", type=json_object, metavar="JSON|@FILE|@-", help="What others see of it.")
@calls_cluster
async def skip_task(session: Session, client: Client, workflow_id: str, reference: str,
                    output: dict[str, Any] | None) -> None:
    """Leave out a task that has not begun."""
    await client.skip_task(workflow_id, reference, output)
    session.output.said(f"skipped {reference} of {workflow_id}", {"workflow_id": workflow_id, "skipped": reference})


@click.command()
@_ID
@calls_cluster
async def explain(session: Session, client: Client, workflow_id: str) -> None:
    """Say what a workflow waits for, since when, and what would move it; also through its sub-workflows."""
    found = [(workflow_id, one) for one in await client.explain(workflow_id)]
    seen = {workflow_id}
    for _, one in found:
        # Those of a sub-workflow follow, and so on inwards.
        if one.child_workflow_id and one.child_workflow_id not in seen:
            seen.add(one.child_workflow_id)
            found += [(one.child_workflow_id, inner) for inner in await client.explain(one.child_workflow_id)]
    found = [(id_, replace(one, waits_for=one.waits_for + _ring(found, id_, one))) for id_, one in found]
    rows = [(id_, one.reference, one.waits_for, moment(one.since), moment(one.until)) for id_, one in found]
    document = [{"workflow_id": id_, **asdict(one)} for id_, one in found]
    if not found:
        session.output.said(f"{workflow_id} has ended: it waits for nothing", {"workflow_id": workflow_id})
        return
    session.output.show(document, table(("ID", "TASK", "WAITS FOR", "SINCE", "UNTIL"), rows))


def _ring(found: list[tuple[str, Waiting]], workflow_id: str, one: Waiting) -> str:
    """What is to be said if it waits for an execution that waits for itself to go on, through whichever others."""
    reached = [one.child_workflow_id]
    for execution in reached:
        inner = {other.child_workflow_id for id_, other in found if id_ == execution and other.child_workflow_id}
        reached += sorted(inner.difference(reached))
    is_ring = bool(one.child_workflow_id) and workflow_id in reached
    return f", which waits for {workflow_id} itself: end one of them, or none goes on" if is_ring else ""


@click.command()
@click.argument("workflow_ids", metavar="ID...", nargs=-1)
@click.option("--all-of", "name", default="", metavar="NAME", help="Also all that run of this workflow.")
@click.option("--to", "version", type=click.IntRange(min=0), default=0, help="The version; the highest by default.")
@click.option("--dry-run", is_flag=True, help="Only say for each whether it is safe, and why not.")
@calls_cluster
async def migrate(session: Session, client: Client, workflow_ids: Sequence[str], name: str, version: int,
                  dry_run: bool) -> int | None:
    """Move running workflows to another version of their definition, where that is safe."""
    ids = list(workflow_ids)
    if name:
        ids += [found.workflow_id async for found in client.search(name=name, statuses=["RUNNING", "PAUSED"])]
    if not ids:
        raise click.UsageError("name at least one ID, or a workflow with --all-of")
    outcomes: dict[str, str] = {}
    for workflow_id in dict.fromkeys(ids):
        try:
            outcomes[workflow_id] = "; ".join(await client.migrate(workflow_id, version, dry_run=dry_run))
        except (WrongState, NotFound) as error:
            outcomes[workflow_id] = str(error)
    done = "can be migrated" if dry_run else "migrated"
    lines = [Text(f"✗ {one}: {why}" if why else f"✓ {one} {done}") for one, why in outcomes.items()]
    session.output.show(outcomes, Text("\n").join(lines))
    return exits.FAILED if any(outcomes.values()) else None


@click.command("set-variables")
@_ID
@click.argument("variables", type=json_object, metavar="JSON|@FILE|@-")
@calls_cluster
async def set_variables(session: Session, client: Client, workflow_id: str, variables: dict[str, Any]) -> None:
    """Put these in the place of the variables of their names."""
    await client.update_variables(workflow_id, variables)
    session.output.said(f"set {', '.join(variables)} of {workflow_id}", {"workflow_id": workflow_id, "done": "set"})


@click.command("push-message")
@_ID
@click.argument("payload", type=json_object, metavar="JSON|@FILE|@-")
@calls_cluster
async def push_message(session: Session, client: Client, workflow_id: str, payload: dict[str, Any]) -> None:
    """Put a message into the queue of a workflow that runs, for its PULL_WORKFLOW_MESSAGES tasks."""
    message_id = await client.push_message(workflow_id, payload)
    session.output.said(f"pushed {message_id} to {workflow_id}",
                        {"workflow_id": workflow_id, "message_id": message_id})


@click.command()
@_ID
@click.argument("reference")
@click.argument("status", type=click.Choice([TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED, TaskStatus.FAILED,
                                             TaskStatus.FAILED_WITH_TERMINAL_ERROR], case_sensitive=False))
@click.option("--output", "-o", type=json_object, metavar="JSON|@FILE|@-", help="Merged into the output so far.")
@click.option("--reason", default="", help="Why it failed.")
@calls_cluster
async def update(session: Session, client: Client, *, workflow_id: str, reference: str, status: str,
                 output: dict[str, Any] | None, reason: str) -> None:
    """Say for the pending task REFERENCE of a workflow what its worker, or nobody, has said."""
    await client.update_task(workflow_id, reference, status, output, reason=reason)
    session.output.said(f"updated {reference} of {workflow_id} to {status}",
                        {"workflow_id": workflow_id, "reference": reference, "status": str(status)})


@click.command()
@_ID
@click.argument("reference", default="")
@click.option("--task-id", default="", help="Of this attempt only.")
@calls_cluster
async def logs(session: Session, client: Client, workflow_id: str, reference: str, task_id: str) -> None:
    """Print what the tasks of a workflow, or the task REFERENCE, have logged."""
    found = await client.task_logs(workflow_id, reference=reference, task_id=task_id)
    if session.as_json:
        session.output.data(found)
        return
    if found.dropped:
        click.echo(f"{found.dropped} older lines are not kept any more", err=True)
    for line in found.lines:
        tries = f" #{line.attempt}" if line.attempt > 1 else ""
        clock = line.time.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        session.output.show(None, visible(f"{clock}  {line.reference}{tries}  {line.text}"))


@click.command("add-log")
@_ID
@click.argument("task_id")
@click.argument("lines", nargs=-1, required=True, metavar="TEXT...")
@calls_cluster
async def add_log(session: Session, client: Client, workflow_id: str, task_id: str, lines: Sequence[str]) -> None:
    """Add lines to what the attempt TASK_ID of a task has logged, also when it has ended."""
    if not await client.add_task_logs(workflow_id, task_id, *lines):
        raise NotFound(f"{workflow_id} has no task with the id {task_id!r}", reason="TASK_NOT_FOUND")
    session.output.said(f"logged for {task_id} of {workflow_id}", {"workflow_id": workflow_id, "task_id": task_id})


@click.command()
@click.option("--days", type=click.FloatRange(min=0), help="After their end; 0 for any time.")
@click.option("--count", type=click.IntRange(min=0), help="How many of each name; 0 for any number.")
@click.option("--bytes", "most", metavar="BYTES|10GiB", callback=lambda context, parameter, value: _size(value),
              help="Of each node's database; 0 for any size.")
@calls_cluster
async def retention(session: Session, client: Client, days: float | None, count: int | None, most: int | None) -> None:
    """Show, or change, for how long ended workflows are kept where their definition does not say."""
    if days is None and count is None and most is None:
        policy = await client.retention()
    else:
        policy = await client.set_retention(age=None if days is None else days * _DAY, count=count, bytes=most)
    values = {"age_s": policy.age.total_seconds() if policy.age else 0, "count": policy.count or 0,
              "bytes": policy.bytes or 0}
    session.output.show(values, _described(policy))


def _described(policy: RetentionPolicy) -> Any:
    return facts((
        ("age", "any" if policy.age is None else f"{policy.age / _DAY:g} days"),
        ("of each name", "any number" if policy.count is None else f"the newest {policy.count}"),
        ("database", "any size" if policy.bytes is None else f"{policy.bytes / (1 << 30):.3g} GiB"),
    ))


def _size(value: str | None) -> int | None:
    if value is None:
        return None
    for unit, factor in (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("", 1)):
        if value.endswith(unit):
            number = value.removesuffix(unit)
            if number.isdecimal():
                return int(number) * factor
    raise click.BadParameter("a number of bytes, or of KiB, MiB, GiB or TiB, as in 10GiB")


WORKFLOW_COMMANDS = (
    pause, resume, retry, restart, rerun, skip_task, explain, migrate, terminate, delete, set_variables,
    push_message,
)
TASK_COMMANDS = (update, logs, add_log)
CLUSTER_COMMANDS = (retention,)
