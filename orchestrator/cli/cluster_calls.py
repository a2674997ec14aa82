"""What one node says about its cluster. These calls go to the node that is named, whether it leads or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import grpc.aio

from orchestrator_api.v1 import cluster_pb2, cluster_pb2_grpc

if TYPE_CHECKING:
    from orchestrator_api.v1.cluster_pb2_grpc import ClusterServiceAsyncStub

CALL_TIMEOUT_S = 1.0


async def ask_status(address: str, timeout_s: float = CALL_TIMEOUT_S) -> cluster_pb2.GetStatusResponse | None:
    """None if the node does not answer in time."""
    async with _service(address) as service:
        try:
            return await service.GetStatus(cluster_pb2.GetStatusRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return None


async def ask_leader(address: str, timeout_s: float = CALL_TIMEOUT_S) -> cluster_pb2.GetLeaderResponse | None:
    """None if the node does not answer in time."""
    async with _service(address) as service:
        try:
            return await service.GetLeader(cluster_pb2.GetLeaderRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return None


@asynccontextmanager
async def _service(address: str) -> AsyncIterator[ClusterServiceAsyncStub]:
    # A pool of its own: a node that comes back is reached at once, not after the shared pool's back-off.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        # The stub is the same class for both kinds of channel; only its types differ.
        yield cast("ClusterServiceAsyncStub", cluster_pb2_grpc.ClusterServiceStub(channel))
