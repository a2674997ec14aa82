"""Channels to nodes, with TLS or without, and the services behind one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio

from orchestrator_api.v1 import (
    asks_pb2_grpc,
    cluster_pb2_grpc,
    definitions_pb2_grpc,
    events_pb2_grpc,
    schedules_pb2_grpc,
    schemas_pb2_grpc,
    secrets_pb2_grpc,
    services_pb2_grpc,
    workers_pb2_grpc,
    workflows_pb2_grpc,
)
from orchestrator_client.errors import TLSUnusable

if TYPE_CHECKING:
    from orchestrator_api.v1.asks_pb2_grpc import AskServiceAsyncStub
    from orchestrator_api.v1.cluster_pb2_grpc import ClusterServiceAsyncStub
    from orchestrator_api.v1.definitions_pb2_grpc import DefinitionServiceAsyncStub
    from orchestrator_api.v1.events_pb2_grpc import EventServiceAsyncStub
    from orchestrator_api.v1.schedules_pb2_grpc import ScheduleServiceAsyncStub
    from orchestrator_api.v1.schemas_pb2_grpc import SchemaRegistryServiceAsyncStub
    from orchestrator_api.v1.secrets_pb2_grpc import SecretServiceAsyncStub
    from orchestrator_api.v1.services_pb2_grpc import ServiceRegistryServiceAsyncStub
    from orchestrator_api.v1.workers_pb2_grpc import WorkerServiceAsyncStub
    from orchestrator_api.v1.workflows_pb2_grpc import WorkflowServiceAsyncStub

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A peer whose machine is gone sends nothing: pings find out. The server has to allow them this often.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    # This one is also the time that connecting itself may take: less would cut off a slow TLS handshake.
    ("grpc.min_reconnect_backoff_ms", 1_000),
    # Two clients in one process must not share a connection's backoff.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 << 20),
)

ChannelFactory = Callable[[str], grpc.aio.Channel]
Loaded = tuple[bytes | None, bytes | None, bytes | None]
"""Authority, certificate and key, in PEM; without an authority gRPC believes those that it knows."""


class Node:
    """The services of one node."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        # The stubs are the same classes for both kinds of channel; only their types differ.
        self.workflows = cast("WorkflowServiceAsyncStub", workflows_pb2_grpc.WorkflowServiceStub(channel))
        self.asks = cast("AskServiceAsyncStub", asks_pb2_grpc.AskServiceStub(channel))
        self.definitions = cast("DefinitionServiceAsyncStub", definitions_pb2_grpc.DefinitionServiceStub(channel))
        self.workers = cast("WorkerServiceAsyncStub", workers_pb2_grpc.WorkerServiceStub(channel))
        self.services = cast(
            "ServiceRegistryServiceAsyncStub", services_pb2_grpc.ServiceRegistryServiceStub(channel)
        )
        self.schedules = cast("ScheduleServiceAsyncStub", schedules_pb2_grpc.ScheduleServiceStub(channel))
        self.schemas = cast("SchemaRegistryServiceAsyncStub", schemas_pb2_grpc.SchemaRegistryServiceStub(channel))
        self.secrets = cast("SecretServiceAsyncStub", secrets_pb2_grpc.SecretServiceStub(channel))
        self.events = cast("EventServiceAsyncStub", events_pb2_grpc.EventServiceStub(channel))
        self.cluster = cast("ClusterServiceAsyncStub", cluster_pb2_grpc.ClusterServiceStub(channel))


def channel_factory(credentials: grpc.ChannelCredentials | None) -> ChannelFactory:
    def open_channel(address: str) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)

    return open_channel


class SecureChannels:
    """Opens channels by address, with what `load` gives at that moment, or gave last if that is of no use.

    `check` says so of it by TLSUnusable. `names`: by address, whose certificate the node there must show, where that is
    not the address's own host. Raises TLSUnusable if there is nothing to begin with.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        *,
        check: Callable[[], object] = lambda: None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        check()
        self._load = load
        self._check = check
        self._loaded = load()
        self._names = dict(names or {})

    def __call__(self, address: str) -> grpc.aio.Channel:
        authority, certificate, key = self.version()
        options: list[tuple[str, int | str]] = [*CHANNEL_OPTIONS]
        if address in self._names:
            options.append(("grpc.ssl_target_name_override", self._names[address]))
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        return grpc.aio.secure_channel(address, credentials, options=options)

    def version(self) -> Loaded:
        """What a channel would be made with now."""
        try:
            loaded = self._load()
            if loaded != self._loaded:
                self._check()
                self._loaded = loaded
        except TLSUnusable:
            pass  # in the middle of a change
        return self._loaded


def version_of(channels: ChannelFactory) -> Callable[[], object] | None:
    """Tells channels opened now from earlier ones, where they may differ."""
    return channels.version if isinstance(channels, SecureChannels) else None
