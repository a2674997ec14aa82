"""The rules in force: read at the start, and again whenever the content of a file is another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from orchestrator.access.node_secret import NodeSecret
from orchestrator.access.policy import Policy
from orchestrator.access.rules_file import RulesInvalid, policy_of, sources
from orchestrator.file_watch import FileWatch

logger = logging.getLogger(__name__)


class Rules:
    """`policy` is what the access file said when it was last right.

    `on_change` is called after it has changed; `on_reload` when something else stands in the files, and whether it was
    taken; `on_tick` after each look.
    """

    def __init__(self, path: Path, node_secret: NodeSecret | None = None) -> None:
        """Raises RulesInvalid."""
        self._path = path
        self._files = FileWatch(
            "the access rules",
            lambda: sources(path, Path.read_bytes),
            lambda found: policy_of(path, found, node_secret),
            RulesInvalid,
        )
        self._files.on_taken = self._taken
        self._files.on_look = self._looked
        self.on_change: Callable[[], None] = lambda: None
        self.on_reload: Callable[[bool], None] = lambda is_right: None
        self.on_tick: Callable[[], None] = lambda: None

    @property
    def policy(self) -> Policy:
        return self._files.current

    async def run(self) -> None:
        """Looks at the files from time to time, until it is cancelled."""
        await self._files.run()

    async def look(self) -> None:
        await self._files.look()

    def _taken(self, policy: Policy) -> None:
        logger.info("the access rules have changed", extra={"file": str(self._path), "grants": len(policy.grants)})

    def _looked(self, taken: bool | None) -> None:
        if taken is not None:
            self.on_reload(taken)
        if taken:
            self.on_change()
        self.on_tick()
