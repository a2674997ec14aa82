"""What every command that calls the cluster shares: its options, its client and its errors.

The options are taken before and after the subcommand alike; the later place wins.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import exits
from orchestrator.cli.output import Output
from orchestrator_client import TLS, Client, OrchestratorError, TLSUnusable
from orchestrator_client.authorization import Authorization, authorization_of

# Three nodes on this machine, as `orchestrator dev` and deploy/three-nodes have them.
DEFAULT_ENDPOINTS = "127.0.0.1:7400,127.0.0.1:7401,127.0.0.1:7402"
DEFAULT_TIMEOUT_S = 10.0

Command = Callable[..., Any]


@dataclass
class Session:
    """One invocation of the command."""

    endpoints: str = DEFAULT_ENDPOINTS
    namespace: str = "default"
    timeout_s: float = DEFAULT_TIMEOUT_S
    as_json: bool = False
    token: str | None = None
    token_file: str | None = None
    insecure_token: bool = False
    tls_authority: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    # Tests put a fake here.
    connect: Callable[..., Any] = Client

    @property
    def addresses(self) -> list[str]:
        return [address.strip() for address in self.endpoints.split(",") if address.strip()]

    @property
    def output(self) -> Output:
        return Output(as_json=self.as_json)

    @property
    def tls(self) -> TLS | None:
        """How nodes are spoken to; None is without TLS."""
        try:
            return TLS.of(self.tls_authority, self.tls_certificate, self.tls_key)
        except TLSUnusable as error:
            raise exits.of(error) from error

    def client(self) -> Client:
        if not self.addresses:
            raise exits.Failure("--endpoint names no address", exits.USAGE)
        try:
            client: Client = self.connect(
                self.addresses, namespace=self.namespace, deadline_s=self.timeout_s, tls=self.tls, **self._shown)
        except TLSUnusable as error:
            raise exits.of(error) from error
        return client

    @property
    def _shown(self) -> dict[str, Any]:
        """What says who calls, if anything does."""
        token = {"token_file": self.token_file} if self.token_file else {"token": self.token}
        shown = {**token, "allow_insecure_token": self.insecure_token}
        return {name: value for name, value in shown.items() if value}

    @property
    def authorization(self) -> Authorization | None:
        """For calls to one node. Raises InvalidRequest."""
        token = None if self.token_file else self.token
        return authorization_of(token or None, self.token_file or None, allow_insecure=self.insecure_token)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # Only what was really given: a default after the subcommand must not undo an option before it.
    source = context.get_parameter_source(parameter.name or "")
    if source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT"):
        session = context.find_root().ensure_object(Session)
        if source.name == "COMMANDLINE" or context.parent is None:
            setattr(session, parameter.name or "", value)


def common_options(command: Command) -> Command:
    """--endpoint, --namespace, --timeout, --tls-... and --json, which all go into the session."""
    endpoint = click.option(
        "--endpoint", "-e", "endpoints", envvar="ORCHESTRATOR_ENDPOINTS", metavar="HOST:PORT,...",
        callback=_remember, expose_value=False,
        help="gRPC addresses of some nodes; the leader is found; also ORCHESTRATOR_ENDPOINTS.  "
             "[default: ports 7400 to 7402 here]")
    as_json = click.option("--json", "as_json", is_flag=True, callback=_remember, expose_value=False,
                           help="JSON on stdout, for scripts.")
    return endpoint(caller_options(as_json(command)))


def caller_options(command: Command) -> Command:
    """Those of `common_options` that say who calls, and how, but not whom."""
    options = (
        click.option("--namespace", "-n", envvar="ORCHESTRATOR_NAMESPACE", callback=_remember, expose_value=False,
                     help="Where workflows and definitions are.  [default: default]"),
        click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
                     callback=_remember, expose_value=False,
                     help="How long to go on through changes of the leader.  [default: 10]"),
        click.option("--token-file", envvar="ORCHESTRATOR_TOKEN_FILE", metavar="FILE", callback=_remember,
                     expose_value=False, help="Holds the token that says who calls; also ORCHESTRATOR_TOKEN_FILE, or, "
                     "without a file, the token itself in ORCHESTRATOR_TOKEN."),
        click.option("--token", envvar="ORCHESTRATOR_TOKEN", callback=_remember, expose_value=False, hidden=True),
        click.option("--insecure-token", is_flag=True, callback=_remember, expose_value=False,
                     help="Send the token without TLS beyond this machine, too."),
        click.option("--tls-authority", envvar="ORCHESTRATOR_TLS_AUTHORITY", metavar="FILE", callback=_remember,
                     expose_value=False, help="Speak TLS, with nodes whose certificates it has signed (PEM); `system`: "
                                              "with those that this machine believes."),
        click.option("--tls-certificate", envvar="ORCHESTRATOR_TLS_CERTIFICATE", metavar="FILE", callback=_remember,
                     expose_value=False, help="What is shown to nodes that ask for a certificate (PEM)."),
        click.option("--tls-key", envvar="ORCHESTRATOR_TLS_KEY", metavar="FILE", callback=_remember,
                     expose_value=False, help="Its key, without a password (PEM)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def current_session() -> Session:
    return click.get_current_context().find_root().ensure_object(Session)


def calls_cluster(command: Callable[..., Awaitable[int | None]]) -> Command:
    """Runs `command(session, client, **arguments)`; what it answers is the exit code, None for 0."""

    @common_options
    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        session = current_session()
        try:
            code = asyncio.run(_with_client(session, command, arguments))
        except OrchestratorError as error:
            raise exits.of(error) from error
        click.get_current_context().exit(code or exits.DONE)

    return run


async def _with_client(session: Session, command: Callable[..., Awaitable[int | None]], arguments: Any) -> int | None:
    async with session.client() as client:
        return await command(session, client, **arguments)


def json_object(value: str) -> dict[str, Any]:
    """The object in JSON text, in @FILE, or in @- (stdin)."""
    text = value
    try:
        if value == "@-":
            text = sys.stdin.read()
        elif value.startswith("@"):
            text = Path(value[1:]).read_text(encoding="utf-8")
        document = json.loads(text)
    except OSError as error:
        raise click.BadParameter(f"{value[1:]} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise click.BadParameter("must be a JSON object, {...}")
    return document
