"""ClusterService: what this node knows of the cluster, which any node answers; and who its members are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from orchestrator.access.roles import Need
from orchestrator.engine import limits, queries
from orchestrator.engine.commands import UNCHANGED, RaiseBehaviour, SetRetention
from orchestrator.engine.purging import retention
from orchestrator.engine.results import Done
from orchestrator.replication.configuration import Member
from orchestrator.replication.disk_room import said_bytes
from orchestrator.replication.in_service import says_drained
from orchestrator.replication.log import Role
from orchestrator.replication.release import Release, check_raise, level_of_all
from orchestrator.replication.status import PeerStatus, Status
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.backups import backup_parts
from orchestrator.rpc.caller import CALLER
from orchestrator.rpc.draining import give_lead_away, leader_known, service_of
from orchestrator.rpc.errors import RpcFailure, abort, answers
from orchestrator.rpc.requests import identity_of, in_range
from orchestrator_api.v1 import cluster_pb2 as pb
from orchestrator_api.v1 import cluster_pb2_grpc as pb_grpc

_ROLES = {
    Role.FOLLOWER: pb.NODE_ROLE_FOLLOWER,
    Role.CANDIDATE: pb.NODE_ROLE_CANDIDATE,
    Role.LEADER: pb.NODE_ROLE_LEADER,
    Role.LEARNER: pb.NODE_ROLE_LEARNER,
    Role.FORMING: pb.NODE_ROLE_AWAITING_ADMISSION,
    Role.AWAITING_ADMISSION: pb.NODE_ROLE_AWAITING_ADMISSION,
}
_VOTELESS = (pb.NODE_ROLE_UNREACHABLE, pb.NODE_ROLE_AWAITING_ADMISSION, pb.NODE_ROLE_LEARNER)
_ROLES_BY_NAME = {role.value: number for role, number in _ROLES.items()}


class ClusterServicer(pb_grpc.ClusterServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @answers
    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> Any:
        backend = self.backend
        status = backend.log.status()
        state = backend.state()
        nodes = [self._own(status), *(self._peer(peer, status) for peer in status.peers)]
        # Who was not admitted has no vote.
        reachable = sum(node.role not in _VOTELESS for node in nodes)
        learners = status.configuration.learners if status.configuration is not None else {}
        quorum = sum(node.name not in learners for node in nodes) // 2 + 1
        return pb.GetStatusResponse(
            # Who knows it can work out the ids of others' client sessions.
            cluster_id=backend.cluster_id if CALLER.get().allows(Need.ADMINISTER_CLUSTER, "") else "",
            node=backend.node,
            term=status.term,
            leader=status.leader or "",
            nodes=sorted(nodes, key=lambda node: node.name),
            faults_tolerable=max(0, reachable - quorum),
            live_workflows=state.meta.live_executions,
            worker_sessions=len(queries.worker_sessions(state)),
            leased_tasks=len(state.leases),
            ready_tasks=len(state.ready),
            version=backend.release.version,
            behaviour_level=state.meta.behaviour_level,
            behaviour_level_known=level_of_all(status.releases),
            log_time_ms=state.meta.log_time_ms,
            stuck_compensations=state.meta.stuck_compensations,
            recovery_epoch=state.recovery_epoch,
            membership_changing=_changing(status),
        )

    @answers
    async def GetLeader(self, request: pb.GetLeaderRequest, context: Any) -> Any:
        hint = self.backend.addresses.hint()
        return pb.GetLeaderResponse(
            leader=hint.get("leader", ""), grpc_address=hint.get("leader_address", ""), term=self.backend.log.term
        )

    @answers
    async def AddMember(self, request: pb.AddMemberRequest, context: Any) -> Any:
        member = self._wanted(request.name, request.incarnation, request.peer_address, "", is_new=True)
        self._check_levels(request)
        await self.backend.log.add_member(request.name, member.incarnation, member.address)
        return pb.AddMemberResponse(incarnation=member.incarnation, peer_address=member.address)

    @answers
    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: Any) -> Any:
        await self.backend.log.remove_member(request.name)
        return pb.RemoveMemberResponse()

    @answers
    async def ReplaceMember(self, request: pb.ReplaceMemberRequest, context: Any) -> Any:
        now = self._peer_address(request.name, self.backend.log.status())
        member = self._wanted(request.name, request.incarnation, request.peer_address, now)
        self._check_levels(request)
        await self.backend.log.replace_member(request.name, member.incarnation, member.address or None)
        return pb.ReplaceMemberResponse(incarnation=member.incarnation, peer_address=member.address)

    @answers
    async def TransferLeadership(self, request: pb.TransferLeadershipRequest, context: Any) -> Any:
        self.backend.require_leading()
        await give_lead_away(self.backend, request.node)
        return pb.TransferLeadershipResponse(leader=await leader_known(self.backend))

    @answers
    async def DrainNode(self, request: pb.DrainNodeRequest, context: Any) -> Any:
        await service_of(self.backend, request.node).drain()
        return pb.DrainNodeResponse(leader=await leader_known(self.backend))

    @answers
    async def UndrainNode(self, request: pb.UndrainNodeRequest, context: Any) -> Any:
        await service_of(self.backend, request.node).undrain()
        return pb.UndrainNodeResponse()

    @answers
    async def RaiseBehaviour(self, request: pb.RaiseBehaviourRequest, context: Any) -> Any:
        self.backend.require_leading()
        releases = self.backend.log.status().releases
        before = self.backend.state().meta.behaviour_level
        level = request.level or max(before, *(release.highest_level for release in releases.values() if release))
        if request.level != before:
            check_raise(releases, level)
        if level != before:
            await self.backend.submit(RaiseBehaviour(level), Done)
        return pb.RaiseBehaviourResponse(previous=before, level=level)

    async def Backup(self, request: pb.BackupRequest, context: Any) -> AsyncIterator[pb.BackupResponse]:
        try:
            async with aclosing(backup_parts(self.backend, request)) as parts:
                async for part in parts:
                    yield part
        except Exception as error:  # noqa: BLE001 - it becomes the status of the call
            await abort(context, error, self.backend.addresses)

    @answers
    async def GetRetention(self, request: pb.GetRetentionRequest, context: Any) -> Any:
        return pb.GetRetentionResponse(policy=self._retention())

    @answers
    async def SetRetention(self, request: pb.SetRetentionRequest, context: Any) -> Any:
        given = {
            "age_ms": request.age_ms if request.HasField("age_ms") else UNCHANGED,
            "count": request.count if request.HasField("count") else UNCHANGED,
            "bytes": request.bytes if request.HasField("bytes") else UNCHANGED,
        }
        for field, value in given.items():
            in_range(field, value, UNCHANGED, limits.RETENTION)
        await self.backend.submit(SetRetention(**given), Done, identity_of(request.request))
        return pb.SetRetentionResponse(policy=self._retention())

    def _retention(self) -> pb.RetentionPolicy:
        policy = retention(self.backend.state())
        return pb.RetentionPolicy(age_ms=policy.age_ms, count=policy.count, bytes=policy.bytes)

    def _wanted(
        self, name: str, incarnation: str, address: str, otherwise: str, *, is_new: bool = False
    ) -> Member:
        """Who is meant: what the request leaves out is what the node under that name says itself."""
        self.backend.require_leading()
        waits = self.backend.log.candidates().get(name)
        listed = self.backend.log.status().configuration
        known = listed.find(name) if listed is not None else None
        if not incarnation:
            # Asked again, after its answer was lost, it waits no more. A member that votes is the one that was added;
            # whether it has replaced another one nobody can tell.
            was_done = listed is not None and (is_new or name in listed.learners)
            found = waits or (known if was_done else None)
            if found is None:
                raise RpcFailure(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "NODE_NOT_WAITING",
                    f"no node {name!r} waits to be admitted: start it, or give the incarnation that its init printed",
                )
            incarnation = found.incarnation
            address = address or found.address
        if waits is not None and waits.incarnation == incarnation:
            otherwise = waits.address
        return Member(incarnation, address or otherwise)

    def _check_levels(self, request: pb.AddMemberRequest | pb.ReplaceMemberRequest) -> None:
        """Refuses a node that would stop itself as soon as it has the cluster's state."""
        told = Release("", request.behaviour_lowest, request.behaviour_highest) if request.behaviour_highest else None
        release = self.backend.log.status().said.get(request.name, told)
        level = self.backend.state().meta.behaviour_level
        if release is not None and not release.supports(level):
            raise RpcFailure(
                grpc.StatusCode.FAILED_PRECONDITION,
                "BEHAVIOUR_LEVEL_UNSUPPORTED",
                f"the cluster is at behaviour level {level}, and what {request.name!r} runs knows level "
                f"{release.levels}: run the release of the other nodes there",
            )

    def _peer_address(self, name: str, status: Status) -> str:
        member = status.configuration.find(name) if status.configuration is not None else None
        return member.address if member is not None else self.backend.members.get(name, "")

    def _own(self, status: Status) -> pb.NodeStatus:
        backend = self.backend
        return pb.NodeStatus(
            name=backend.node,
            grpc_address=backend.addresses.of(backend.node),
            peer_address=self._peer_address(backend.node, status),
            role=_ROLES[status.role],
            last_index=status.last_index,
            commit_index=status.commit_index,
            applied_index=backend.applied_index(),
            lag_entries=max(0, status.commit_index - backend.applied_index()),
            term=status.term,
            drained=backend.service is not None and backend.service.is_drained,
            disk_free_bytes=backend.free_disk_bytes(),
            **_transfer(status, backend.node, incoming=True),
            clock_skew_ms=backend.clock_skews_ms().get(backend.node, 0),
            **_versions(backend.release),
        )

    def _peer(self, peer: PeerStatus, status: Status) -> pb.NodeStatus:
        said = self.backend.peers().get(peer.name, {})
        role = _ROLES_BY_NAME.get(str(said.get("role", "")), pb.NODE_ROLE_UNSPECIFIED)
        if not peer.connected:
            role = pb.NODE_ROLE_AWAITING_ADMISSION if peer.stranger else pb.NODE_ROLE_UNREACHABLE
        elif peer.learner:
            role = pb.NODE_ROLE_LEARNER
        applied = int(said.get("applied_index", 0))
        # What it acknowledged is known to the leader only; the others go by what it says of itself.
        held = applied if peer.match_index is None else max(peer.match_index, applied)
        return pb.NodeStatus(
            name=peer.name,
            grpc_address=str(said.get("grpc_address", "")),
            peer_address=self._peer_address(peer.name, status),
            role=role,
            last_index=held,
            commit_index=int(said.get("commit_index", 0)),
            applied_index=applied,
            lag_entries=max(0, status.commit_index - held),
            last_contact_ms=peer.last_contact_ms or 0,
            term=int(said.get("term", 0)),
            drained=says_drained(said),
            disk_free_bytes=said_bytes(said) if peer.connected else None,
            **_transfer(status, peer.name, incoming=False),
            clock_skew_ms=self.backend.clock_skews_ms().get(peer.name, 0),
            **_versions(status.releases.get(peer.name)),
        )


def _changing(status: Status) -> bool:
    """A learner is one that has yet to become a member; a configuration counts before it is committed."""
    placed = status.configuration
    return placed is not None and (bool(placed.learners) or status.configuration_index > status.commit_index)


def _versions(release: Release | None) -> dict[str, Any]:
    if release is None:
        return {}
    return {
        "version": release.version,
        "behaviour_lowest": release.lowest_level,
        "behaviour_highest": release.highest_level,
    }


def _transfer(status: Status, node: str, *, incoming: bool) -> dict[str, Any]:
    for transfer in status.transfers:
        if transfer.incoming == incoming and (incoming or transfer.peer == node):
            return {"snapshot_bytes": transfer.size_bytes, "snapshot_bytes_done": transfer.done_bytes}
    return {}
