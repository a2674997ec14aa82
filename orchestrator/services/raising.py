"""Sees to the behaviour level: says when it can be raised, and raises it where nobody has to be asked.

Raised it is never lowered, so nobody can go back to a release that does not know it. That is for an operator to decide,
unless `behaviour_raise_after_ms` says after what time it goes without saying, or there is nothing yet to go back to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from orchestrator.engine.commands import RaiseBehaviour
from orchestrator.engine.model import Table
from orchestrator.engine.results import Rejected
from orchestrator.engine.state import State
from orchestrator.replication.release import Releases, level_of_all
from orchestrator.services.ports import CurrentMachine, Submit

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
_DEFINED = (Table.WORKFLOW_DEFINITION, Table.TASK_DEFINITION, Table.BUNDLE)


class LevelRaiser:
    """A leader's; another leader begins to wait anew."""

    def __init__(
        self,
        submit: Submit,
        machine: CurrentMachine,
        releases: Callable[[], Releases],
        monotonic: Callable[[], float],
        after_ms: int,
    ) -> None:
        self._submit = submit
        self._machine = machine
        self._releases = releases
        self._monotonic = monotonic
        self._after_ms = after_ms
        # Since when all members have known which level, without a break.
        self._possible: tuple[int, float] | None = None

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        self._possible = None
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Raises the level if it is time."""
        state, level, now = self._machine().state, level_of_all(self._releases()), self._monotonic()
        current = state.meta.behaviour_level
        if level <= current:
            self._possible = None
            return
        if self._possible is None or self._possible[0] != level:
            self._possible = (level, now)
            logger.info(
                "all members know a higher behaviour level: `orchestrator cluster raise-behaviour`, once nobody will "
                "want to go back to the release before", extra={"level": level, "cluster_level": current})
        waited = self._after_ms > 0 and now - self._possible[1] >= self._after_ms / 1000
        if waited or is_blank(state):
            result = await self._submit(RaiseBehaviour(level))
            if isinstance(result, Rejected):
                logger.error("RaiseBehaviour was refused: %s", result.message)


def is_blank(state: State) -> bool:
    """Nothing was registered or started yet, so there is nothing that an older release would have to go on with."""
    return not any(state.resident[table] for table in _DEFINED)
