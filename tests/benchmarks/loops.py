"""Closed loops of callers: bounded in time, and measured between a warm-up and their end, or in several windows."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from tests.benchmarks.arithmetic import longest_pause
from tests.benchmarks.processes import Progress

WARM_UP_S = 2.0
SAY_EVERY_S = 2.5
# What is under way at the end may take this long; then it counts as lost.
FINISH_S = 60.0

Call = Callable[[int], Awaitable[object]]
"""What a caller does again and again, with a number that it gets once."""
Spent = Callable[[], dict[str, float]]


@dataclass
class Window:
    """What completed between two moments."""

    seconds: float
    samples_ms: list[float] = field(default_factory=list)  # ascending
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    # The longest time in which nothing completed.
    pause_ms: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.samples_ms) / self.seconds if self.seconds else 0.0


class Stream:
    """Callers that go on, each making its next call when the last has returned; windows are cut from it."""

    def __init__(self, spent: Spent) -> None:
        self._spent = spent
        # When each call returned, and how long it took.
        self._done: list[tuple[float, float]] = []
        self._begin = time.perf_counter()
        self._before: dict[str, float] = {}
        self.stop = False
        self.count = 0

    async def call_again_and_again(self, call: Call, numbers: itertools.count[int]) -> None:
        while not self.stop:
            began = time.perf_counter()
            await call(next(numbers))
            ended = time.perf_counter()
            self._done.append((ended, ended - began))
            self.count += 1

    def begin_window(self) -> None:
        self._done.clear()
        self._begin, self._before = time.perf_counter(), self._spent()

    def end_window(self) -> Window:
        """What completed since it began. The next begins where this one ends."""
        begin, before, end = self._begin, self._before, time.perf_counter()
        done = list(self._done)
        self.begin_window()
        samples = sorted(took * 1000 for _, took in done)
        pause = longest_pause([at for at, _ in done], begin, end)
        return Window(end - begin, samples, before, self._before, 1000 * pause)


@contextlib.asynccontextmanager
async def streaming(concurrency: int, call: Call, spent: Spent) -> AsyncIterator[Stream]:
    """As many callers, until the end; the first error ends it."""
    stream = Stream(spent)
    numbers = itertools.count()
    async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(stream.call_again_and_again(call, numbers))
        yield stream
        stream.stop = True
        limit.reschedule(asyncio.get_running_loop().time() + FINISH_S)


async def closed_loop(
    name: str, concurrency: int, seconds: float, call: Call, spent: Spent, progress: Progress
) -> Window:
    """One window after a warm-up. `spent` is asked at both ends of it."""
    async with streaming(concurrency, call, spent) as stream:
        await asyncio.sleep(WARM_UP_S)
        stream.begin_window()
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            await asyncio.sleep(min(left, SAY_EVERY_S))
            progress.say(f"{name}: {stream.count} done")
        return stream.end_window()
