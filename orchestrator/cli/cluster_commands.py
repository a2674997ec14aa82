"""`orchestrator cluster`: what the nodes say of each other, also when there is no leader to ask; and who they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import click
from rich.text import Text

from orchestrator.cli import exits
from orchestrator.cli.cluster_calls import ask_leader, ask_node, ask_status
from orchestrator.cli.output import facts, stacked, status, table, visible
from orchestrator.cli.session import Session, calls_cluster, common_options, current_session
from orchestrator_api.v1 import cluster_pb2
from orchestrator_client import TLS, Client, OrchestratorError
from orchestrator_client.tls import why_not

_LAG_NOTABLE_ENTRIES = 1_000
# A handover takes two election timeouts at most; a drain also what the node gives its system tasks.
_TRANSFER_TIMEOUT_S = 30.0
_DRAIN_TIMEOUT_S = 660.0
_SKEW_NOTABLE_MS = 1_000

Answer = TypeVar("Answer")


@click.group()
def cluster() -> None:
    """See how the cluster is, and change who its members are."""


@cluster.command("status")
@common_options
def show_status() -> None:
    """Show every node, who leads, and how many more may fail."""
    session = current_session()
    found = _answered(best_status(session.addresses, _patience(session), session.tls))
    if found is None:
        raise asyncio.run(silent(session))
    session.output.show(status_values(found), describe(found))
    if not found.leader:
        raise exits.Failure("the cluster has no leader now", exits.UNAVAILABLE)


@cluster.command("leader")
@common_options
def show_leader() -> None:
    """Print the name and the gRPC address of the leader."""
    session = current_session()
    answers = _answered(_ask_everyone(session.addresses, _patience(session), session.tls, ask_leader))
    if not answers:
        raise asyncio.run(silent(session))
    found = max((answer for answer in answers if answer.leader), key=lambda answer: answer.term, default=None)
    if found is None:
        raise exits.Failure("the cluster has no leader now", exits.UNAVAILABLE)
    session.output.show({"leader": found.leader, "grpc_address": found.grpc_address, "term": found.term},
                        f"{found.leader} {found.grpc_address}")


_INCARNATION = click.option("--incarnation", default="",
                            help="Of its data directory, as init printed it.  [default: of the node that waits]")
_ADDRESS = click.option("--peer-address", default="", metavar="HOST:PORT",
                        help="Where its peers are to reach it.  [default: what it says itself]")


@cluster.command("add")
@click.argument("name")
@_INCARNATION
@_ADDRESS
@calls_cluster
async def add_member(session: Session, client: Client, *, name: str, incarnation: str, peer_address: str) -> None:
    """Admit the new node NAME, which was initialised with this cluster's id and is running.

    It receives everything first, and votes once it has caught up: see `cluster status`.
    """
    request = cluster_pb2.AddMemberRequest(name=name, incarnation=incarnation, peer_address=peer_address)
    reply = await client.connection.call(lambda node: node.cluster.AddMember, request)
    session.output.said(f"{name} is admitted; it votes once it has caught up", _admitted(name, reply))


@cluster.command("remove")
@click.argument("name")
@calls_cluster
async def remove_member(session: Session, client: Client, *, name: str) -> None:
    """Take the member NAME out of the cluster; then it can be stopped. A leader hands over first."""
    await client.connection.call(lambda node: node.cluster.RemoveMember, cluster_pb2.RemoveMemberRequest(name=name))
    session.output.said(f"{name} is a member no longer", {"name": name})


@cluster.command("replace")
@click.argument("name")
@_INCARNATION
@_ADDRESS
@calls_cluster
async def replace_member(session: Session, client: Client, *, name: str, incarnation: str, peer_address: str) -> None:
    """Admit the node NAME with a new data directory in the place of the one that was lost."""
    request = cluster_pb2.ReplaceMemberRequest(name=name, incarnation=incarnation, peer_address=peer_address)
    reply = await client.connection.call(lambda node: node.cluster.ReplaceMember, request)
    session.output.said(f"{name} is replaced; it votes once it has caught up", _admitted(name, reply))


@cluster.command("transfer")
@click.argument("name", default="")
@common_options
def transfer_leadership(name: str) -> None:
    """Hand leadership over to the node NAME, or to the one that is nearest to the leader's log."""
    session = current_session()
    found, address = _answered(_named(session, ""))
    if name and name == found.leader:
        session.output.said(f"{name} leads already", {"leader": name})
        return
    request = cluster_pb2.TransferLeadershipRequest(node=name)
    timeout_s = max(session.timeout_s, _TRANSFER_TIMEOUT_S)
    reply = _answered(
        ask_node(address, lambda node: node.TransferLeadership(request, timeout=timeout_s), session.tls))
    session.output.said(f"{found.leader} has handed over; {reply.leader or 'nobody yet'} leads",
                        {"leader": reply.leader, "from": found.leader})


@cluster.command("drain")
@click.argument("name")
@common_options
def drain_node(name: str) -> None:
    """Take the node NAME out of service, as before its machine is stopped; it goes on to vote and to acknowledge.

    It hands leadership over and does not lead while another node can, and ends its system tasks or hands them back.
    That lasts over its restarts, until `cluster undrain`.
    """
    session = current_session()
    _, address = _answered(_named(session, name))
    request = cluster_pb2.DrainNodeRequest(node=name)
    reply = _answered(ask_node(address, lambda node: node.DrainNode(request, timeout=_DRAIN_TIMEOUT_S), session.tls))
    session.output.said(f"{name} is drained; {reply.leader or 'nobody'} leads", {"node": name, "leader": reply.leader})


@cluster.command("undrain")
@click.argument("name")
@common_options
def undrain_node(name: str) -> None:
    """Put the node NAME back into service."""
    session = current_session()
    _, address = _answered(_named(session, name))
    request = cluster_pb2.UndrainNodeRequest(node=name)
    _answered(ask_node(address, lambda node: node.UndrainNode(request, timeout=session.timeout_s), session.tls))
    session.output.said(f"{name} is in service again", {"node": name})


@cluster.command("raise-behaviour")
@click.option("--level", type=click.IntRange(1), default=None,
              help="To which level.  [default: the highest that a member knows]")
@click.option("--yes", is_flag=True, help="Don't ask.")
@calls_cluster
async def raise_behaviour(session: Session, client: Client, *, level: int | None, yes: bool) -> None:
    """End an upgrade: what the new release does differently begins, and nobody can go back to the old one.

    All members must run a release that knows the level, and be reachable: see `cluster status`.
    """
    if not yes:
        click.confirm("Once raised, the behaviour level is never lowered: releases that do not know it can't be run in "
                      "this cluster any more. Raise it?", abort=True, err=True)
    request = cluster_pb2.RaiseBehaviourRequest(level=level or 0)
    reply = await client.connection.call(lambda node: node.cluster.RaiseBehaviour, request)
    said = f"raised from {reply.previous} to" if reply.level > reply.previous else "is already"
    session.output.said(f"the behaviour level {said} {reply.level}",
                        {"previous": reply.previous, "level": reply.level})


async def _named(session: Session, name: str) -> tuple[cluster_pb2.GetStatusResponse, str]:
    """The cluster, and where the node (by default the leader) serves gRPC."""
    found = await best_status(session.addresses, _patience(session), session.tls)
    if found is None:
        raise await silent(session)
    wanted = name or found.leader
    if not wanted:
        raise exits.Failure("the cluster has no leader now", exits.UNAVAILABLE)
    node = next((node for node in found.nodes if node.name == wanted), None)
    if node is None:
        raise exits.Failure(f"no member of the cluster is called {wanted!r}", exits.NOT_FOUND)
    if not node.grpc_address or node.role == cluster_pb2.NODE_ROLE_UNREACHABLE:
        raise exits.Failure(f"{wanted} can't be reached by the other nodes", exits.UNAVAILABLE)
    return found, node.grpc_address


def _admitted(name: str, reply: cluster_pb2.AddMemberResponse | cluster_pb2.ReplaceMemberResponse) -> dict[str, str]:
    return {"name": name, "incarnation": reply.incarnation, "peer_address": reply.peer_address}


async def best_status(
        addresses: list[str], timeout_s: float, tls: TLS | None) -> cluster_pb2.GetStatusResponse | None:
    """The leader's own word, who alone knows how far behind the others are; else that of the highest term."""
    answers = await _ask_everyone(addresses, timeout_s, tls, ask_status)
    if not answers:
        return None
    best = max(answers, key=lambda answer: (answer.term, answer.node == answer.leader, bool(answer.leader)))
    if best.node == best.leader or not best.leader:
        return best
    # The leader is not among the given addresses, or calls itself by another one.
    address = next((node.grpc_address for node in best.nodes if node.name == best.leader), "")
    told = await ask_status(address, timeout_s, tls) if address else None
    return told if told is not None and told.term >= best.term else best


async def _ask_everyone(
        addresses: list[str], timeout_s: float, tls: TLS | None,
        ask: Callable[[str, float, TLS | None], Awaitable[Answer | None]]) -> list[Answer]:
    answers = await asyncio.gather(*(ask(address, timeout_s, tls) for address in addresses))
    return [answer for answer in answers if answer is not None]


def _answered(asking: Coroutine[Any, Any, Answer]) -> Answer:
    try:
        return asyncio.run(asking)
    except OrchestratorError as error:
        raise exits.of(error) from error


def _patience(session: Session) -> float:
    # One that does not answer in two seconds is down as far as a person is concerned.
    return min(session.timeout_s, 2.0)


async def silent(session: Session) -> exits.Failure:
    """What to say when nobody has answered, with the reason if TLS is it."""
    reasons = await asyncio.gather(*(why_not(each, session.tls) for each in session.addresses))
    message = f"no node answers at {', '.join(session.addresses) or 'no address'}"
    return exits.Failure(": ".join([message, *filter(None, reasons)][:2]), exits.UNAVAILABLE)


def role_name(role: cluster_pb2.NodeRole.ValueType) -> str:
    if role not in cluster_pb2.NodeRole.values():
        return "UNKNOWN"
    return cluster_pb2.NodeRole.Name(role).removeprefix("NODE_ROLE_")


def status_values(found: cluster_pb2.GetStatusResponse) -> dict[str, Any]:
    """Every field, also those that are 0, with numbers as numbers."""
    values: dict[str, Any] = {field.name: getattr(found, field.name) for field in found.DESCRIPTOR.fields
                              if field.name != "nodes"}
    names = [field.name for field in cluster_pb2.NodeStatus.DESCRIPTOR.fields if field.name != "role"]
    values["nodes"] = [{"role": role_name(node.role)} | {name: getattr(node, name) for name in names}
                       | {"disk_free_bytes": node.disk_free_bytes if node.HasField("disk_free_bytes") else None}
                       for node in found.nodes]
    return values


def describe(found: cluster_pb2.GetStatusResponse) -> Any:
    """The cluster for people."""
    head = facts((
        ("cluster", found.cluster_id), ("leader", found.leader or Text("none", "bold red")), ("term", found.term),
        ("can bear", bearable(found)),
        ("changing", Text("the members: not over yet", "yellow") if found.membership_changing else ""),
        ("epoch", f"{found.recovery_epoch}, since a restore or recovery" if found.recovery_epoch else ""),
        ("live workflows", found.live_workflows),
        ("tasks", f"{found.leased_tasks} running, {found.ready_tasks} ready"),
        ("worker sessions", found.worker_sessions),
        ("stuck", Text(f"{found.stuck_compensations} compensations wait for an operator", "bold red")
         if found.stuck_compensations else ""),
        ("version", _versions(found)), ("behaviour", _level(found)), ("as seen by", found.node),
    ))
    rows = [(Text(node.name, "bold"), _role(node), node.term, node.applied_index, _lag(node),
             _heard(node), _clock(node), _disk(node), node.version, _levels(node), node.grpc_address)
            for node in sorted(found.nodes, key=lambda node: node.name)]
    headings = ("NODE", "ROLE", "TERM", "APPLIED", "LAG", "HEARD", "CLOCK", "DISK", "VERSION", "LEVELS", "GRPC")
    return stacked(head, "", table(headings, rows, right=(2, 3, 4, 5, 6, 7)))


def _versions(found: cluster_pb2.GetStatusResponse) -> Text:
    versions = sorted({node.version for node in found.nodes if node.version} or {found.version})
    return Text(" and ".join(versions), "yellow" if len(versions) > 1 else "")


def _level(found: cluster_pb2.GetStatusResponse) -> Text:
    text = Text(f"level {found.behaviour_level}")
    if found.behaviour_level_known > found.behaviour_level:
        text.append(f", all members know {found.behaviour_level_known}: `cluster raise-behaviour`", "yellow")
    return text


def _disk(node: cluster_pb2.NodeStatus) -> str:
    return f"{node.disk_free_bytes / 2**30:.1f} GiB" if node.HasField("disk_free_bytes") else ""


def _levels(node: cluster_pb2.NodeStatus) -> str:
    if node.behaviour_lowest == node.behaviour_highest:
        return str(node.behaviour_highest or "")
    return f"{node.behaviour_lowest}-{node.behaviour_highest}"


def bearable(found: cluster_pb2.GetStatusResponse) -> Text:
    count = found.faults_tolerable
    if not found.leader:
        return Text("no leader: writes wait", "bold red")
    if count == 0:
        return Text("no further fault", "bold yellow")
    return Text(f"{count} more fault{'s' if count > 1 else ''}", "green")


def _role(node: cluster_pb2.NodeStatus) -> Text:
    text = status(role_name(node.role))
    return text.append(" drained", "yellow") if node.drained else text


def _lag(node: cluster_pb2.NodeStatus) -> Text:
    if node.snapshot_bytes:
        done, size = node.snapshot_bytes_done / (1 << 20), node.snapshot_bytes / (1 << 20)
        return Text(f"snapshot {done:.1f}/{size:.1f} MiB", "yellow")
    text = visible(node.lag_entries)
    text.stylize("yellow" if node.lag_entries >= _LAG_NOTABLE_ENTRIES else "")
    return text


def _heard(node: cluster_pb2.NodeStatus) -> str:
    # A node that hears of its leader only does not know since when another one is silent.
    unknown = node.role == cluster_pb2.NODE_ROLE_UNREACHABLE and not node.last_contact_ms
    return "" if unknown else f"{node.last_contact_ms} ms ago"


def _clock(node: cluster_pb2.NodeStatus) -> Text:
    if abs(node.clock_skew_ms) <= _SKEW_NOTABLE_MS:
        return Text("right" if node.role != cluster_pb2.NODE_ROLE_UNREACHABLE else "")
    return Text(f"{node.clock_skew_ms / 1000:+.1f} s", "bold red")
