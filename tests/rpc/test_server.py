"""The server: one node for one port, health that says when it is ready, reflection for people with grpcurl."""

from __future__ import annotations

import asyncio
import gc

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from orchestrator.rpc.server import SERVICES, RpcServer, ServerEnded
from orchestrator_api.v1 import cluster_pb2
from tests.fuzz import wire
from tests.rpc.bench import DEADLINE_S, Bench, Stubs, served

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


async def test_a_method_whose_name_is_no_text_is_as_unknown_as_any(
    bench: Bench, stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC's own server would end by it, without a word to its owner: one call of anybody would be enough."""
    for path in (b"/x", b"/orchestrator.v1.Cluster\xf2Service/GetLeader", b"\xff", b"/" + bytes(200)):
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
        writer.write(wire.call(path))
        async with asyncio.timeout(DEADLINE_S):
            said = b""
            while b"Method not found" not in said:
                more = await reader.read(1 << 16)
                assert more, f"closed after {said!r}"
                said += more
        writer.close()
    # Who does not wait for the answer is nobody's error.
    for _ in range(50):
        _, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
        writer.write(wire.call(b"/x") + wire.reset())
        await writer.drain()
        writer.transport.abort()
    assert (await stubs.cluster.GetLeader(cluster_pb2.GetLeaderRequest())).leader == "n1"
    gc.collect()
    assert not caplog.records


async def test_a_server_that_ends_by_itself_is_told_of(bench: Bench) -> None:
    async with served(bench):
        watching = asyncio.create_task(bench.server.watch())
        await bench.server._server.stop(0)  # nobody who may
        with pytest.raises(ServerEnded, match="has ended by itself"):
            await asyncio.wait_for(watching, DEADLINE_S)
    other = RpcServer(Bench().backend())
    await other.start("127.0.0.1", 0)
    watching = asyncio.create_task(other.watch())
    await other.stop(0)
    await asyncio.wait_for(watching, DEADLINE_S)


async def test_after_stop_nobody_answers(bench: Bench) -> None:
    async with served(bench) as stubs:
        assert (await stubs.cluster.GetLeader(cluster_pb2.GetLeaderRequest())).leader == "n1"
        await bench.server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stubs.cluster.GetLeader(cluster_pb2.GetLeaderRequest())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
