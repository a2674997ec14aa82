"""Puts together a node's own session: its executors, and its way to whoever leads."""

from __future__ import annotations

from collections.abc import Callable

import grpc.aio

from orchestrator.config import Config
from orchestrator.engine import queries
from orchestrator.engine.state import State
from orchestrator.integrations.executors import Surroundings
from orchestrator.services.system_session import SystemSession
from orchestrator.telemetry.metrics import Metrics
from orchestrator.world import World


def system_session(
    config: Config,
    world: World,
    metrics: Metrics,
    *,
    state: Callable[[], State],
    on_fatal: Callable[[BaseException], None],
) -> SystemSession:
    """To be started when the node serves: from then on `state` is asked."""
    own, local = str(config.grpc_address), str(config.grpc_local_address)

    def open_channel(address: str) -> grpc.aio.Channel:
        # What is advertised to others may not lead back here.
        return world.open_channel(local if address == own else address)

    surroundings = Surroundings(
        monotonic=world.clock.monotonic,
        service=lambda namespace, name: queries.service(state(), namespace, name),
    )
    return SystemSession(
        node=config.node,
        address=own,
        open_channel=open_channel,
        executors=world.executors(config, surroundings),
        slots=config.system_slots,
        dice=world.random,
        metrics=metrics,
        on_fatal=on_fatal,
    )
