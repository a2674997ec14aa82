"""The executors of system work that a node has, by kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.config import Config
from orchestrator.integrations.grpc_calls.executor import GrpcExecutor
from orchestrator.integrations.http_calls.executor import HttpExecutor
from orchestrator.integrations.service_registry.registry import Lookup
from orchestrator.integrations.work import Executor, Kind


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What executors are given of their node: its clock, and what it has applied of the registry of services."""

    monotonic: Callable[[], float]
    service: Lookup


ExecutorFactory = Callable[[Config, Surroundings], dict[str, Executor]]


def executors_of(config: Config, surroundings: Surroundings) -> dict[str, Executor]:
    """The real ones. They belong to the caller, who closes them."""
    service, monotonic = surroundings.service, surroundings.monotonic
    return {
        Kind.HTTP: HttpExecutor(service, monotonic),
        Kind.GRPC: GrpcExecutor(service, monotonic),
    }
