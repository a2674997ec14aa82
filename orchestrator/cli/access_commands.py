"""`orchestrator access`: tokens, and what the access file lets whom do. Both work without a cluster."""

from __future__ import annotations

import secrets
from pathlib import Path

import click
from rich.text import Text

from orchestrator.access import tokens
from orchestrator.access.methods import BULK, METHODS, STREAMED, Rule, named
from orchestrator.access.policy import Decision, Policy
from orchestrator.access.principals import Principal
from orchestrator.access.roles import NAMED, Need
from orchestrator.access.rules_file import RulesInvalid, read_rules
from orchestrator.cli import exits
from orchestrator.cli.output import Output, stacked, table, visible

_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for scripts.")


@click.group()
def access() -> None:
    """Make tokens, and see who may do what by the access file."""


@access.command()
@click.argument("name")
@_JSON
def token(name: str, as_json: bool) -> None:
    """Make a token for NAME: shown once, and the lines for the access file, which have its hash only."""
    made, kept = tokens.make(secrets.token_bytes)
    lines = f'[[token]]\nname = "{_plain(name)}"\nhash = "{kept}"'
    Output(as_json=as_json).show(
        {"name": name, "token": made, "hash": str(kept)},
        Text(f"the token, which is shown this once: {made}\n\nfor the access file:\n\n{lines}"),
    )


def _plain(name: str) -> str:
    if not name or len(name) > 200 or any(c in name for c in ':*"\\') or not name.isprintable():
        raise exits.Failure("NAME must be 1 to 200 characters without : * \" and \\", exits.USAGE)
    return name


@access.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--as", "principal", metavar="NAME", help="A principal, with the groups that the file gives it.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="A group that it is in besides, as a JWT says.")
@click.option("--method", metavar="METHOD", help="For example StartWorkflow; all of them if it is left out.")
@click.option("--namespace", "-n", default="default", show_default=True)
@click.option("--name", metavar="NAME", help="Of the workflow, task or event that the method is about.")
@_JSON
def check(file: Path, principal: str | None, groups: tuple[str, ...], method: str | None, namespace: str,
          name: str | None, as_json: bool) -> None:
    """Say whether an access file is right; with --as also what somebody may do by it, and why.

    With --method the exit code is 4 if they may not.
    """
    try:
        policy = read_rules(file)
    except RulesInvalid as error:
        raise exits.Failure(str(error), exits.USAGE) from error
    output = Output(as_json=as_json)
    if principal is None:
        if method is not None:
            raise exits.Failure("--method needs --as NAME", exits.USAGE)
        lines = [f"{', '.join(grant.to)}: {grant}" for grant in policy.grants]
        output.show({"grants": lines}, stacked(*map(visible, [f"{file} is right", *lines])))
        return
    asked = _asked(method)
    answers = _answers(policy, policy.principal(principal, groups), asked, namespace, name)
    document = [{"method": one, "allowed": said.allowed, "why": said.why} for one, said in answers]
    rows = [(one, "yes" if said.allowed else "no", said.why) for one, said in answers]
    output.show(document, stacked(table(("method", "may", "why"), rows)))
    if method is not None and not all(said.allowed for _, said in answers):
        raise click.exceptions.Exit(exits.REJECTED)


def _asked(method: str | None) -> dict[str, Need]:
    """What is needed, by what it is called."""
    everything = {full.rpartition(".")[2]: rule.need for full, rule in METHODS.items()}
    if method is None:
        return everything | STREAMED | {f"OperateWorkflows {name.removeprefix('WORKFLOW_OPERATION_')}": need
                                        for name, need in BULK.items()}
    found: dict[str, Rule] = {full.rpartition(".")[2]: METHODS[full] for full in named(method)}
    if method in STREAMED:
        return {method: STREAMED[method]}
    if not found:
        raise exits.Failure(f"there is no method {method!r}", exits.USAGE)
    return {short: rule.need for short, rule in found.items()}


def _answers(policy: Policy, who: Principal, asked: dict[str, Need], namespace: str,
             name: str | None) -> list[tuple[str, Decision]]:
    holder = policy.holder(who)
    return [(one, holder.decide(need, namespace, name if need in NAMED else None)) for one, need in asked.items()]
