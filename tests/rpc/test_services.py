"""The service registry over the wire: records as they were, listed without what makes them large."""

from __future__ import annotations

import base64
import json
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from orchestrator.engine import commands
from orchestrator_api.v1 import services_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, RequestIdentity
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of

FILE = FileDescriptorProto(name="stock.proto", package="stock", syntax="proto3")


def record(name: str = "payments", **fields: Any) -> bytes:
    return compact({"name": name, "endpoints": ["https://a"], **fields})


def grpc_record(*files: FileDescriptorProto) -> bytes:
    data = FileDescriptorSet(file=files).SerializeToString()
    return compact(
        {"name": "stock", "protocol": "GRPC", "endpoints": ["a:1"], "descriptorSet": base64.b64encode(data).decode()}
    )


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


async def register(stubs: Stubs, document: bytes, **fields: Any) -> None:
    await stubs.services.RegisterService(pb.RegisterServiceRequest(record_json=document, **fields))


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_a_record_is_read_back_as_it_was_with_its_time(bench: Bench, stubs: Stubs) -> None:
    await register(stubs, grpc_record(FILE))
    reply = await stubs.services.GetService(pb.GetServiceRequest(name="stock"))
    assert reply.record_json == grpc_record(FILE)
    assert reply.register_time.ToMilliseconds() == bench.driver.now_ms


async def test_services_are_listed_in_pages_without_their_descriptor_sets(stubs: Stubs) -> None:
    for document in (grpc_record(FILE), record("b"), record("a"), record("elsewhere")):
        await register(stubs, document, namespace="other" if b"elsewhere" in document else "")
    listed, token = [], ""
    while True:
        request = pb.ListServicesRequest(page=PageRequest(size=2, token=token))
        reply = await stubs.services.ListServices(request)
        listed.append([json.loads(document) for document in reply.record_json])
        token = reply.next_token
        if not token:
            break
    assert [[one["name"] for one in page] for page in listed] == [["a", "b"], ["stock"]]
    assert "descriptorSet" not in listed[1][0]


async def test_a_removed_service_is_not_found(bench: Bench, stubs: Stubs) -> None:
    await register(stubs, record())
    await stubs.services.DeleteService(pb.DeleteServiceRequest(name="payments"))
    for call in (
        stubs.services.GetService(pb.GetServiceRequest(name="payments")),
        stubs.services.DeleteService(pb.DeleteServiceRequest(name="payments")),
    ):
        error = await failure(call)
        assert (error.code(), info_of(error).reason) == (grpc.StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND")


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (record(endpoints=[]), "endpoints"),
        (record(headers={"fencing-token": "1"}), "headers.fencing-token"),
        (grpc_record(FileDescriptorProto(name="a.proto", dependency=["b.proto"])), "descriptorSet"),
        (grpc_record(FILE).replace(b'Set":"', b'Set":"////'), "descriptorSet"),
    ],
)
async def test_a_broken_record_is_refused_with_its_path_and_costs_no_log_entry(
    bench: Bench, stubs: Stubs, document: bytes, path: str
) -> None:
    error = await failure(stubs.services.RegisterService(pb.RegisterServiceRequest(record_json=document)))
    info = info_of(error)
    assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SERVICE_INVALID")
    assert (info.metadata["field"], info.metadata["path"]) == ("record_json", path)
    assert bench.submitted == []


async def test_the_identity_of_a_request_goes_along(bench: Bench, stubs: Stubs) -> None:
    session = bench.apply(commands.OpenClientSession("default")).session_id  # type: ignore[union-attr]
    identity = RequestIdentity(session={"id": session, "sequence": 1})
    await register(stubs, record(), request=identity)
    assert bench.identities[-1] == commands.RequestIdentity("", session, 1, 0)
    again = RequestIdentity(session={"id": session, "sequence": 2})
    for _ in range(2):
        await stubs.services.DeleteService(pb.DeleteServiceRequest(name="payments", request=again))
