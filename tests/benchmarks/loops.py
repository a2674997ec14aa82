"""Closed loops of callers: bounded in time, and measured between a warm-up and their end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.benchmarks.processes import Progress

WARM_UP_S = 2.0
SAY_EVERY_S = 2.5
# What is under way at the end may take this long; then it counts as lost.
FINISH_S = 60.0


@dataclass
class Window:
    """What completed between two moments."""

    seconds: float
    samples_ms: list[float] = field(default_factory=list)  # ascending
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return len(self.samples_ms) / self.seconds if self.seconds else 0.0


async def closed_loop(
    name: str,
    concurrency: int,
    seconds: float,
    call: Callable[[int], Awaitable[object]],
    spent: Callable[[], dict[str, float]],
    progress: Progress,
) -> Window:
    """As many callers, each making its next call when the last has returned. The first error ends it.

    `call` is given a number that it gets once; `spent` is asked at both ends of the window.
    """
    done: list[tuple[float, float]] = []
    numbers = itertools.count()
    stop = False

    async def caller() -> None:
        while not stop:
            began = time.perf_counter()
            await call(next(numbers))
            ended = time.perf_counter()
            done.append((ended, ended - began))

    async def clock() -> tuple[float, dict[str, float], float, dict[str, float]]:
        nonlocal stop
        await asyncio.sleep(WARM_UP_S)
        begin, before = time.perf_counter(), spent()
        while (left := begin + seconds - time.perf_counter()) > 0:
            await asyncio.sleep(min(left, SAY_EVERY_S))
            progress.say(f"{name}: {len(done)} done")
        stop = True
        return begin, before, time.perf_counter(), spent()

    async with asyncio.timeout(WARM_UP_S + seconds + FINISH_S), asyncio.TaskGroup() as group:
        timed = group.create_task(clock())
        for _ in range(concurrency):
            group.create_task(caller())
    begin, before, end, after = timed.result()
    samples = sorted(took * 1000 for at, took in done if begin <= at < end)
    return Window(end - begin, samples, before, after)
