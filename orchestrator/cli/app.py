"""The `orchestrator` command: its groups, and the one way in and out."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import click

from orchestrator.cli import exits
from orchestrator.cli.cluster_commands import cluster
from orchestrator.cli.dev import dev
from orchestrator.cli.node_commands import init, serve
from orchestrator.cli.session import Session, common_options, current_session
from orchestrator.cli.workflow_commands import task, workflow


@click.group(epilog=exits.HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
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
    values = {"version": software_version(), "python": platform.python_version()}
    current_session().output.show(values, f"orchestrator {values['version']} (Python {values['python']})")


def software_version() -> str:
    try:
        return importlib.metadata.version("orchestrator-cluster")
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"


for command in (init, serve, dev, cluster, workflow, task):
    cli.add_command(command)


def main() -> None:
    """Runs the command and ends the process with its exit code; never shows a trace."""
    try:
        code = cli.main(prog_name="orchestrator", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = exits.INTERRUPTED
    sys.exit(code if isinstance(code, int) else exits.DONE)
