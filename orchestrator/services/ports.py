"""What the services need of the node, as small protocols; and how they say which effects they perform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from orchestrator.engine.commands import AnyCommand
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.machine import Machine
from orchestrator.engine.results import AnyResult


class Submit(Protocol):
    """Submits a command of the system's own. Raises NotLeader or OutcomeUnknown, both of which end the service."""

    async def __call__(self, command: AnyCommand) -> AnyResult: ...


class CurrentMachine(Protocol):
    """The machine over the node's present state; another one after a snapshot was installed."""

    def __call__(self) -> Machine: ...


Performs = Mapping[type[Any], Callable[[Any], None]]
"""What is done for each kind of effect that concerns a service."""


class Performer(Protocol):
    """A service that performs effects."""

    performs: Performs


def perform(performer: Performer, effect: AnyEffect) -> None:
    """What the performer does for the effect, if it concerns it."""
    performs = performer.performs.get(type(effect))
    if performs is not None:
        performs(effect)
