"""What the services need of the node, as small protocols."""

from __future__ import annotations

from typing import Protocol

from orchestrator.engine.commands import AnyCommand
from orchestrator.engine.machine import Machine
from orchestrator.engine.results import AnyResult


class Submit(Protocol):
    """Submits a command of the system's own. Raises NotLeader or OutcomeUnknown, both of which end the service."""

    async def __call__(self, command: AnyCommand) -> AnyResult: ...


class CurrentMachine(Protocol):
    """The machine over the node's present state; another one after a snapshot was installed."""

    def __call__(self) -> Machine: ...
