"""The executors of system work that a node has, by kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.config import Config
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX
from orchestrator.integrations.grpc_calls.executor import GrpcExecutor
from orchestrator.integrations.http_calls.executor import HttpExecutor
from orchestrator.integrations.sandbox.executor import KINDS, SandboxExecutor
from orchestrator.integrations.sandbox.protocol import Limits
from orchestrator.integrations.sandbox.sandbox import WAITING_MAX, Sandbox
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
    # What comes out is the output of a task, and what goes in may be the outputs of others.
    most = PAYLOAD_BYTES_MAX if config.blob_store == "none" else config.blob_bytes_max
    usual = Limits()
    limits = Limits(input_bytes=max(usual.input_bytes, most), output_bytes=max(usual.output_bytes, most))
    waiting_max = config.script_slots + WAITING_MAX
    sandbox = Sandbox(size=config.sandbox_processes_max, waiting_max=waiting_max, limits=limits)
    return {
        Kind.HTTP: HttpExecutor(service, monotonic, most),
        Kind.GRPC: GrpcExecutor(service, monotonic),
        **dict.fromkeys(KINDS, SandboxExecutor(sandbox)),
    }
