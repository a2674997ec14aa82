"""What one node says about its cluster. These calls go to the node that is named, whether it leads or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, cast

import grpc.aio

from orchestrator.cli import exits
from orchestrator_api.v1 import cluster_pb2, cluster_pb2_grpc
from orchestrator_client.status import failure_of, final_error

if TYPE_CHECKING:
    from orchestrator_api.v1.cluster_pb2_grpc import ClusterServiceAsyncStub

CALL_TIMEOUT_S = 1.0
T = TypeVar("T")


async def ask_status(address: str, timeout_s: float = CALL_TIMEOUT_S) -> cluster_pb2.GetStatusResponse | None:
    """None if the node does not answer in time."""
    async with service_at(address) as service:
        try:
            return await service.GetStatus(cluster_pb2.GetStatusRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return None


async def ask_leader(address: str, timeout_s: float = CALL_TIMEOUT_S) -> cluster_pb2.GetLeaderResponse | None:
    """None if the node does not answer in time."""
    async with service_at(address) as service:
        try:
            return await service.GetLeader(cluster_pb2.GetLeaderRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return None


@asynccontextmanager
async def service_at(address: str) -> AsyncIterator[ClusterServiceAsyncStub]:
    """The cluster service of one node. Calls follow no hint, and are not repeated."""
    # A pool of its own: a node that comes back is reached at once, not after the shared pool's back-off.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        # The stub is the same class for both kinds of channel; only its types differ.
        yield cast("ClusterServiceAsyncStub", cluster_pb2_grpc.ClusterServiceStub(channel))


async def ask_node(address: str, call: Callable[[ClusterServiceAsyncStub], Awaitable[T]]) -> T:
    """The answer of this node and no other. Raises exits.Failure with what it says instead."""
    async with service_at(address) as service:
        try:
            return await call(service)
        except grpc.aio.AioRpcError as error:
            raise refused(address, error) from error


def refused(address: str, error: grpc.aio.AioRpcError) -> exits.Failure:
    """What a node has answered instead, or that it has not."""
    failure = failure_of(error)
    if not failure.reason:
        return exits.Failure(f"the node at {address} does not answer: {failure.message}", exits.UNAVAILABLE)
    return exits.of(final_error(failure))
