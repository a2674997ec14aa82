"""What `ReplicatedLog.status` tells: a snapshot of numbers, safe to keep and to serialise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from orchestrator.replication.configuration import Configuration
from orchestrator.replication.core import SyncObj
from orchestrator.replication.membership import Membership
from orchestrator.replication.release import Release, Releases
from orchestrator.replication.state import Role
from orchestrator.replication.transport import PeerTransport


@dataclass(frozen=True)
class PeerStatus:
    name: str
    connected: bool
    # The leader's view; None on other nodes.
    match_index: int | None
    next_index: int | None
    lag_entries: int | None
    in_flight_bytes: int | None
    mode: str | None
    last_contact_ms: int | None
    # It answers, but it is not the member whose name it has: it was not admitted.
    stranger: bool = False
    # Sent everything, counted nowhere.
    learner: bool = False


@dataclass(frozen=True)
class TransferStatus:
    peer: str
    incoming: bool
    index: int
    size_bytes: int
    done_bytes: int


@dataclass(frozen=True)
class Status:
    node: str
    role: Role
    # Why this node neither votes nor acknowledges, in a sentence; None when it does.
    awaiting_reason: str | None
    term: int
    leader: str | None
    ready_to_lead: bool
    first_index: int
    last_index: int
    durable_index: int
    commit_index: int
    flushed_index: int
    journal_bytes: int
    configuration: Configuration | None
    # Of the entry that it came with.
    configuration_index: int
    peers: tuple[PeerStatus, ...]
    transfers: tuple[TransferStatus, ...]
    counters: dict[str, int]
    # What each member and learner runs; None of one that is away.
    releases: Releases = field(default_factory=dict)
    # What everybody runs who is there, nodes that wait to be admitted included.
    said: dict[str, Release] = field(default_factory=dict)


def describe(
    raft: SyncObj, membership: Membership, transport: PeerTransport, *, role: Role, flushed_index: int
) -> Status:
    strangers = transport.strangers()
    return Status(
        node=raft.name,
        role=role,
        awaiting_reason=membership.awaiting_reason,
        term=raft.term,
        leader=raft.leader,
        ready_to_lead=raft.barrier.ready(),
        first_index=raft.journal.first_index,
        last_index=raft.last_index,
        durable_index=raft.journal.durable_index,
        commit_index=raft.commit_index,
        flushed_index=flushed_index,
        journal_bytes=raft.journal.size_bytes,
        configuration=membership.configuration,
        configuration_index=membership.index,
        peers=tuple(_peer(raft, name, stranger=name in strangers) for name in raft.peers),
        transfers=tuple(_transfers(raft)),
        counters=dict(transport.counters),
        releases=membership.releases(),
        said=membership.releases_said(),
    )


def _peer(raft: SyncObj, name: str, *, stranger: bool) -> PeerStatus:
    learner = name in raft.learners
    if raft.role is not Role.LEADER:
        return PeerStatus(name, raft.connected(name), None, None, None, None, None, None, stranger, learner)
    progress = raft.replicator.progress[name]
    match = raft.match_index(name)
    return PeerStatus(
        name=name,
        connected=raft.connected(name),
        match_index=match,
        next_index=raft.next_index(name),
        lag_entries=raft.last_index - match,
        in_flight_bytes=progress.in_flight_bytes,
        mode=progress.mode.value,
        last_contact_ms=int((raft.clock.monotonic() - raft.last_contact(name)) * 1000),
        stranger=stranger,
        learner=learner,
    )


def _transfers(raft: SyncObj) -> Iterator[TransferStatus]:
    if raft.sender is not None:
        for name, transfer in raft.sender.transfers.items():
            if transfer.copy is not None:
                yield TransferStatus(name, False, transfer.copy.index, transfer.copy.size, transfer.acked or 0)
    if raft.receiver is not None and (incoming := raft.receiver.incoming) is not None:
        begin = incoming.begin
        yield TransferStatus(raft.leader or "", True, begin.index, begin.size, incoming.written)
