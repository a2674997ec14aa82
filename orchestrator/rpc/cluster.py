"""ClusterService: what this node knows of the cluster. Any node answers, from its own knowledge."""

from __future__ import annotations

from typing import Any

from orchestrator import __version__
from orchestrator.replication.log import Role
from orchestrator.replication.status import PeerStatus, Status
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import answers
from orchestrator_api.v1 import cluster_pb2 as pb
from orchestrator_api.v1 import cluster_pb2_grpc as pb_grpc

_ROLES = {
    Role.FOLLOWER: pb.NODE_ROLE_FOLLOWER,
    Role.CANDIDATE: pb.NODE_ROLE_CANDIDATE,
    Role.LEADER: pb.NODE_ROLE_LEADER,
    Role.FORMING: pb.NODE_ROLE_AWAITING_ADMISSION,
    Role.AWAITING_ADMISSION: pb.NODE_ROLE_AWAITING_ADMISSION,
}
_VOTELESS = (pb.NODE_ROLE_UNREACHABLE, pb.NODE_ROLE_AWAITING_ADMISSION)
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
        quorum = len(nodes) // 2 + 1
        return pb.GetStatusResponse(
            cluster_id=backend.cluster_id,
            node=backend.node,
            term=status.term,
            leader=status.leader or "",
            nodes=sorted(nodes, key=lambda node: node.name),
            faults_tolerable=max(0, reachable - quorum),
            live_workflows=state.meta.live_executions,
            worker_sessions=len(state.sessions),
            leased_tasks=len(state.leases),
            ready_tasks=len(state.ready),
            version=__version__,
            behaviour_level=state.meta.behaviour_level,
            log_time_ms=state.meta.log_time_ms,
            stuck_compensations=state.meta.stuck_compensations,
        )

    @answers
    async def GetLeader(self, request: pb.GetLeaderRequest, context: Any) -> Any:
        hint = self.backend.addresses.hint()
        return pb.GetLeaderResponse(
            leader=hint.get("leader", ""), grpc_address=hint.get("leader_address", ""), term=self.backend.log.term
        )

    def _own(self, status: Status) -> pb.NodeStatus:
        backend = self.backend
        return pb.NodeStatus(
            name=backend.node,
            grpc_address=backend.addresses.of(backend.node),
            peer_address=backend.members.get(backend.node, ""),
            role=_ROLES[status.role],
            last_index=status.last_index,
            commit_index=status.commit_index,
            applied_index=backend.applied_index(),
            lag_entries=max(0, status.commit_index - backend.applied_index()),
            term=status.term,
        )

    def _peer(self, peer: PeerStatus, status: Status) -> pb.NodeStatus:
        said = self.backend.peers().get(peer.name, {})
        role = _ROLES_BY_NAME.get(str(said.get("role", "")), pb.NODE_ROLE_UNSPECIFIED)
        if not peer.connected:
            role = pb.NODE_ROLE_AWAITING_ADMISSION if peer.stranger else pb.NODE_ROLE_UNREACHABLE
        applied = int(said.get("applied_index", 0))
        # What it acknowledged is known to the leader only; the others go by what it says of itself.
        held = applied if peer.match_index is None else max(peer.match_index, applied)
        return pb.NodeStatus(
            name=peer.name,
            grpc_address=str(said.get("grpc_address", "")),
            peer_address=self.backend.members.get(peer.name, ""),
            role=role,
            last_index=held,
            commit_index=int(said.get("commit_index", 0)),
            applied_index=applied,
            lag_entries=max(0, status.commit_index - held),
            last_contact_ms=peer.last_contact_ms or 0,
            term=int(said.get("term", 0)),
        )
