"""The `orchestrator` command: its groups, and the one way in and out."""

from __future__ import annotations

import platform
import sys
from typing import Any

import click

from orchestrator import __version__
from orchestrator.cli import definition_commands, exits, start_commands, timing_commands, upkeep_commands
from orchestrator.cli.access_commands import access
from orchestrator.cli.backup_commands import backup
from orchestrator.cli.cluster_commands import cluster
from orchestrator.cli.dev import dev
from orchestrator.cli.event_commands import event
from orchestrator.cli.health_command import health
from orchestrator.cli.joining_commands import join, rebuild
from orchestrator.cli.node_commands import init, serve
from orchestrator.cli.recovery_commands import recover, restore
from orchestrator.cli.rehearsal_commands import test_workflow
from orchestrator.cli.schedule_commands import schedule
from orchestrator.cli.schema_commands import schema
from orchestrator.cli.search_commands import workflow
from orchestrator.cli.secret_commands import secret
from orchestrator.cli.service_commands import service
from orchestrator.cli.session import Session, common_options, current_session
from orchestrator.cli.task_commands import task
from orchestrator.cli.tls_commands import tls


class OneLineErrors(click.Group):
    """Ends the process with its exit code; an error is one line on stderr, never a trace or a page of usage."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            code = super().main(*arguments, **{**options, "standalone_mode": False})
        except click.UsageError as error:
            _show_usage(error)
            code = error.exit_code
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            code = exits.INTERRUPTED
        sys.exit(code if isinstance(code, int) else exits.DONE)


def _show_usage(error: click.UsageError) -> None:
    message = error.format_message()
    if "\n" in message:  # no subcommand was given, and the message is the help
        click.echo(message, err=True)
        return
    where = error.ctx.command_path if error.ctx is not None else "orchestrator"
    exits.Failure(f"{message.rstrip('.')} (see `{where} --help`)", error.exit_code).show()


@click.group(cls=OneLineErrors, epilog=exits.HELP,
             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@common_options
@click.pass_context
def cli(context: click.Context) -> None:
    """Durable workflows and sagas from a cluster that needs nothing else.

    \b
    On this machine:    orchestrator dev
    Nodes by hand:      orchestrator init, then orchestrator serve
    """
    context.ensure_object(Session)


@cli.command()
@common_options
def version() -> None:
    """Print the version."""
    values = {"version": __version__, "python": platform.python_version()}
    current_session().output.show(values, f"orchestrator {values['version']} (Python {values['python']})")


for command in (
    init, serve, health, restore, recover, dev, cluster, workflow, task, service, schema, secret, schedule, event, tls,
    access,
):
    cli.add_command(command)
for module in (definition_commands, start_commands, timing_commands, upkeep_commands):
    for command in module.WORKFLOW_COMMANDS:
        workflow.add_command(command)
    for command in module.TASK_COMMANDS:
        task.add_command(command)
workflow.add_command(test_workflow)
for command in (*upkeep_commands.CLUSTER_COMMANDS, backup, join, rebuild):
    cluster.add_command(command)


def main() -> None:
    cli.main(prog_name="orchestrator")
