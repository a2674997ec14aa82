"""Commands that are about JSON schemas. As all commands they are encoded by position (see ``commands``)."""

from __future__ import annotations

from orchestrator.engine.command import Command


class RegisterSchemas(Command, frozen=True, tag=202):
    namespace: str
    documents: tuple[bytes, ...]
    overwrite: bool


class DeleteSchema(Command, frozen=True, tag=203):
    """Executions that have begun keep it."""

    namespace: str
    name: str
    version: int  # 0: all of them
