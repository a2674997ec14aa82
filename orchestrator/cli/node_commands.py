"""`orchestrator init` and `orchestrator serve`: one node, in this process."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from orchestrator.access.rules_file import RulesInvalid
from orchestrator.cli import exits
from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.cli.output import Output, facts, stacked
from orchestrator.codec.errors import RowVersionUnsupported
from orchestrator.config import SETTINGS, Address, Config, ConfigError, load
from orchestrator.replication import identity
from orchestrator.replication.errors import IdentityError, JournalCorrupt
from orchestrator.replication.files import RealFiles
from orchestrator.sealing.errors import KeyFileInvalid
from orchestrator.sealing.key_file import load_keys
from orchestrator.storage.errors import DatabaseCorrupt, SchemaVersionUnsupported, WrongCluster
from orchestrator.telemetry import logs
from orchestrator.tls.files import TlsUnusable

CONFIG_FILE = click.option("--config", "config_file", type=click.Path(path_type=Path, dir_okay=False),
                            envvar="ORCHESTRATOR_CONFIG", help="TOML file with settings.")
REFUSED = (
    IdentityError, JournalCorrupt, DatabaseCorrupt, SchemaVersionUnsupported, RowVersionUnsupported, WrongCluster)
_COULD_NOT_BIND = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}


def _member(value: str) -> tuple[str, str]:
    name, equals, address = value.partition("=")
    try:
        if name and equals and not Address.parse(address).is_every_interface:
            return name, address
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}") from None
    raise click.BadParameter(f"{value!r} is not NAME=HOST:PORT")


@click.command()
@CONFIG_FILE
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the node will keep its data; must be blank.")
@click.option("--node", help="The name of this node, one of the members.")
@click.option("--member", "members", multiple=True, required=True, type=_member, metavar="NAME=HOST:PORT",
              help="A first member and where its peers reach it; give all of them, the same on every node.")
@click.option("--cluster-id", help="The same on every node; needed if there is more than one.")
@click.option("--recovery-epoch", type=click.IntRange(min=0), default=0, metavar="NUMBER",
              help="Of the cluster that it is to join, as `cluster status` shows it.  [default: 0]")
@click.option("--if-blank", is_flag=True, help="Leave it if it is there already, of this node and this cluster: for "
              "what is run before each start.")
@click.option("--json", "as_json", is_flag=True)
def init(config_file: Path | None, data_dir: Path | None, node: str | None, members: tuple[tuple[str, str], ...],
         cluster_id: str | None, recovery_epoch: int, if_blank: bool, as_json: bool) -> None:
    """Make the data directory of one node, once.

    --config gives node and data_dir from the file that `serve` will use. All members have to be initialised with the
    same members and cluster id before the cluster forms. A node that is to join later (`orchestrator cluster add`) is
    given that cluster's id, itself and those that are there.
    """
    config = loaded(config_file, {"node": node, "data_dir": data_dir})
    named = dict(members)
    # The same said twice is no contradiction: what starts nodes alike may add each to the first ones.
    if len(named) != len(set(members)):
        raise exits.Failure("--member names a node twice", exits.USAGE)
    if len(set(named.values())) != len(named):
        raise exits.Failure("--member gives two nodes the same address", exits.USAGE)
    if config_file is not None and named.get(config.node) not in (None, str(config.peer_address)):
        raise exits.Failure(f"--member says that {config.node} is at {named[config.node]}, but {config_file} "
                            f"advertises {config.peer_address}", exits.USAGE)
    said = "initialised"
    try:
        if if_blank and (config.data_dir / identity.FILE_NAME).exists():
            made = identity.load(RealFiles(), config.data_dir, node=config.node, cluster_id=cluster_id, unfinished=True)
            said = "there is already"
        else:
            config.data_dir.parent.mkdir(parents=True, exist_ok=True)
            made = identity.initialise(RealFiles(), config.data_dir, cluster_id or _cluster_id(named), config.node,
                                       named, recovery_epoch=recovery_epoch)
    except IdentityError as error:
        raise exits.Failure(str(error), exits.DATA_DIRECTORY_REFUSED) from error
    except OSError as error:
        raise exits.Failure(f"{config.data_dir}: {error.strerror}", exits.FAILED) from error
    output = Output(as_json=as_json)
    output.show({"node": made.node, "cluster_id": made.cluster_id, "incarnation": made.incarnation,
                 "data_dir": str(config.data_dir), "members": made.members},
                stacked(f"{said} node {made.node} in {config.data_dir}",
                        facts((("cluster id", made.cluster_id), ("members", ", ".join(sorted(made.members)))))))


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A flag for each setting, so that the table of settings is the only list of them."""
    for name, field in reversed(SETTINGS.items()):
        about = field.metadata["about"]
        limits = f"; {field.metadata['min']} to {field.metadata['max']}" if "min" in field.metadata else ""
        if field.type == "bool":
            command = click.option(f"--{name.replace('_', '-')}/--no-{name.replace('_', '-')}", name, help=about,
                                   default=None)(command)
            continue
        # A field without a default has a marker there, which is neither.
        has_default = isinstance(field.default, int | str) and field.default != ""
        default = f"  [default: {field.default}]" if has_default else ""
        command = click.option(f"--{name.replace('_', '-')}", name, help=f"{about}{limits}{default}",
                               metavar="NUMBER" if field.type == "int" else "TEXT")(command)
    return command


@click.command()
@CONFIG_FILE
@_setting_options
@click.option("--check", is_flag=True, help="Only say whether the configuration is right.")
@click.option("--die-with-parent", "parent", type=int, hidden=True)
def serve(config_file: Path | None, check: bool, parent: int | None, **flags: Any) -> None:
    """Run one node until SIGTERM or Ctrl-C.

    Settings come from --config, then ORCHESTRATOR_<NAME> in the environment, then flags; the later wins.
    """
    if parent is not None:
        die_with_parent(parent)
    config = loaded(config_file, flags)
    _check_tls(config)
    _check_secret_keys(config)
    _check_access(config)
    if check:
        click.echo("the configuration is right")
        return
    _check_peer_address(config)
    logs.configure(node=config.node, log_format=config.log_format, level=config.log_level)
    from orchestrator.node import NodeFailed  # noqa: PLC0415 - all other commands start without a server
    from orchestrator.running import run_node  # noqa: PLC0415 - same

    raise click.exceptions.Exit(run_until_signal(lambda: run_node(config), logged_already=NodeFailed))


def loaded(file: Path | None, flags: dict[str, Any]) -> Config:
    """The configuration; one that is wrong is one line and an exit code."""
    try:
        return load(file, os.environ, flags)
    except ConfigError as error:
        raise exits.Failure(str(error), exits.USAGE) from error


def _check_tls(config: Config) -> None:
    from orchestrator import node_tls  # noqa: PLC0415 - all other commands start without a server

    try:
        node_tls.check(config)
    except TlsUnusable as error:
        raise exits.Failure(str(error), exits.USAGE) from error


def _check_secret_keys(config: Config) -> None:
    if not config.secret_keys_file:
        return
    path = Path(config.secret_keys_file)
    try:
        load_keys(path, Path.read_bytes)
    except KeyFileInvalid as error:
        raise exits.Failure(str(error), exits.USAGE) from error
    if path.stat().st_mode & 0o006:
        click.echo(f"warning: everybody on this machine can read or change {path}: chmod o= {path}", err=True)


def _cluster_id(members: dict[str, str]) -> str | None:
    # One node needs no agreement. Several must be told: two clusters made of the same addresses, one after the
    # other, must never take each other's nodes for their own.
    if len(members) == 1:
        return None
    raise exits.Failure("--cluster-id is needed with more than one --member, the same on every node: "
                        f"for example {identity.generate_cluster_id()}", exits.USAGE)


def _check_access(config: Config) -> None:
    """What says who may do what; read again when the node starts."""
    from orchestrator.admittance import check_files  # noqa: PLC0415 - all other commands start without a server

    try:
        check_files(config)
    except RulesInvalid as error:
        raise exits.Failure(str(error), exits.USAGE) from error


def _check_peer_address(config: Config) -> None:
    """The others dial what `init` was told; a setting that says otherwise would have no effect."""
    try:
        told = identity.load(RealFiles(), config.data_dir, node=config.node).members.get(config.node)
    except IdentityError as error:
        raise exits.Failure(str(error), exits.DATA_DIRECTORY_REFUSED) from error
    if told is not None and told != str(config.peer_address):
        raise exits.Failure(f"the other nodes reach {config.node} at {told}, as `init` was told, but its configuration "
                            f"advertises {config.peer_address}: correct peer_listen or peer_advertise", exits.USAGE)


def run_until_signal(run: Callable[[], Awaitable[None]], *,
                     logged_already: type[Exception] | tuple[type[Exception], ...] = ()) -> int:
    """Runs a node and answers the exit code.

    SIGTERM and Ctrl-C cancel it, until it takes them over to end in order.
    """
    from orchestrator.stopping import told  # noqa: PLC0415 - all other commands start without a server

    log = logging.getLogger("orchestrator.cli")
    asked: list[str] = []

    async def supervised() -> None:
        task = asyncio.ensure_future(run())
        loop = asyncio.get_running_loop()

        def stop(name: str) -> None:
            if not asked:
                log.info("stopping", extra={"signal": name})
                task.cancel()
            asked.append(name)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number.name)
        try:
            await task
        except asyncio.CancelledError:
            if not asked:
                raise

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(supervised())
    except REFUSED as error:
        log.error("the data directory was refused: %s", told(error))
        return exits.DATA_DIRECTORY_REFUSED
    except logged_already:
        return exits.NODE_STOPPED_ITSELF
    except OSError as error:
        if error.errno not in _COULD_NOT_BIND:
            log.critical("stopped by an error: %s", told(error), exc_info=error)
            return exits.NODE_STOPPED_ITSELF
        log.error("could not start: %s", error)
        return exits.FAILED
    except BaseException as error:
        # Whatever it is, it ends the process, with its reason in the log.
        log.critical("stopped by an error: %s", told(error), exc_info=error)
        return exits.NODE_STOPPED_ITSELF
    return exits.DONE


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not on every platform

    return uvloop.new_event_loop
