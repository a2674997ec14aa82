"""Where a rehearsal takes place: a state machine of its own, with the definitions that are registered, and no log.

It is the engine that the cluster runs, and nothing of it is seen by anybody else. Nobody is told of its effects.
"""

from __future__ import annotations

import asyncio

from orchestrator.engine import leases
from orchestrator.engine.commands import AnyCommand
from orchestrator.engine.effects import AnyEffect, ExecutionChanged
from orchestrator.engine.errors import refuse
from orchestrator.engine.machine import Machine
from orchestrator.engine.model import ExecutionKey
from orchestrator.engine.resident import Lease
from orchestrator.engine.results import AnyResult, Code, Done, Rejected
from orchestrator.engine.state import State
from orchestrator.engine.step import Step

STEPS_MAX = 20_000
TASKS_MAX = 2_000
BYTES_MAX = 32 << 20

_SESSION = "rehearsal"
_WORKER = "rehearsal"


class RehearsalTooLarge(Exception):
    """It came to a limit: `limit` is its name, `most` its value."""

    def __init__(self, limit: str, most: int) -> None:
        super().__init__(f"the test of the workflow exceeds its limit of {most:,} {limit}")
        self.limit = limit
        self.most = most


class RehearsalBroken(Exception):
    """The engine failed in it: a bug."""


class Stage(Machine):
    """Applies commands one by one, in virtual time; after each step the event loop does whatever else it has to do."""

    def __init__(self, definitions: State, now_ms: int) -> None:
        state = State("rehearsal", 0)
        state.take_definitions(definitions)
        super().__init__(state)
        self.now_ms = now_ms
        self.changed: dict[ExecutionKey, None] = {}  # executions, since somebody has looked
        self._steps = 0

    async def do(self, command: AnyCommand) -> AnyResult:
        """The command's result; then whatever it has set off has happened, too. Raises RehearsalTooLarge."""
        self._begin()
        outcome = self.apply(command)
        return await self._drain(outcome.result, outcome.effects)

    async def lease(self, number: int) -> Lease | None:
        """What waits under this number is executed from now on; None if it does not wait any more.

        No limit of tasks holds it back, and no session needs to serve it.
        """
        token = self.state.meta.next_token
        self._begin()
        done = self._run(_lease, number)
        await self._drain(done.result, done.effects)
        return self.state.leases.get((token,)) if isinstance(done.result, Done) else None

    def _begin(self) -> None:
        self.begin_entry(self.index + 1, 1, self.now_ms)

    async def _drain(self, result: AnyResult, effects: list[AnyEffect]) -> AnyResult:
        await self._stepped(result, effects)
        while self.next_message() is not None:
            outcome = self.apply_message()
            await self._stepped(outcome.result, outcome.effects)
        return result

    async def _stepped(self, result: AnyResult, effects: list[AnyEffect]) -> None:
        if isinstance(result, Rejected) and result.code is Code.INTERNAL:
            raise RehearsalBroken(result.message)
        for effect in effects:
            if isinstance(effect, ExecutionChanged):
                self.changed[effect.namespace, effect.workflow_id] = None
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise RehearsalTooLarge("steps", STEPS_MAX)
        if self.state.hot_bytes > BYTES_MAX:
            raise RehearsalTooLarge("bytes", BYTES_MAX)
        await asyncio.sleep(0)


def _lease(step: Step, number: int) -> AnyResult:
    row = step.state.ready.get((number,))
    if row is None:
        refuse(Code.NOT_FOUND, "TASK_NOT_FOUND", f"nothing waits under the number {number}")
    leases.take(step, row, _SESSION, _WORKER)
    return Done()
