"""What all commands have in common."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from orchestrator.engine.model import ExecutionKey


class Command(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """Base of all commands. A field that is not known is refused: who passes over it computes something else."""


def execution_of(command: Command) -> ExecutionKey | None:
    """The execution that a command names."""
    workflow_id = getattr(command, "workflow_id", "")
    return (cast(Any, command).namespace, workflow_id) if workflow_id else None
