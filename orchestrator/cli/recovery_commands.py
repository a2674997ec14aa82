"""`orchestrator restore` and `orchestrator recover`: a cluster from a backup, or from what a lost majority left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from orchestrator.cli import exits
from orchestrator.cli.backup_commands import backup_errors, describe, header_values, progress_of
from orchestrator.cli.node_commands import CONFIG_FILE, REFUSED, loaded
from orchestrator.cli.output import Output, facts, stacked
from orchestrator.cli.session import current_session
from orchestrator.replication.configuration import Configuration, address_parts
from orchestrator.replication.directory_lock import locked
from orchestrator.storage.backup_file import BackupReader

if TYPE_CHECKING:
    from orchestrator.recovery import Position

_ANSWERS_S = 1.0


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@CONFIG_FILE
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the node will keep its data; must be blank.")
@click.option("--node", help="The name of this node.")
@click.option("--cluster-id", help="Of the restored cluster.  [default: a new one]")
@click.option("--json", "as_json", is_flag=True)
def restore(file: Path, config_file: Path | None, data_dir: Path | None, node: str | None, cluster_id: str | None,
            as_json: bool) -> None:
    """Make the data directory of the first node of a new cluster, with what the backup FILE holds.

    --config gives node, data_dir and the peer address from the file that `serve` will use. Then start this node, and
    let the others join it: `orchestrator cluster join` on each.
    """
    from orchestrator import recovery  # noqa: PLC0415 - all other commands start without a server

    config = loaded(config_file, {"node": node, "data_dir": data_dir})
    with backup_errors(file), refused_directories():
        with BackupReader(file) as reader:
            total = reader.header.size_bytes
        with progress_of("restoring", total) as progress:
            header, begun = recovery.restore(file, config.data_dir, node=config.node, address=str(config.peer_address),
                                             cluster_id=cluster_id, progress=progress)
    made = begun.identity
    values = {"node": made.node, "cluster_id": made.cluster_id, "recovery_epoch": made.recovery_epoch,
              "incarnation": made.incarnation, "data_dir": str(config.data_dir), "backup": header_values(header)}
    Output(as_json=as_json or current_session().as_json).show(values, stacked(
        f"restored node {made.node} in {config.data_dir}: it is the only member of cluster {made.cluster_id}, "
        f"recovery epoch {made.recovery_epoch}", "from this backup:", describe(header)))


@click.command()
@CONFIG_FILE
@click.option("--data-dir", type=click.Path(path_type=Path), help="The data of the node that is left.")
@click.option("--node", help="The name of this node.")
@click.option("--give-up", "given_up", multiple=True, metavar="NODE",
              help="A node that is lost, or whose data are not to be gone by; name every other member.")
@click.option("--confirm", metavar="CLUSTER_ID", help="The cluster's id, instead of typing it when asked.")
@click.option("--json", "as_json", is_flag=True)
def recover(config_file: Path | None, data_dir: Path | None, node: str | None, given_up: tuple[str, ...],
            confirm: str | None, as_json: bool) -> None:
    """Go on with one node, after a majority of the nodes was lost for good.

    Without --give-up it only shows what this node has. With it, this node becomes the only member of the cluster, in a
    new recovery epoch: the nodes given up can never vote in it or join it with their old data. What was acknowledged,
    and is on their disks alone, is lost. The node must be stopped.
    """
    from orchestrator import recovery  # noqa: PLC0415 - as above

    config = loaded(config_file, {"node": node, "data_dir": data_dir})
    output = Output(as_json=as_json or current_session().as_json)
    with refused_directories(), locked(config.data_dir):
        is_begun = recovery.is_begun(config.data_dir, config.node)
        if not is_begun:
            found = recovery.position(config.data_dir, config.node)
            if not given_up:
                output.show(_position_values(found), _show_position(found))
                return
            _check_named(found, given_up)
            _check_silent(found.configuration, given_up)
            _confirm(found, confirm, output)
        begun = recovery.recover(config.data_dir, config.node, str(config.peer_address))
    made = begun.identity
    values = {"node": made.node, "cluster_id": made.cluster_id, "recovery_epoch": made.recovery_epoch,
              "index": begun.applied.index, "term": begun.applied.term,
              "content_hash": f"{begun.applied.content_hash:032x}"}
    output.said(f"{made.node} is the only member of cluster {made.cluster_id} now, recovery epoch "
                f"{made.recovery_epoch}, at index {begun.applied.index}; start it, and let others join it", values)


@contextlib.contextmanager
def refused_directories() -> Iterator[None]:
    """What is wrong with a data directory, as one line and an exit code."""
    try:
        yield
    except REFUSED as error:
        raise exits.Failure(str(error), exits.DATA_DIRECTORY_REFUSED) from error


def _position_values(found: Position) -> dict[str, Any]:
    return {"node": found.identity.node, "cluster_id": found.identity.cluster_id,
            "recovery_epoch": found.identity.recovery_epoch, "members": sorted(found.configuration.members),
            "learners": sorted(found.configuration.learners), "applied_index": found.applied_index,
            "last_index": found.last_index, "last_term": found.last_term, "log_time_ms": found.log_time_ms}


def _show_position(found: Position) -> Any:
    at = datetime.fromtimestamp(found.log_time_ms / 1000, UTC)
    learner = Text("a learner: it may lack much of what the members had", "bold yellow")
    return stacked(
        facts((
            ("node", found.identity.node), ("cluster", found.identity.cluster_id),
            ("recovery epoch", found.identity.recovery_epoch),
            ("has", f"index {found.last_index} of term {found.last_term}, {at:%Y-%m-%d %H:%M:%S} UTC"),
            ("is", learner if found.is_learner else "a member"),
            ("others", ", ".join(found.others)),
        )),
        "", "Of several nodes that are left, recover the one with the highest term, and among those the highest index.",
        f"To go on with this one: --give-up {' --give-up '.join(found.others)}",
    )


def _check_named(found: Position, given_up: tuple[str, ...]) -> None:
    unknown = sorted(set(given_up) - set(found.others))
    if unknown:
        raise exits.Failure(f"{', '.join(unknown)} is no other member; those are {', '.join(found.others)}",
                            exits.USAGE)
    missing = sorted(set(found.others) - set(given_up))
    if missing:
        raise exits.Failure(
            f"{', '.join(missing)} would be given up, too: name every member but this one with --give-up", exits.USAGE)


def _check_silent(configuration: Configuration, given_up: tuple[str, ...]) -> None:
    """Who still runs, and hears of the recovered cluster, stops itself: nobody means that of a node that works."""

    async def answers(name: str) -> bool:
        member = configuration.find(name)
        address = address_parts(member.address) if member is not None else None
        if address is None:
            return False
        try:
            async with asyncio.timeout(_ANSWERS_S):
                _, writer = await asyncio.open_connection(*address)
        except (OSError, TimeoutError, UnicodeError):
            return False
        writer.close()
        return True

    async def ask() -> list[bool]:
        return await asyncio.gather(*map(answers, given_up))

    running = [name for name, does in zip(given_up, asyncio.run(ask()), strict=True) if does]
    if running:
        raise exits.Failure(f"{', '.join(running)} can be reached: it is not lost. If it is to be given up, stop it "
                            "first", exits.REJECTED)


def _confirm(found: Position, confirm: str | None, output: Output) -> None:
    if confirm is None:
        if output.as_json:
            raise exits.Failure("--confirm CLUSTER_ID is needed with --json", exits.USAGE)
        output.show({}, _show_position(found))
        confirm = click.prompt(f"{', '.join(found.others)} will be given up for good. Type the cluster's id to go on")
    if confirm.strip() != found.identity.cluster_id:
        raise exits.Failure("that is not the cluster's id: nothing was changed", exits.USAGE)
