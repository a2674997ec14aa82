"""JSON schemas that payloads have to keep. `Client.schemas` is the way to their registry."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from orchestrator_api.v1 import schemas_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, ReadOptions
from orchestrator_client.codec import dumps
from orchestrator_client.connection import Connection


class Schemas:
    """The schemas of a client's namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._namespace = connection.namespace

    async def register(
        self, name: str, schema: Mapping[str, Any], *, version: int = 1, overwrite: bool = False
    ) -> None:
        """Registers a JSON schema. The same again is fine; another one is refused unless `overwrite`.

        Raises InvalidRequest for what is no JSON schema, and says where.
        """
        await self.register_records(
            {"name": name, "version": version, "type": "JSON", "data": dict(schema)}, overwrite=overwrite
        )

    async def register_records(self, *records: Mapping[str, Any], overwrite: bool = False) -> None:
        """As `register`, of whole records in Conductor's shape: all of them or none."""
        request = pb.RegisterSchemasRequest(
            namespace=self._namespace, schema_json=[dumps(record) for record in records], overwrite=overwrite
        )
        await self._connection.call(lambda node: node.schemas.RegisterSchemas, request, mutating=True)

    async def get(self, name: str, version: int | None = None) -> dict[str, Any]:
        """The record of a schema, of its highest version if none is given; the schema itself is its `data`."""
        request = pb.GetSchemaRequest(namespace=self._namespace, name=name, version=version or 0)
        reply = await self._connection.call(lambda node: node.schemas.GetSchema, request)
        document: dict[str, Any] = json.loads(reply.schema_json)
        return document

    async def list(self, *, page_size: int = 100, stale_ok: bool = False) -> AsyncIterator[dict[str, Any]]:
        """All records by name and version, without their `data`."""
        request = pb.ListSchemasRequest(
            namespace=self._namespace, page=PageRequest(size=page_size), read=ReadOptions(stale_ok=stale_ok)
        )
        while True:
            reply = await self._connection.call(lambda node: node.schemas.ListSchemas, request)
            for record in reply.schema_json:
                yield json.loads(record)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def delete(self, name: str, version: int | None = None) -> None:
        """Removes a version of a schema, or all of them. What has begun keeps it; nothing begins that names it."""
        request = pb.DeleteSchemaRequest(namespace=self._namespace, name=name, version=version or 0)
        await self._connection.call(lambda node: node.schemas.DeleteSchema, request, mutating=True)
