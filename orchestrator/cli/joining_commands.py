"""`orchestrator cluster join` and `rebuild`: the data directory of one more node, or of one that was lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from orchestrator.cli import exits
from orchestrator.cli.cluster_commands import best_status, silent
from orchestrator.cli.node_commands import CONFIG_FILE, loaded
from orchestrator.cli.recovery_commands import refused_directories
from orchestrator.cli.session import Session, calls_cluster
from orchestrator.config import Config
from orchestrator.replication import identity as identities
from orchestrator.replication.files import RealFiles
from orchestrator.replication.identity import Identity
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
    request = cluster_pb2.AddMemberRequest(name=made.node, incarnation=made.incarnation,
                                           peer_address=str(config.peer_address))
    await _admit(config, made, "add", client.connection.call(lambda server: server.cluster.AddMember, request))
    session.output.said(f"{made.node} is admitted: {_AFTERWARDS}", _values(config, made))


@click.command("rebuild")
@CONFIG_FILE
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the node will keep its data; must be blank.")
@click.option("--node", help="The name of this node.")
@calls_cluster
async def rebuild(session: Session, client: Client, *, config_file: Path | None, data_dir: Path | None,
                  node: str | None) -> None:
    """Make a new data directory for a member that has lost its own, here, and admit it in its place; then start it.

    --config gives node, data_dir and the peer address from the file that `serve` will use.
    """
    config = loaded(config_file, {"node": node, "data_dir": data_dir})
    found = await _cluster(session)
    if config.node not in _peers(found):
        raise exits.Failure(f"{config.node} is no member of the cluster: `cluster join` makes it one", exits.NOT_FOUND)
    made = _initialise(config, found)
    request = cluster_pb2.ReplaceMemberRequest(name=made.node, incarnation=made.incarnation,
                                               peer_address=str(config.peer_address))
    await _admit(config, made, "replace", client.connection.call(lambda server: server.cluster.ReplaceMember, request))
    session.output.said(f"{made.node} is rebuilt: {_AFTERWARDS}", _values(config, made))


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


async def _admit(config: Config, made: Identity, command: str, call: object) -> None:
    """What was refused for certain leaves no directory behind; else the operator can go on from there."""
    try:
        await call  # type: ignore[misc]  # an awaitable, of one of two answers
    except RequestError:
        await asyncio.to_thread((config.data_dir / identities.FILE_NAME).unlink)
        raise
    except ClusterError as error:
        raise exits.Failure(
            f"{error}; {config.data_dir} is made: `orchestrator cluster {command} {made.node} --incarnation "
            f"{made.incarnation} --peer-address {config.peer_address}` admits it", exits.UNAVAILABLE) from error


def _values(config: Config, made: Identity) -> dict[str, object]:
    return {"name": made.node, "cluster_id": made.cluster_id, "recovery_epoch": made.recovery_epoch,
            "incarnation": made.incarnation, "peer_address": str(config.peer_address), "data_dir": str(config.data_dir)}
