"""The command about what attempts log. As all commands it is encoded by position (see ``commands``)."""

from __future__ import annotations

from orchestrator.engine.command import Command


class AddTaskLogs(Command, frozen=True, tag=123):
    """Lines that an attempt has logged; without a token, lines about it."""

    namespace: str
    workflow_id: str
    task_id: str
    fencing_token: int
    lines: tuple[tuple[int, str], ...]  # (time in milliseconds, text)
