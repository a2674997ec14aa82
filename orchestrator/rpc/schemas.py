"""SchemaRegistryService: JSON schemas registered, read and removed."""

from __future__ import annotations

from typing import Any

import grpc

from orchestrator.engine import queries
from orchestrator.engine.definitions.errors import DefinitionError, DefinitionUnimplemented
from orchestrator.engine.definitions.schemas import validate_schema
from orchestrator.engine.expressions import assemble_object, fields_of
from orchestrator.engine.results import Done
from orchestrator.engine.schema_commands import DeleteSchema, RegisterSchemas
from orchestrator.integrations.work import Kind, Source
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.definitions import DOCUMENTS_MAX, page_of
from orchestrator.rpc.errors import RpcFailure, answers, not_found
from orchestrator.rpc.requests import identity_of, in_range, namespace_of, required
from orchestrator.rpc.scripts import CheckSource, check_sources
from orchestrator.rpc.views import timestamp
from orchestrator_api.v1 import schemas_pb2 as pb
from orchestrator_api.v1 import schemas_pb2_grpc as pb_grpc

VERSION_MAX = 2**31 - 1


class SchemaRegistryServicer(pb_grpc.SchemaRegistryServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @answers
    async def RegisterSchemas(self, request: pb.RegisterSchemasRequest, context: Any) -> Any:
        documents = tuple(request.schema_json)
        in_range("schema_json", len(documents), 1, DOCUMENTS_MAX)
        for position, document in enumerate(documents):
            await _check(position, document, self.backend.check_source)
        command = RegisterSchemas(namespace_of(request.namespace), documents, request.overwrite)
        await self.backend.submit(command, Done, identity_of(request.request))
        return pb.RegisterSchemasResponse()

    @answers
    async def GetSchema(self, request: pb.GetSchemaRequest, context: Any) -> Any:
        name = required("name", request.name)
        await self.backend.read_point(request.read)
        row = queries.schema(self.backend.state(), namespace_of(request.namespace), name, request.version)
        if row is None:
            raise not_found("schema", f"{name} version {request.version}" if request.version else name)
        return pb.GetSchemaResponse(
            schema_json=row.document, version=row.version, register_time=timestamp(row.registered_ms)
        )

    @answers
    async def ListSchemas(self, request: pb.ListSchemasRequest, context: Any) -> Any:
        await self.backend.read_point(request.read)
        rows = queries.schemas(self.backend.state(), namespace_of(request.namespace))
        items = [(f"{row.name}\x00{row.version:010}", _listed(row.document)) for row in rows]
        page, token = page_of(items, request.page)
        return pb.ListSchemasResponse(schema_json=page, next_token=token)

    @answers
    async def DeleteSchema(self, request: pb.DeleteSchemaRequest, context: Any) -> Any:
        version = in_range("version", request.version, 0, VERSION_MAX)
        command = DeleteSchema(namespace_of(request.namespace), required("name", request.name), version)
        await self.backend.submit(command, Done, identity_of(request.request))
        return pb.DeleteSchemaResponse()


async def _check(position: int, document: bytes, check: CheckSource) -> None:
    """Early, so that a record that breaks a rule costs no log entry; and what only can be checked here."""
    try:
        record = validate_schema(document)
        await check_sources(check, [("data", Source(Kind.SCHEMA, record.data.decode("utf-8", "surrogatepass")))])
    except DefinitionError as error:
        code, reason = grpc.StatusCode.INVALID_ARGUMENT, "SCHEMA_INVALID"
        if isinstance(error, DefinitionUnimplemented):
            code, reason = grpc.StatusCode.UNIMPLEMENTED, "DEFINITION_UNIMPLEMENTED"
        field = f"schema_json[{position}]"
        raise RpcFailure(code, reason, f"{field}: {error}", {"field": field, "path": error.path}) from error


def _listed(document: bytes) -> bytes:
    """The record without the schema itself."""
    return assemble_object((key, value) for key, value in fields_of(document).items() if key != "data")
