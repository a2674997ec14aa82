"""`orchestrator cluster join` and `rebuild`: the data directory of one more node, or of one that was lost."""

from __future__ import annotations

import asyncio
import shutil
from itertools import count
from pathlib import Path

import click

from orchestrator.cli import exits
from orchestrator.cli.cluster_commands import best_status, silent
from orchestrator.cli.node_commands import CONFIG_FILE, loaded
from orchestrator.cli.recovery_commands import refused_directories
from orchestrator.cli.session import Session, calls_cluster
from orchestrator.config import Config
from orchestrator.replication import identity as identities
from orchestrator.replication.directory_lock import locked
from orchestrator.replication.files import RealFiles
from orchestrator.replication.identity import Identity
from orchestrator.replication.release import THIS_RELEASE
from orchestrator_api.v1 import cluster_pb2
from orchestrator_client import Client
from orchestrator_client.errors import ClusterError, RequestError

_STATUS_TIMEOUT_S = 2.0
_AFTERWARDS = "start it; it votes once it has caught up (see `cluster status`)"


@click.command("join")
@CONFIG_FILE
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the node will keep its data; must be blank.")
@click.option("--node", help="The name of this node.")
@calls_cluster
async def join(session: Session, client: Client, *, config_file: Path | None, data_dir: Path | None,
               node: str | None) -> None:
    """Make the data directory of one more node, here, and admit it to the running cluster; then start it.

    --config gives node, data_dir and the peer address from the file that `serve` will use.
    """
    config = loaded(config_file, {"node": node, "data_dir": data_dir})
    found = await _cluster(session)
    if config.node in _peers(found):
        raise exits.Failure(f"{config.node} is a member already: `cluster rebuild` makes it anew", exits.REJECTED)
    made = _initialise(config, found)
    request = cluster_pb2.AddMemberRequest(
        name=made.node, incarnation=made.incarnation, peer_address=str(config.peer_address),
        behaviour_lowest=THIS_RELEASE.lowest_level, behaviour_highest=THIS_RELEASE.highest_level)
    await _admit(config, made, "add", client.connection.call(lambda server: server.cluster.AddMember, request))
    session.output.said(f"{made.node} is admitted: {_AFTERWARDS}", _values(config, made))


@click.command("rebuild")
@CONFIG_FILE
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the node keeps its data.")
@click.option("--node", help="The name of this node.")
@click.option("--discard", is_flag=True, help="Remove the old data instead of keeping them in a directory beside.")
@calls_cluster
async def rebuild(session: Session, client: Client, *, config_file: Path | None, data_dir: Path | None,
                  node: str | None, discard: bool) -> None:
    """Make a new data directory for a member that has lost its own, here, and admit it in its place; then start it.

    Old data are moved aside, to DATA_DIR.old-1 or the like. The node must be stopped, and the others have a leader.
    --config gives node, data_dir and the peer address from the file that `serve` will use.
    """
    config = loaded(config_file, {"node": node, "data_dir": data_dir})
    found = await _cluster(session)
    if config.node not in _peers(found):
        raise exits.Failure(f"{config.node} is no member of the cluster: `cluster join` makes it one", exits.NOT_FOUND)
    if not found.leader:
        # Its old data may be needed still: a majority is lost.
        raise exits.Failure("the cluster has no leader now, so nobody could admit the node: nothing was changed",
                            exits.UNAVAILABLE)
    kept = await asyncio.to_thread(_move_aside, config.data_dir, discard)
    made = _initialise(config, found)
    request = cluster_pb2.ReplaceMemberRequest(
        name=made.node, incarnation=made.incarnation, peer_address=str(config.peer_address),
        behaviour_lowest=THIS_RELEASE.lowest_level, behaviour_highest=THIS_RELEASE.highest_level)
    replacing = client.connection.call(lambda server: server.cluster.ReplaceMember, request)
    await _admit(config, made, "replace", replacing, kept)
    where = f"; its old data are in {kept}" if kept is not None else ""
    session.output.said(f"{made.node} is rebuilt{where}: {_AFTERWARDS}",
                        _values(config, made) | {"old_data": str(kept) if kept is not None else ""})


def _move_aside(data_dir: Path, discard: bool) -> Path | None:
    """Leaves no old data there; answers where they are now."""
    with refused_directories():
        try:
            if not data_dir.is_dir() or not any(data_dir.iterdir()):
                return None
            with locked(data_dir):
                if discard:
                    for entry in data_dir.iterdir():
                        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
                    return None
                names = (data_dir.with_name(f"{data_dir.name}.old-{number}") for number in count(1))
                return data_dir.rename(next(name for name in names if not name.exists()))
        except OSError as error:
            raise exits.Failure(f"{data_dir} can't be {'emptied' if discard else 'moved aside'} ({error.strerror}). If "
                                "it is a mount point, copy its contents to where they are to be kept, and give "
                                "--discard", exits.FAILED) from error


async def _cluster(session: Session) -> cluster_pb2.GetStatusResponse:
    found = await best_status(session.addresses, min(session.timeout_s, _STATUS_TIMEOUT_S), session.tls)
    if found is None:
        raise await silent(session)
    if not found.cluster_id:
        raise exits.Failure('the cluster tells its id to its admins only: it takes the role admin for namespaces ["*"]',
                            exits.REJECTED)
    return found


def _peers(found: cluster_pb2.GetStatusResponse) -> dict[str, str]:
    return {node.name: node.peer_address for node in found.nodes if node.peer_address}


def _initialise(config: Config, found: cluster_pb2.GetStatusResponse) -> Identity:
    members = _peers(found) | {config.node: str(config.peer_address)}
    with refused_directories():
        try:
            config.data_dir.parent.mkdir(parents=True, exist_ok=True)
            return identities.initialise(RealFiles(), config.data_dir, found.cluster_id, config.node, members,
                                         recovery_epoch=found.recovery_epoch)
        except OSError as error:
            raise exits.Failure(f"{config.data_dir}: {error.strerror}", exits.FAILED) from error


async def _admit(config: Config, made: Identity, command: str, call: object, kept: Path | None = None) -> None:
    """What was refused for certain leaves no directory behind; else the operator can go on from there."""
    try:
        await call  # type: ignore[misc]  # an awaitable, of one of two answers
    except RequestError:
        await asyncio.to_thread((config.data_dir / identities.FILE_NAME).unlink)
        if kept is not None:
            await asyncio.to_thread(config.data_dir.rmdir)
            await asyncio.to_thread(kept.rename, config.data_dir)
        raise
    except ClusterError as error:
        raise exits.Failure(
            f"{error}; {config.data_dir} is made: `orchestrator cluster {command} {made.node} --incarnation "
            f"{made.incarnation} --peer-address {config.peer_address}` admits it", exits.UNAVAILABLE) from error


def _values(config: Config, made: Identity) -> dict[str, object]:
    return {"name": made.node, "cluster_id": made.cluster_id, "recovery_epoch": made.recovery_epoch,
            "incarnation": made.incarnation, "peer_address": str(config.peer_address), "data_dir": str(config.data_dir)}
