"""Finds executions that were kept for long enough, and proposes to purge them.

What it finds by indexes of its own database is only proposed: whether it goes is decided when the command is applied.
Few go with one command, and commands follow each other at a bounded rate, so that what runs does not notice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence

from orchestrator.engine import limits, purging
from orchestrator.engine.choices import PurgeRule
from orchestrator.engine.commands import PurgeExecutions, PurgeItem
from orchestrator.engine.model import Execution
from orchestrator.engine.resident import Retention
from orchestrator.engine.results import Rejected
from orchestrator.services.ports import CurrentMachine, Submit
from orchestrator.storage.ended import FIRST_END, FIRST_NAME, FIRST_OWN, EndedExecutions, Found

logger = logging.getLogger(__name__)

# Between rounds that found nothing.
ROUND_SECONDS = 10.0
# Between commands: at most 20,000 rows a second.
PACE_SECONDS = 0.05
PAGE = 500
ROWS_PER_COMMAND = 1_000
NAMES_PER_ROUND = 100
PAGES_PER_NAME = 20
# What was found and has not gone, for whatever reason, is looked for again after this.
RESCAN_SECONDS = 600.0
# What ended later may not be in the database yet, and a place behind it would leave it out.
SETTLED_MS = 5_000
# Of a row in the database besides its payload, for the estimate of what goes.
ROW_BYTES = 500


class Retainer:
    """Keeps its places in the database while it runs; another leader begins from the start."""

    def __init__(
        self,
        submit: Submit,
        machine: CurrentMachine,
        log_time_ms: Callable[[], int],
        ended: EndedExecutions,
        settle: Callable[[], Awaitable[None]],
        on_oldest_seconds: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._submit = submit
        self._machine = machine
        self._log_time_ms = log_time_ms
        self._ended = ended
        # Returns once everything that was applied before is in the database.
        self._settle = settle
        self._on_oldest_seconds = on_oldest_seconds
        self._began = 0.0
        self._own_place, self._end_place, self._room_place, self._name = FIRST_OWN, FIRST_END, FIRST_END, FIRST_NAME

    def _start_over(self) -> None:
        self._began = asyncio.get_running_loop().time()
        self._own_place, self._end_place, self._room_place, self._name = FIRST_OWN, FIRST_END, FIRST_END, FIRST_NAME

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        self._start_over()
        while True:
            await asyncio.sleep(ROUND_SECONDS)
            while await self.round():
                pass

    async def round(self) -> bool:
        """Looks once by every rule; whether anything was proposed, or is left to look at."""
        policy, now_ms = purging.retention(self._machine().state), self._log_time_ms()
        if asyncio.get_running_loop().time() - self._began > RESCAN_SECONDS:
            self._start_over()
        oldest_ms = await self._ended.oldest_ms()
        self._on_oldest_seconds(max(0, now_ms - oldest_ms) / 1000 if oldest_ms else 0.0)
        if not oldest_ms:
            return False
        more = await self._purge_old(policy, now_ms)
        more |= await self._purge_surplus(policy)
        return await self._purge_for_room(policy, now_ms) or more

    async def _purge_old(self, policy: Retention, now_ms: int) -> bool:
        due_ms = now_ms - SETTLED_MS
        own = await self._ended.own_over(due_ms, self._own_place, PAGE)
        old: list[Found] = []
        if policy.age_ms:
            old = await self._ended.ended_by(due_ms - policy.age_ms, self._end_place, PAGE, with_own=False)
        self._own_place = own[-1].place if own else self._own_place
        self._end_place = old[-1].place if old else self._end_place
        await self._propose(PurgeRule.AGE, [(found.execution, 0) for found in (*own, *old)])
        return PAGE in (len(own), len(old))

    async def _purge_surplus(self, policy: Retention) -> bool:
        """A few names in each round, however many there are; whether some of them had too many."""
        had_surplus = False
        for _ in range(NAMES_PER_ROUND):
            name = await self._ended.next_name(self._name)
            if name is None:
                self._name = FIRST_NAME
                return False
            self._name = name
            # The newest says how many of its name are kept, though others may have been promised more.
            newest = await self._ended.newest(*name, 0, 1)
            count = newest[0].execution.retention_count or policy.count if newest else 0
            for page in range(PAGES_PER_NAME if count else 0):
                surplus = await self._ended.newest(*name, count + page * PAGE, PAGE)
                had_surplus |= await self._propose(
                    PurgeRule.COUNT, [(found.execution, found.place) for found in surplus]
                )
                if len(surplus) < PAGE:
                    break
        return had_surplus

    async def _purge_for_room(self, policy: Retention, now_ms: int) -> bool:
        if not policy.bytes or self._ended.used_bytes <= policy.bytes:
            self._room_place = FIRST_END
            return False
        # What has gone already counts first.
        await self._settle()
        used = self._ended.used_bytes
        left = used - policy.bytes
        page = await self._ended.ended_by(now_ms, self._room_place, PAGE, with_own=True)
        going: list[tuple[Execution, int]] = []
        for found in page:
            if left <= 0:
                break
            self._room_place = found.place
            left -= _bytes(found.execution)
            going.append((found.execution, used))
        await self._propose(PurgeRule.BYTES, going)
        if len(page) < PAGE and left > 0:
            # That was all there is.
            self._room_place = FIRST_END
            return False
        return True

    async def _propose(self, rule: PurgeRule, found: Sequence[tuple[Execution, int]]) -> bool:
        """`found`: with what was observed, as the rule has it. Whether any of them may go."""
        policy, now_ms = purging.retention(self._machine().state), self._log_time_ms()
        going = [each for each in found if purging.may_go(each[0], policy, now_ms, rule, each[1])]
        for items in _commands(rule, going):
            result = await self._submit(PurgeExecutions(items))
            if isinstance(result, Rejected):
                logger.error("PurgeExecutions was refused: %s", result.message)
            await asyncio.sleep(PACE_SECONDS)
        return bool(going)


def _rows(each: Execution) -> int:
    """At most so many belong to it."""
    return each.next_sequence + each.next_number


def _bytes(each: Execution) -> int:
    """About so many."""
    return each.payload_bytes + each.log_bytes + _rows(each) * ROW_BYTES


def _commands(rule: PurgeRule, found: Sequence[tuple[Execution, int]]) -> Iterator[tuple[PurgeItem, ...]]:
    """By few enough rows; one that has more goes alone, step by step."""
    items: list[PurgeItem] = []
    rows = 0
    for each, observed in found:
        if items and (rows + _rows(each) > ROWS_PER_COMMAND or len(items) == limits.PURGED_PER_COMMAND):
            yield tuple(items)
            items, rows = [], 0
        items.append(PurgeItem(each.namespace, each.workflow_id, each.ended_ms, rule, observed))
        rows += _rows(each)
    if items:
        yield tuple(items)
