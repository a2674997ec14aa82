"""The client's part that keeps the service registry: what tasks of type HTTP and GRPC call by name."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from orchestrator_api.v1 import services_pb2
from orchestrator_api.v1.common_pb2 import PageRequest
from orchestrator_client.codec import dumps
from orchestrator_client.connection import Connection


class ServiceRegistry:
    """A part of the client; see there."""

    connection: Connection

    async def register_service(
        self, record: Mapping[str, Any], *, descriptor_set: bytes | None = None
    ) -> None:
        """Registers a service, or replaces its record: tasks of type HTTP and GRPC call it by its name.

        `descriptor_set`: what `protoc --include_imports --descriptor_set_out` wrote, for a GRPC service that has no
        reflection.
        """
        document = dict(record)
        if descriptor_set is not None:
            document["descriptorSet"] = descriptor_set
        request = services_pb2.RegisterServiceRequest(
            namespace=self.connection.namespace, record_json=dumps(document)
        )
        await self.connection.call(lambda node: node.services.RegisterService, request, mutating=True)

    async def service(self, name: str) -> dict[str, Any]:
        """The record of a service."""
        request = services_pb2.GetServiceRequest(namespace=self.connection.namespace, name=name)
        reply = await self.connection.call(lambda node: node.services.GetService, request)
        document: dict[str, Any] = json.loads(reply.record_json)
        return document

    async def services(self, *, page_size: int = 100) -> AsyncIterator[dict[str, Any]]:
        """The records of all services by name, without their descriptor sets."""
        request = services_pb2.ListServicesRequest(
            namespace=self.connection.namespace, page=PageRequest(size=page_size)
        )
        while True:
            reply = await self.connection.call(lambda node: node.services.ListServices, request)
            for record in reply.record_json:
                yield json.loads(record)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def delete_service(self, name: str) -> None:
        """Removes a service: tasks that name it fail from then on."""
        request = services_pb2.DeleteServiceRequest(namespace=self.connection.namespace, name=name)
        await self.connection.call(lambda node: node.services.DeleteService, request, mutating=True)
