"""The command about the outbox. As all commands it is encoded by position (see ``commands``)."""

from __future__ import annotations

from orchestrator.engine.command import Command


class AcknowledgeEvents(Command, frozen=True, tag=165):
    """The leader knows that these are in their streams."""

    numbers: tuple[int, ...]
