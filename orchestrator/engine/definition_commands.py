"""Commands that take definitions away. As all commands they are encoded by position (see ``commands``)."""

from __future__ import annotations

from orchestrator.engine.command import Command


class DeleteWorkflowDefinition(Command, frozen=True, tag=204):
    """Executions that have begun keep it."""

    namespace: str
    name: str
    version: int  # 0: all of them


class DeleteTaskDefinition(Command, frozen=True, tag=205):
    """Executions that have begun keep it, but for its limits, which hold for all attempts of a name."""

    namespace: str
    name: str
