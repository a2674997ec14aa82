"""Lets time pass in the log: proposes `FireTimers` when a timer is due, and `Continue` while messages wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from orchestrator.engine.commands import Continue, FireTimers
from orchestrator.engine.results import Rejected
from orchestrator.services.ports import CurrentMachine, Submit

logger = logging.getLogger(__name__)

# After a refusal, which would only be repeated.
REFUSED_PAUSE_SECONDS = 1.0


class Ticker:
    """At most one proposal of its own is under way at a time."""

    def __init__(self, submit: Submit, machine: CurrentMachine, log_time_ms: Callable[[], int]) -> None:
        self._submit = submit
        self._machine = machine
        self._log_time_ms = log_time_ms
        self._poked = asyncio.Event()

    def entry_applied(self) -> None:
        """The earliest timer, or the inbox, may have changed."""
        self._poked.set()

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        while True:
            self._poked.clear()
            if self._machine().state.next_message() is not None:
                await self._propose(Continue())
                continue
            wait_ms = self._until_due_ms()
            if wait_ms == 0:
                await self._propose(FireTimers())
                continue
            try:
                async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000):
                    await self._poked.wait()
            except TimeoutError:
                continue

    async def _propose(self, command: Continue | FireTimers) -> None:
        result = await self._submit(command)
        if isinstance(result, Rejected):
            logger.error("%s was refused: %s", type(command).__name__, result.message)
            await asyncio.sleep(REFUSED_PAUSE_SECONDS)

    def _until_due_ms(self) -> int | None:
        timer = self._machine().state.next_timer()
        return None if timer is None else max(0, timer.fire_ms - self._log_time_ms())
