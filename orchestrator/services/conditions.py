"""Evaluates the conditions of event handlers, outside of the state machine, and proposes what they say.

An event whose handlers wait to be decided on is a row: a new leader finds it, and evaluates what the one before has
left.
"""

from __future__ import annotations

import asyncio
import logging

from orchestrator.engine.commands import DecideEvent
from orchestrator.engine.evaluations import is_true
from orchestrator.engine.expressions import assemble_object, dump_string, fields_of
from orchestrator.engine.expressions.payload_templates import expand_inline
from orchestrator.engine.results import Rejected
from orchestrator.engine.triggers import events
from orchestrator.integrations.work import Ended, Executor, Kind, Work
from orchestrator.services.ports import CurrentMachine, Submit

logger = logging.getLogger(__name__)

AT_ONCE = 16
# What could not be evaluated for lack of an evaluator is tried again after this.
RETRY_SECONDS = 1.0

Undecided = tuple[int, str]
"""(number of the event, name of the handler)"""


class Conditions:
    """Evaluations under way are bounded; `scripts` does them, None if this node has nothing that could."""

    def __init__(self, submit: Submit, machine: CurrentMachine, scripts: Executor | None) -> None:
        self._submit = submit
        self._machine = machine
        self._scripts = scripts
        self._poked = asyncio.Event()

    def entry_applied(self) -> None:
        """Some handler may wait to be decided on."""
        if self._machine().state.triggers.undecided:
            self._poked.set()

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        under_way: dict[Undecided, asyncio.Task[None]] = {}
        try:
            while True:
                self._poked.clear()
                for pair in self._undecided(AT_ONCE - len(under_way), under_way):
                    under_way[pair] = asyncio.create_task(self._decide(pair), name="condition")
                if not under_way:
                    await self._poked.wait()
                    continue
                poked = asyncio.create_task(self._poked.wait(), name="condition")
                try:
                    await asyncio.wait((poked, *under_way.values()), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    poked.cancel()
                for pair in [pair for pair, task in under_way.items() if task.done()]:
                    under_way.pop(pair).result()
        finally:
            for task in under_way.values():
                task.cancel()
            await asyncio.gather(*under_way.values(), return_exceptions=True)

    def _undecided(self, most: int, under_way: dict[Undecided, asyncio.Task[None]]) -> list[Undecided]:
        state = self._machine().state
        found: list[Undecided] = []
        for number in sorted(state.triggers.undecided):
            row = events.event(state, number)
            for name in row.undecided if row is not None else ():
                if len(found) >= most:
                    return found
                if (number, name) not in under_way:
                    found.append((number, name))
        return found

    async def _decide(self, pair: Undecided) -> None:
        command = await self._verdict(*pair)
        if command is None:
            await asyncio.sleep(RETRY_SECONDS)
            return
        result = await self._submit(command)
        if isinstance(result, Rejected):
            which = {"event": command.number, "handler": command.handler}
            logger.error("the verdict on a condition was refused: %s", result.message, extra=which)
            await asyncio.sleep(RETRY_SECONDS)

    async def _verdict(self, number: int, name: str) -> DecideEvent | None:
        """None if there is nothing to be said now."""
        state = self._machine().state
        row = events.event(state, number)
        if row is None:
            return None
        kept = events.handler(state, row.namespace, name)
        parsed = events.active_handler(state, row, name)
        if kept is None or parsed is None:
            # Applying it says that the handler has gone.
            return DecideEvent(number, name, 0, False)
        if not parsed.condition:
            return DecideEvent(number, name, kept.revision, True)
        if self._scripts is None:
            which = {"event": row.event, "handler": name}
            logger.error("a condition waits for a node that can evaluate scripts", extra=which)
            return None
        work = Work(
            kind=Kind.SCRIPT,
            namespace=row.namespace,
            workflow_id="",
            task_id="",
            name=name,
            reference=row.event,
            # As Conductor has it: JSON in its strings counts as what it says, whatever the actions ask for.
            input=expand_inline(row.payload),
            parameters=assemble_object((("expression", dump_string(parsed.condition)),)),
            idempotency_key="",
            fencing_token=0,
        )
        outcome = await self._scripts.execute(work)
        if outcome.ended is Ended.FAILED:
            logger.warning("a condition could not be evaluated: %s", outcome.reason, extra={"handler": name})
            return None
        if outcome.ended is not Ended.COMPLETED:
            return DecideEvent(number, name, kept.revision, False, outcome.reason or "the condition failed")
        value = fields_of(outcome.output).get("result", b"null")
        return DecideEvent(number, name, kept.revision, is_true(value))
