"""The service registry by the SDK: against a scripted cluster, and against a real node."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.engine import limits
from orchestrator_client import Client, InvalidRequest, NotFound, SyncClient
from orchestrator_client.sync import LoopThread
from tests.client.fake_cluster import FakeCluster, Refused

PAYMENTS = {"name": "payments", "endpoints": ["https://a"]}
STOCK = {"name": "stock", "protocol": "GRPC", "endpoints": ["stock:50051"]}


async def test_a_record_is_registered_read_listed_and_removed(cluster: FakeCluster, client: Client) -> None:
    await client.register_service(PAYMENTS)
    await client.register_service(STOCK, descriptor_set=b"\x00\x01")
    assert await client.service("payments") == PAYMENTS
    assert json.loads(cluster.services["stock"])["descriptorSet"] == base64.b64encode(b"\x00\x01").decode()
    assert [record["name"] async for record in client.services(page_size=1)] == ["payments", "stock"]
    await client.delete_service("payments")
    with pytest.raises(NotFound):
        await client.service("payments")


async def test_a_registration_whose_answer_was_lost_is_repeated_as_the_same_request(
    cluster: FakeCluster, client: Client
) -> None:
    cluster.fault("DeleteService", Refused(grpc.StatusCode.UNAVAILABLE), after_effect=True)
    await client.register_service(PAYMENTS)
    await client.delete_service("payments")
    first, second = cluster.requests("DeleteService")
    assert first.request.session.sequence == second.request.session.sequence
    assert cluster.services == {}


@pytest.fixture
def elsewhere() -> Iterator[FakeCluster]:
    """On a loop of its own, as another process would be."""
    thread = LoopThread()

    async def start() -> FakeCluster:
        fake = FakeCluster()
        await fake.start()
        return fake

    fake = thread.call(start())
    yield fake
    thread.call(fake.stop())
    thread.stop()


def test_the_registry_without_await(elsewhere: FakeCluster) -> None:
    with SyncClient(elsewhere.addresses, deadline_s=10) as client:
        client.register_service(PAYMENTS)
        assert list(client.services()) == [PAYMENTS]
        client.delete_service("payments")
        with pytest.raises(NotFound):
            client.service("payments")


async def test_a_real_node_keeps_records_through_a_restart(tmp_path: Path) -> None:
    # As large as a set may be, nearly.
    file = FileDescriptorProto(name="stock.proto", package="stock")
    for number in range(1_000):
        file.message_type.add(name=f"Message{number}").field.add(
            name="x" * 1_000, number=1, type=FieldDescriptorProto.TYPE_BOOL, label=FieldDescriptorProto.LABEL_OPTIONAL
        )
    descriptors = FileDescriptorSet(file=[file])
    assert 1_000_000 < descriptors.ByteSize() < limits.DESCRIPTOR_SET_BYTES
    async with LocalCluster(tmp_path, nodes=1) as cluster, Client(cluster.endpoints) as client:
        await client.register_service(PAYMENTS)
        await client.register_service(STOCK, descriptor_set=descriptors.SerializeToString())
        await client.register_service(PAYMENTS | {"endpoints": ["https://moved"]})
        with pytest.raises(InvalidRequest) as refused:
            await client.register_service(PAYMENTS | {"endpoints": ["nowhere"]})
        assert (refused.value.reason, refused.value.metadata["path"]) == ("SERVICE_INVALID", "endpoints[0]")
        await cluster.kill_node("a")
        cluster.start_node("a")
        await cluster.wait_ready()
        assert (await client.service("payments"))["endpoints"] == ["https://moved"]
        assert base64.b64decode((await client.service("stock"))["descriptorSet"]) == descriptors.SerializeToString()
        assert [record["name"] async for record in client.services()] == ["payments", "stock"]
