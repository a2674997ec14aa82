"""Gives schedules their times: computes them from the tables of time zones that this machine has, and proposes them.

Nothing is remembered here that the rows do not say: a new leader finds the schedules that want times by their index.
Times are armed not far ahead, so that tables which change in between count.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import islice

from orchestrator.engine.commands import ArmSchedule
from orchestrator.engine.results import Rejected
from orchestrator.engine.triggers import schedules
from orchestrator.engine.triggers.index import armed_until
from orchestrator.engine.triggers.rows import ScheduleRow
from orchestrator.engine.triggers.schedule_documents import validate_schedule
from orchestrator.integrations.cron import CronInvalid, Time, Timetable, timetable_of
from orchestrator.services.ports import CurrentMachine, Submit

logger = logging.getLogger(__name__)

HORIZON_MS = 36 * 3_600_000
# What has no time within the horizon is looked at again after this.
LOOK_AGAIN_MS = 24 * 3_600_000
TIMES_ARMED = 16
REFILL_BELOW = 4
# Of the times that a schedule has missed, so many are run if it catches up: the newest.
CATCH_UP_TIMES = 100
# More than so many that are skipped are not counted.
SKIPPED_COUNTED = 1_000
SCHEDULES_TOGETHER = 64
# A schedule whose times can't be computed here, or were refused, is tried again after this.
HELD_SECONDS = 60.0


class Scheduler:
    """One round of proposals is under way at a time."""

    def __init__(
        self, submit: Submit, machine: CurrentMachine, log_time_ms: Callable[[], int], monotonic: Callable[[], float]
    ) -> None:
        self._submit = submit
        self._machine = machine
        self._log_time_ms = log_time_ms
        self._monotonic = monotonic
        self._poked = asyncio.Event()
        self._held: dict[tuple[str, str], tuple[int, float]] = {}  # (revision, until when)

    def entry_applied(self) -> None:
        """Some schedule may want times now."""
        if self._machine().state.triggers.wanting:
            self._poked.set()

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        self._held.clear()
        while True:
            self._poked.clear()
            if await self._arm_some():
                continue
            try:
                async with asyncio.timeout(HELD_SECONDS if self._held else None):
                    await self._poked.wait()
            except TimeoutError:
                continue

    async def _arm_some(self) -> bool:
        commands = []
        for key in self._wanting():
            command = self._command(key)
            if command is not None:
                commands.append(command)
            # A turn for the others: thousands of schedules may want their times when a term begins.
            await asyncio.sleep(0)
        results = await asyncio.gather(*(self._submit(command) for command in commands))
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, Rejected):
                logger.error("the times of a schedule were refused: %s", result.message, extra=_which(command))
                self._hold((command.namespace, command.name), command.revision)
        return bool(commands)

    def _wanting(self) -> list[tuple[str, str]]:
        state = self._machine().state
        if not state.triggers.wanting or schedules.scheduling(state).paused:
            return []
        wanting = (key for key in sorted(state.triggers.wanting) if not self._is_held(key))
        return list(islice(wanting, SCHEDULES_TOGETHER))

    def _command(self, key: tuple[str, str]) -> ArmSchedule | None:
        state = self._machine().state
        row = schedules.schedule(state, *key)
        if row is None:
            return None
        try:
            return times_for(row, self._log_time_ms(), schedules.scheduling(state).changed_ms)
        except CronInvalid as error:
            # It was checked where it was put: the tables here are others.
            logger.error("the times of a schedule can't be computed: %s", error, extra=_which(row))
            self._hold(key, row.revision)
            return None

    def _hold(self, key: tuple[str, str], revision: int) -> None:
        self._held[key] = (revision, self._monotonic() + HELD_SECONDS)

    def _is_held(self, key: tuple[str, str]) -> bool:
        held = self._held.get(key)
        if held is None:
            return False
        row = schedules.schedule(self._machine().state, *key)
        if row is not None and row.revision == held[0] and self._monotonic() < held[1]:
            return True
        del self._held[key]
        return False


def times_for(row: ScheduleRow, now_ms: int, resumed_ms: int) -> ArmSchedule:
    """What is to be armed for the schedule now. `resumed_ms`: when all schedules were resumed. Raises CronInvalid."""
    parsed = validate_schedule(row.document)
    table = timetable_of(parsed)
    after_ms = armed_until(row)
    if parsed.catch_up:
        missed, skipped = _caught_up(table, after_ms, now_ms)
    else:
        # What a pause of all has kept back is past; of what came while nobody led, the first is run late.
        missed, skipped = _first_of(table, max(after_ms, resumed_ms), now_ms)
    coming = list(_until(table.after(max(after_ms, now_ms)), now_ms + HORIZON_MS, TIMES_ARMED))
    exhausted = not coming and next(table.after(max(after_ms, now_ms)), None) is None
    return ArmSchedule(
        row.namespace,
        row.name,
        row.revision,
        after_ms,
        times=(*missed, *coming),
        skipped=len(skipped),
        skipped_ms=skipped[0][0] if skipped else 0,
        refill_below=REFILL_BELOW if len(coming) == TIMES_ARMED else 0,
        exhausted=exhausted,
        look_again_ms=0 if missed or coming or exhausted else now_ms + LOOK_AGAIN_MS,
    )


def _caught_up(table: Timetable, after_ms: int, now_ms: int) -> tuple[list[Time], list[Time]]:
    """(to be run, ascending; skipped, descending)."""
    missed = list(islice(table.between(after_ms, now_ms), CATCH_UP_TIMES + SKIPPED_COUNTED))
    return missed[:CATCH_UP_TIMES][::-1], missed[CATCH_UP_TIMES:]


def _first_of(table: Timetable, after_ms: int, now_ms: int) -> tuple[list[Time], list[Time]]:
    first = list(_until(table.after(after_ms), now_ms, 1))
    return first, list(islice(table.between(first[0][0], now_ms), SKIPPED_COUNTED)) if first else []


def _until(times: Iterator[Time], last_ms: int, most: int) -> Iterator[Time]:
    for time in islice(times, most):
        if time[0] > last_ms:
            return
        yield time


def _which(item: ArmSchedule | ScheduleRow) -> dict[str, str]:
    return {"namespace": item.namespace, "schedule": item.name}
