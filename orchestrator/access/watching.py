"""The rules in force: read at the start, and again whenever the content of a file is another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from orchestrator.access.node_secret import NodeSecret
from orchestrator.access.policy import Policy
from orchestrator.access.rules_file import RulesInvalid, policy_of, sources

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


class Rules:
    """`policy` is what the access file said when it was last right.

    `on_change` is called after it has changed; `on_reload` when something else stands in the files, and whether it was
    taken; `on_tick` after each look.
    """

    def __init__(self, path: Path, node_secret: NodeSecret | None = None) -> None:
        """Raises RulesInvalid."""
        self._path = path
        self._node_secret = node_secret
        self._seen = sources(path, Path.read_bytes)
        self._complaint = ""
        self.policy: Policy = policy_of(path, self._seen, node_secret)
        self.on_change: Callable[[], None] = lambda: None
        self.on_reload: Callable[[bool], None] = lambda is_right: None
        self.on_tick: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Looks at the files from time to time, until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.look()
            self.on_tick()

    async def look(self) -> None:
        """By content, so that a link to another file, or one put in the place of this one, is seen as well."""
        try:
            found = await asyncio.to_thread(sources, self._path, Path.read_bytes)
            if found == self._seen:
                self._complaint = ""
                return
            policy = policy_of(self._path, found, self._node_secret)
        except RulesInvalid as error:
            self._complain(str(error))
            return
        self._seen, self.policy, self._complaint = found, policy, ""
        logger.info("the access rules have changed", extra={"file": str(self._path), "grants": len(policy.grants)})
        self.on_reload(True)
        self.on_change()

    def _complain(self, message: str) -> None:
        """Once for each thing that is wrong, not with every look."""
        if message != self._complaint:
            logger.error("the access rules stay as they were: %s", message)
            self._complaint = message
            self.on_reload(False)
