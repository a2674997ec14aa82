"""The gRPC server of a node: all services, standard health and reflection."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from orchestrator.rpc.asks import AskServicer
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.cluster import ClusterServicer
from orchestrator.rpc.connections import Connections
from orchestrator.rpc.definitions import DefinitionServicer
from orchestrator.rpc.events import EventServicer
from orchestrator.rpc.grpc_server import make_server
from orchestrator.rpc.guard import Guard
from orchestrator.rpc.schedules import ScheduleServicer
from orchestrator.rpc.schemas import SchemaRegistryServicer
from orchestrator.rpc.secrets import SecretServicer
from orchestrator.rpc.services import ServiceRegistryServicer
from orchestrator.rpc.workers import WorkerServicer
from orchestrator.rpc.workflows import WorkflowServicer
from orchestrator_api.v1 import (
    asks_pb2,
    asks_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    definitions_pb2,
    definitions_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    schedules_pb2,
    schedules_pb2_grpc,
    schemas_pb2,
    schemas_pb2_grpc,
    secrets_pb2,
    secrets_pb2_grpc,
    services_pb2,
    services_pb2_grpc,
    workers_pb2,
    workers_pb2_grpc,
    workflows_pb2,
    workflows_pb2_grpc,
)

MESSAGE_BYTES_MAX = 16 << 20
CONNECTIONS_MAX = 5_000
CONNECTION_CALLS_MAX = 2_000
HANDSHAKE_TIMEOUT_MS = 20_000
SERVICES = tuple(
    descriptor.services_by_name[name].full_name
    for descriptor, name in (
        (definitions_pb2.DESCRIPTOR, "DefinitionService"),
        (workflows_pb2.DESCRIPTOR, "WorkflowService"),
        (asks_pb2.DESCRIPTOR, "AskService"),
        (workers_pb2.DESCRIPTOR, "WorkerService"),
        (cluster_pb2.DESCRIPTOR, "ClusterService"),
        (services_pb2.DESCRIPTOR, "ServiceRegistryService"),
        (schemas_pb2.DESCRIPTOR, "SchemaRegistryService"),
        (secrets_pb2.DESCRIPTOR, "SecretService"),
        (schedules_pb2.DESCRIPTOR, "ScheduleService"),
        (events_pb2.DESCRIPTOR, "EventService"),
    )
)

_OPTIONS = (
    # Two processes on one port would share its calls, and each answer for the other.
    ("grpc.so_reuseport", 0),
    # Attempts are sent several together, of which the last may have payloads as large as a message.
    ("grpc.max_send_message_length", 2 * MESSAGE_BYTES_MAX),
    # Clients look after idle connections themselves, to notice a dead node soon.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    # Of each call: nobody needs more.
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 32 * 1024),
    # Who does not answer is gone, whatever the kernel says.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Of each ping, and of who does not even acknowledge the settings; both are a minute by default.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.settings_timeout", 10_000),
    # By default the third ping in a row without data waits for a minute.
    ("grpc.http2.max_pings_without_data", 0),
)


def add_services(backend: Backend, server: grpc.aio.Server) -> None:
    """All of ours."""
    definitions_pb2_grpc.add_DefinitionServiceServicer_to_server(DefinitionServicer(backend), server)
    workflows_pb2_grpc.add_WorkflowServiceServicer_to_server(WorkflowServicer(backend), server)
    asks_pb2_grpc.add_AskServiceServicer_to_server(AskServicer(backend), server)
    workers_pb2_grpc.add_WorkerServiceServicer_to_server(WorkerServicer(backend), server)
    cluster_pb2_grpc.add_ClusterServiceServicer_to_server(ClusterServicer(backend), server)
    services_pb2_grpc.add_ServiceRegistryServiceServicer_to_server(ServiceRegistryServicer(backend), server)
    schemas_pb2_grpc.add_SchemaRegistryServiceServicer_to_server(SchemaRegistryServicer(backend), server)
    secrets_pb2_grpc.add_SecretServiceServicer_to_server(SecretServicer(backend), server)
    schedules_pb2_grpc.add_ScheduleServiceServicer_to_server(ScheduleServicer(backend), server)
    events_pb2_grpc.add_EventServiceServicer_to_server(EventServicer(backend), server)


class ServerEnded(Exception):
    """gRPC's own server has stopped serving, and nobody has told it to: a node that can't be called is no node."""


class RpcServer:
    """Serves from `start` to `stop`; health says NOT_SERVING until told otherwise.

    Without a guard nobody is asked who they are; without credentials it is plain text.
    """

    def __init__(
        self,
        backend: Backend,
        guard: Guard | None = None,
        credentials: grpc.ServerCredentials | None = None,
        *,
        request_bytes_max: int = MESSAGE_BYTES_MAX,
        connections_max: int = CONNECTIONS_MAX,
        connections_per_address_max: int = 0,
        on_connection_cut: Callable[[], None] = lambda: None,
        connection_calls_max: int = CONNECTION_CALLS_MAX,
        handshake_timeout_ms: int = HANDSHAKE_TIMEOUT_MS,
    ) -> None:
        self._credentials = credentials
        self._connections_per_address_max = connections_per_address_max
        self._on_connection_cut = on_connection_cut
        self.connections: Connections  # from `start` on
        self._server = make_server(
            () if guard is None else (guard,),
            (
                *_OPTIONS,
                ("grpc.max_receive_message_length", request_bytes_max),
                ("grpc.max_allowed_incoming_connections", connections_max),
                ("grpc.max_concurrent_streams", connection_calls_max),
                # Who connects says within this time what it wants.
                ("grpc.server_handshake_timeout_ms", handshake_timeout_ms),
            ),
        )
        self._health = health.aio.HealthServicer()
        self._healthy: bool | None = None
        self._stopping = False
        self.port = 0  # as bound
        add_services(backend, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def start(self, host: str, port: int) -> None:
        """Raises OSError if the address is taken."""
        shown = f"[{host}]:{port}" if ":" in host else f"{host or '[::]'}:{port}"
        try:
            if self._credentials is not None:
                bound = self._server.add_secure_port(shown, self._credentials)
            else:
                bound = self._server.add_insecure_port(shown)
        except RuntimeError as error:
            raise OSError(f"can't serve gRPC on {shown}: {error}") from error
        if bound == 0:
            raise OSError(f"can't serve gRPC on {shown}: the address is taken or not this machine's")
        self.port = bound
        self.connections = Connections(bound, self._connections_per_address_max, self._on_connection_cut)
        await self.set_healthy(False)
        await self._server.start()

    async def set_healthy(self, healthy: bool) -> None:
        """Ready means: a leader is known and this node is caught up."""
        if healthy == self._healthy:
            return
        self._healthy = healthy
        status = health_pb2.HealthCheckResponse.SERVING if healthy else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    async def watch(self) -> None:
        """Returns after `stop`; raises ServerEnded before."""
        why: Exception | None = None
        try:
            await self._server.wait_for_termination()
        except Exception as error:  # noqa: BLE001 - whatever has ended it
            why = error
        if not self._stopping:
            raise ServerEnded(f"the gRPC server has ended by itself: {why!r}") from why

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls, gives running ones the grace, then ends them."""
        self._stopping = True
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)
