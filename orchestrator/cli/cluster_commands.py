"""`orchestrator cluster`: what the nodes say of each other, also when there is no leader to ask; and who they are."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
from rich.text import Text

from orchestrator.cli import exits
from orchestrator.cli.cluster_calls import ask_leader, ask_status
from orchestrator.cli.output import facts, stacked, status, table, visible
from orchestrator.cli.session import Session, calls_cluster, common_options, current_session
from orchestrator_api.v1 import cluster_pb2
from orchestrator_client import Client

_LAG_NOTABLE_ENTRIES = 1_000
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
    found = asyncio.run(best_status(session.addresses, _patience(session)))
    if found is None:
        raise _silent(session)
    session.output.show(status_values(found), describe(found))
    if not found.leader:
        raise exits.Failure("the cluster has no leader now", exits.UNAVAILABLE)


@cluster.command("leader")
@common_options
def show_leader() -> None:
    """Print the name and the gRPC address of the leader."""
    session = current_session()
    answers = asyncio.run(_ask_everyone(session.addresses, _patience(session), ask_leader))
    if not answers:
        raise _silent(session)
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


def _admitted(name: str, reply: cluster_pb2.AddMemberResponse | cluster_pb2.ReplaceMemberResponse) -> dict[str, str]:
    return {"name": name, "incarnation": reply.incarnation, "peer_address": reply.peer_address}


async def best_status(addresses: list[str], timeout_s: float) -> cluster_pb2.GetStatusResponse | None:
    """The leader's own word, who alone knows how far behind the others are; else that of the highest term."""
    answers = await _ask_everyone(addresses, timeout_s, ask_status)
    if not answers:
        return None
    best = max(answers, key=lambda answer: (answer.term, answer.node == answer.leader, bool(answer.leader)))
    if best.node == best.leader or not best.leader:
        return best
    # The leader is not among the given addresses, or calls itself by another one.
    address = next((node.grpc_address for node in best.nodes if node.name == best.leader), "")
    told = await ask_status(address, timeout_s) if address else None
    return told if told is not None and told.term >= best.term else best


async def _ask_everyone(
        addresses: list[str], timeout_s: float, ask: Callable[[str, float], Awaitable[Answer | None]]) -> list[Answer]:
    answers = await asyncio.gather(*(ask(address, timeout_s) for address in addresses))
    return [answer for answer in answers if answer is not None]


def _patience(session: Session) -> float:
    # One that does not answer in two seconds is down as far as a person is concerned.
    return min(session.timeout_s, 2.0)


def _silent(session: Session) -> exits.Failure:
    return exits.Failure(f"no node answers at {', '.join(session.addresses) or 'no address'}", exits.UNAVAILABLE)


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
                       for node in found.nodes]
    return values


def describe(found: cluster_pb2.GetStatusResponse) -> Any:
    """The cluster for people."""
    head = facts((
        ("cluster", found.cluster_id), ("leader", found.leader or Text("none", "bold red")), ("term", found.term),
        ("can bear", bearable(found)), ("live workflows", found.live_workflows),
        ("tasks", f"{found.leased_tasks} running, {found.ready_tasks} ready"),
        ("worker sessions", found.worker_sessions),
        ("stuck", Text(f"{found.stuck_compensations} compensations wait for an operator", "bold red")
         if found.stuck_compensations else ""),
        ("version", f"{found.version}, behaviour level {found.behaviour_level}"), ("as seen by", found.node),
    ))
    rows = [(Text(node.name, "bold"), status(role_name(node.role)), node.term, node.applied_index, _lag(node),
             f"{node.last_contact_ms} ms ago", _clock(node), node.grpc_address)
            for node in sorted(found.nodes, key=lambda node: node.name)]
    headings = ("NODE", "ROLE", "TERM", "APPLIED", "LAG", "HEARD", "CLOCK", "GRPC")
    return stacked(head, "", table(headings, rows, right=(2, 3, 4, 5, 6)))


def bearable(found: cluster_pb2.GetStatusResponse) -> Text:
    count = found.faults_tolerable
    if not found.leader:
        return Text("no leader: writes wait", "bold red")
    if count == 0:
        return Text("no further fault", "bold yellow")
    return Text(f"{count} more fault{'s' if count > 1 else ''}", "green")


def _lag(node: cluster_pb2.NodeStatus) -> Text:
    text = visible(node.lag_entries)
    text.stylize("yellow" if node.lag_entries >= _LAG_NOTABLE_ENTRIES else "")
    return text


def _clock(node: cluster_pb2.NodeStatus) -> Text:
    if abs(node.clock_skew_ms) <= _SKEW_NOTABLE_MS:
        return Text("right" if node.role != cluster_pb2.NODE_ROLE_UNREACHABLE else "")
    return Text(f"{node.clock_skew_ms / 1000:+.1f} s", "bold red")
