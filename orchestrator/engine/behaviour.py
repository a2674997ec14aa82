"""What the engine computes is of a behaviour level, which all nodes of a cluster share; and what needs a level.

The level is a row of the state, and the log raises it. Code that is to compute anything else than the release before,
mended errors included, asks `Step.level`, and is as before below the level that it came with. DESIGN.md has the recipe.
"""

from __future__ import annotations

from typing import Final

from orchestrator.engine.blob_commands import BlobsDeleted, DeleteBlobs, HoldBlobs
from orchestrator.engine.command import Command
from orchestrator.engine.commands import PublishEvent, RaiseBehaviour
from orchestrator.engine.outbox_commands import AcknowledgeEvents
from orchestrator.engine.stream_commands import ReceiveEvents

LOWEST: Final = 1
"""Below this level this code can't compute what a cluster expects any more."""
STREAMS: Final = 2
HIGHEST: Final = 2
"""1: as released in 0.1.0. 2 (`STREAMS`): events from and to streams outside of the cluster."""

COMMANDS_SINCE: Final[dict[type[Command], int]] = {
    AcknowledgeEvents: STREAMS,
    ReceiveEvents: STREAMS,
    HoldBlobs: STREAMS,
    DeleteBlobs: STREAMS,
    BlobsDeleted: STREAMS,
}
"""The level that a command came with, of those that 0.1.0 did not know."""
FIELDS_SINCE: Final[dict[type[Command], dict[str, int]]] = {
    PublishEvent: {"correlation_id": STREAMS, "source": STREAMS},
}
"""The level that a field came with, of a command that had been released without it."""


def level_needed(command: Command) -> int:
    """The level at which a node may meet this command in its log; below, nobody may propose it."""
    kind = type(command)
    level = COMMANDS_SINCE.get(kind, LOWEST)
    for name, since in FIELDS_SINCE.get(kind, _NO_FIELDS).items():
        if since > level and getattr(command, name) != _default(kind, name):
            level = since
    return level


def level_led_to(command: Command) -> int:
    """The level after it, if it is one that raises the level; else 0."""
    return command.level if isinstance(command, RaiseBehaviour) else 0


def _default(kind: type[Command], name: str) -> object:
    found: object = dict(zip(kind.__struct_fields__[::-1], kind.__struct_defaults__[::-1], strict=False))[name]
    return found


_NO_FIELDS: Final[dict[str, int]] = {}
