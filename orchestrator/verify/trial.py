"""A run: faults, one after the other, under a workload; and after each, with all callers at rest, a judgement."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.verify.crowd import Crowd, CrowdFailed
from orchestrator.verify.history import Lines
from orchestrator.verify.judge import Judge, Violation
from orchestrator.verify.looking import JUDGE, Observer
from orchestrator.verify.machines.faults import NodeFailed
from orchestrator.verify.statistics import Statistics, Window
from orchestrator_client import ClusterError

CALM_S = (1.5, 3.0)
LASTS_S = (1.5, 4.0)
WATCH_S = 0.25
# More than were on their way when the fault came.
ANSWERS = 30
KILL_WORKER, PAUSE_WORKER, KILL_CLIENT = "kill a worker", "pause a worker", "kill a client"
CROWD_KINDS = (KILL_WORKER, PAUSE_WORKER, KILL_CLIENT)


class Faults(Protocol):
    @property
    def kinds(self) -> list[str]: ...
    async def strike(self, kind: str, dice: random.Random) -> str:
        """Answers whom it has hit."""

    async def heal(self) -> None:
        """Undoes all that is not undone, and returns when the cluster has taken notice as far as one can see."""

    def check(self) -> None:
        """Raises NodeFailed if a node ended by itself."""


class CrowdFaults:
    """Those of somebody else, and of the run's own workers and clients, which are replaced."""

    def __init__(self, others: Faults, crowd: Crowd, judge: Judge) -> None:
        self._others = others
        self._crowd = crowd
        self._judge = judge
        self._missing: list[str] = []

    @property
    def kinds(self) -> list[str]:
        return [*self._others.kinds, *CROWD_KINDS]

    async def strike(self, kind: str, dice: random.Random) -> str:
        if kind == KILL_WORKER:
            name = await self._crowd.kill_worker()
        elif kind == PAUSE_WORKER:
            name = await self._crowd.pause_worker()
        elif kind == KILL_CLIENT:
            name = await self._crowd.kill_client()
        else:
            return await self._others.strike(kind, dice)
        self._missing.append(kind)
        self._judge.lost_workers |= self._crowd.lost_workers
        return name

    async def heal(self) -> None:
        await self._others.heal()
        self._crowd.resume_workers()
        while self._missing:
            kind = self._missing.pop()
            if kind == KILL_WORKER:
                await self._crowd.add_worker()
            elif kind == KILL_CLIENT:
                await self._crowd.add_client()

    def check(self) -> None:
        self._others.check()
        self._crowd.check_running()


def deck(kinds: Sequence[str], dice: random.Random) -> Iterator[str]:
    """Each once before any comes again."""
    while True:
        yield from dice.sample(kinds, len(kinds))


@dataclass
class Trial:
    """What a run needs and what it finds out. `compare` says in what the nodes differ, when nobody is at work."""

    seed: int
    faults: Faults
    crowd: Crowd
    judge: Judge
    observer: Observer
    compare: Callable[[list[str]], Awaitable[list[Violation]]]
    progress_s: float
    statistics: Statistics
    # Told after each round, and of what happens.
    on_round: Callable[[], None] = lambda: None
    on_event: Callable[[str], None] = lambda text: None
    kinds: Sequence[str] = ()
    violations: list[Violation] = field(default_factory=list)
    rounds: int = 0
    now: Callable[[], float] = time.monotonic
    _lines: Lines = field(default_factory=Lines)
    _windows: list[Window] = field(default_factory=list)
    _answers: int = 0

    async def run(self, seconds: float, rounds_max: float = math.inf) -> None:
        """Ends with the first round in which something was violated, or when the time or the rounds are over."""
        until = self.now() + seconds
        await self.crowd.start()
        watching = asyncio.create_task(self._watch())
        try:
            await _either(watching, asyncio.create_task(self._rounds(until, rounds_max)))
        except NodeFailed as error:
            self.violations.append(Violation("node", "", str(error)))
        except CrowdFailed as error:
            self.violations.append(Violation("caller", "", str(error)))
        except ClusterError as error:
            self.violations.append(Violation("progress", "", f"the judge had no answer, with no fault left: {error}"))

    async def _rounds(self, until: float, rounds_max: float) -> None:
        await self._progress("before any fault")
        kinds = deck(self.kinds or self.faults.kinds, self.dice("deck"))
        while self.now() < until and self.rounds < rounds_max and not self.violations:
            await self._round(next(kinds), self.dice(self.rounds + 1))
        if not self.violations:
            self.on_event("everything that has ended is looked at again")
            self.violations += await self.observer.look_again()

    def dice(self, purpose: str | int) -> random.Random:
        """Of its own for each purpose, so that one does not shift another."""
        return random.Random(f"{self.seed}/{purpose}")

    async def _round(self, kind: str, dice: random.Random) -> None:
        await asyncio.sleep(dice.uniform(*CALM_S))
        window = Window(kind, "", self.now())
        self._windows.append(window)
        try:
            self.on_event(f"round {self.rounds + 1}: {kind}")
            window.target = await self.faults.strike(kind, dice)
            await asyncio.sleep(dice.uniform(*LASTS_S))
        finally:
            await self.faults.heal()
            window.healed = self.now()
        await self._progress(f"after {kind} ({window.target})")
        window.recovered = self.now()
        await self.settle()
        self.rounds += 1
        self.on_event(f"  {window.target}: undone after {window.healed - window.began:.1f} s, answers go on "
                      f"{window.recovered - window.healed:.1f} s later; {self.statistics.operations:,} operations "
                      f"judged, {len(self.violations)} violations")
        self.on_round()

    # -- under load ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Raises as soon as something is wrong that no round has to wait for; returns never."""
        while True:
            self.faults.check()
            self.update()
            await asyncio.sleep(WATCH_S)

    def update(self) -> None:
        """Takes in what the processes have written since."""
        folder = self.crowd.settings.folder
        for file in sorted(folder.glob("*.client")):
            for line in self._lines.new(file):
                over = self.judge.history.take(line)
                self._answers += over is not None and over.is_known
        for file in sorted(folder.glob("*.worker")):
            worker = f"{self.crowd.settings.prefix}-{Path(file).stem}"
            for line in self._lines.new(file):
                self.judge.take_worker_line(line, worker)

    async def _progress(self, when: str) -> None:
        goal, until = self._answers + ANSWERS, self.now() + self.progress_s
        while self._answers < goal:
            if self.now() > until:
                self.violations.append(Violation("progress", "", f"fewer than {ANSWERS} answers in "
                                                                 f"{self.progress_s:.0f} s {when}"))
                return
            self.update()
            await asyncio.sleep(0.02)

    # -- at rest ---------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """All callers rest, everything that they have begun is judged, and they go on with other objects."""
        rests_from = self.now()
        told = await self.crowd.pause()
        self.update()
        self.violations += self.judge.record(told)
        seen, late = await self.observer.look(self.judge)
        # Workers have written meanwhile.
        self.update()
        operations = [each for one in self.judge.history.by_object.values() for each in one if each.caller != JUDGE]
        self.statistics.add(operations, self._windows)
        self._windows = []
        self.violations += late
        self.violations += self.judge.judge(seen)
        ids = [each.workflow_id for one in seen.values() for each in one.executions]
        self.violations += await self.compare(ids)
        if not self.violations:
            await self.observer.keep_some(seen.values())
        self.statistics.rests.append((rests_from, self.now()))
        self.crowd.resume()

    @property
    def answers(self) -> int:
        return self._answers

    @property
    def fault(self) -> Window | None:
        """That of now."""
        return self._windows[-1] if self._windows else None


async def _either(*running: asyncio.Task[None]) -> None:
    """The first to end, well or not, ends them all."""
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            each.result()
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
