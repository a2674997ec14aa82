"""The server: one node for one port, health that says when it is ready, reflection for people with grpcurl."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from orchestrator.rpc.server import SERVICES, RpcServer
from orchestrator_api.v1 import cluster_pb2
from tests.rpc.bench import Bench, Stubs, served

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(stubs: Stubs, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(stubs.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status  # type: ignore[misc]


async def test_a_connection_that_never_speaks_is_closed() -> None:
    server = RpcServer(Bench().backend(), handshake_timeout_ms=200)
    await server.start("127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(30):
            while await reader.read(1 << 10):
                pass  # the server's settings
        writer.close()
    finally:
        await server.stop(0)


async def test_health_follows_what_it_is_told_for_every_service(bench: Bench, stubs: Stubs) -> None:
    assert len(SERVICES) == 10
    for healthy, expected in ((None, NOT_SERVING), (True, SERVING), (True, SERVING), (False, NOT_SERVING)):
        if healthy is not None:
            await bench.server.set_healthy(healthy)
        for service in ("", *SERVICES):
            assert await health_of(stubs, service) == expected


async def test_reflection_lists_the_services(stubs: Stubs) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(stubs.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = [reply async for reply in stub.ServerReflectionInfo(iter([request]))]  # type: ignore[attr-defined]
    listed = {service.name for service in reply.list_services_response.service}
    assert set(SERVICES) <= listed and "grpc.health.v1.Health" in listed


async def test_a_port_that_is_taken_is_an_error_and_is_not_shared(bench: Bench, stubs: Stubs) -> None:
    other = RpcServer(Bench().backend())
    with pytest.raises(OSError, match=rf"can't serve gRPC on 127.0.0.1:{bench.server.port}"):
        await other.start("127.0.0.1", bench.server.port)


async def test_what_is_not_served_is_unimplemented(stubs: Stubs) -> None:
    call = stubs.channel.unary_unary("/orchestrator.v1.ClusterService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_after_stop_nobody_answers(bench: Bench) -> None:
    async with served(bench) as stubs:
        assert (await stubs.cluster.GetLeader(cluster_pb2.GetLeaderRequest())).leader == "n1"
        await bench.server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.cluster.GetLeader(cluster_pb2.GetLeaderRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
