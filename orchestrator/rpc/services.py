"""ServiceRegistryService: records of services, registered, read and removed."""

from __future__ import annotations

import base64
from typing import Any

import grpc

from orchestrator.engine import queries
from orchestrator.engine.commands import DeleteService, RegisterService
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.expressions import assemble_object, fields_of
from orchestrator.engine.results import Done
from orchestrator.engine.services import validate_service
from orchestrator.integrations.grpc_calls.descriptors import DescriptorsInvalid, pool_of_set
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.definitions import page_of
from orchestrator.rpc.errors import RpcFailure, answers, not_found
from orchestrator.rpc.requests import identity_of, namespace_of, required
from orchestrator.rpc.views import timestamp
from orchestrator_api.v1 import services_pb2 as pb
from orchestrator_api.v1 import services_pb2_grpc as pb_grpc


class ServiceRegistryServicer(pb_grpc.ServiceRegistryServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @answers
    async def RegisterService(self, request: pb.RegisterServiceRequest, context: Any) -> Any:
        _check(request.record_json)
        await self.backend.submit(
            RegisterService(namespace_of(request.namespace), request.record_json), Done, identity_of(request.request)
        )
        return pb.RegisterServiceResponse()

    @answers
    async def GetService(self, request: pb.GetServiceRequest, context: Any) -> Any:
        name = required("name", request.name)
        await self.backend.read_point(request.read)
        row = queries.service(self.backend.state(), namespace_of(request.namespace), name)
        if row is None:
            raise not_found("service", name)
        return pb.GetServiceResponse(record_json=row.document, register_time=timestamp(row.registered_ms))

    @answers
    async def ListServices(self, request: pb.ListServicesRequest, context: Any) -> Any:
        await self.backend.read_point(request.read)
        rows = queries.services(self.backend.state(), namespace_of(request.namespace))
        page, token = page_of([(row.name, _listed(row.document)) for row in rows], request.page)
        return pb.ListServicesResponse(record_json=page, next_token=token)

    @answers
    async def DeleteService(self, request: pb.DeleteServiceRequest, context: Any) -> Any:
        command = DeleteService(namespace_of(request.namespace), required("name", request.name))
        await self.backend.submit(command, Done, identity_of(request.request))
        return pb.DeleteServiceResponse()


def _check(document: bytes) -> None:
    """Early, so that a record that breaks a rule costs no log entry, and what only can be checked here."""
    try:
        record = validate_service(document)
    except DefinitionInvalid as error:
        raise _invalid(error.path, str(error)) from error
    if record.descriptor_set:
        try:
            pool_of_set(base64.b64decode(record.descriptor_set))
        except DescriptorsInvalid as error:
            raise _invalid("descriptorSet", f"descriptorSet: {error}") from error


def _invalid(path: str, message: str) -> RpcFailure:
    metadata = {"field": "record_json", "path": path}
    return RpcFailure(grpc.StatusCode.INVALID_ARGUMENT, "SERVICE_INVALID", message, metadata)


def _listed(document: bytes) -> bytes:
    """The record without what makes it large."""
    return assemble_object((key, value) for key, value in fields_of(document).items() if key != "descriptorSet")
