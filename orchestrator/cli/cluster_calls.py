"""What one node says about its cluster. These calls go to the node that is named, whether it leads or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, cast

import click
import grpc
import grpc.aio

from orchestrator.cli import exits
from orchestrator.cli.session import Session
from orchestrator_api.v1 import cluster_pb2, cluster_pb2_grpc
from orchestrator_client.authorization import authorized
from orchestrator_client.status import failure_of, final_error
from orchestrator_client.tls import TLS, channels_for

if TYPE_CHECKING:
    from orchestrator_api.v1.cluster_pb2_grpc import ClusterServiceAsyncStub

CALL_TIMEOUT_S = 1.0
T = TypeVar("T")


async def ask_status(
        address: str, timeout_s: float = CALL_TIMEOUT_S, tls: TLS | None = None
) -> cluster_pb2.GetStatusResponse | None:
    """None if the node does not answer in time. Raises what says that the caller may not, and InsecureConnection."""
    async with service_at(address, tls) as service:
        try:
            return await service.GetStatus(cluster_pb2.GetStatusRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            _raise_if_refused(error)
            return None


async def ask_leader(
        address: str, timeout_s: float = CALL_TIMEOUT_S, tls: TLS | None = None
) -> cluster_pb2.GetLeaderResponse | None:
    """None if the node does not answer in time. Raises what says that the caller may not, and InsecureConnection."""
    async with service_at(address, tls) as service:
        try:
            return await service.GetLeader(cluster_pb2.GetLeaderRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            _raise_if_refused(error)
            return None


def _raise_if_refused(error: grpc.aio.AioRpcError) -> None:
    if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        raise final_error(failure_of(error)) from None


@asynccontextmanager
async def service_at(address: str, tls: TLS | None) -> AsyncIterator[ClusterServiceAsyncStub]:
    """The cluster service of one node. Calls follow no hint, and are not repeated.

    They show the token that the command was given. Raises InsecureConnection, InvalidRequest.
    """
    authorization = _session().authorization
    if authorization is not None and tls is None:
        authorization.require_secrecy(address)
    async with channels_for(tls)(address) as channel:
        shown = channel if authorization is None else authorized(channel, authorization)
        # The stub is the same class for both kinds of channel; only its types differ.
        yield cast("ClusterServiceAsyncStub", cluster_pb2_grpc.ClusterServiceStub(shown))


def _session() -> Session:
    """That of the command that runs; without one nothing is shown."""
    context = click.get_current_context(silent=True)
    found = None if context is None else context.find_root().obj
    return found if isinstance(found, Session) else Session()


async def ask_node(
        address: str, call: Callable[[ClusterServiceAsyncStub], Awaitable[T]], tls: TLS | None
) -> T:
    """The answer of this node and no other. Raises exits.Failure with what it says instead."""
    async with service_at(address, tls) as service:
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
