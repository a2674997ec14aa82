"""What happens to calls of a task in a test, besides what its function does: failures, delays, deaths of its worker.

`fail`, `slow`, `late` and `crash` give a task such a script; they can be put around each other, the outer one comes
first. Calls are counted for each worker that serves the task, from 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from orchestrator_client.tasks import Task

Perform = Callable[[], Awaitable[Any]]


class Stage(Protocol):
    """The worker, as a script sees it."""

    async def die(self) -> NoReturn:
        """The worker's process is killed; nothing that it was about to do happens."""


class Act(Protocol):
    """One thing that happens."""

    async def play(self, number: int, perform: Perform, stage: Stage) -> Any:
        """Instead of the function; `perform` goes on with it. The call is the task's `number`th."""


@dataclass(frozen=True)
class Scripted:
    """A task to be served with a script."""

    task: Task[..., Any]
    acts: tuple[Act, ...]


def fail(
    task: Task[..., Any] | Scripted, error: BaseException | type[BaseException], times: int | None = None
) -> Scripted:
    """The task raises this instead of doing anything: each time, or the first `times` times.

    TerminalError is a failure without retries; any other exception is retried as the task's definition says.
    """
    return _with(task, _Fail(error, times))


def slow(task: Task[..., Any] | Scripted, seconds: float, times: int | None = None) -> Scripted:
    """The task begins so much later."""
    return _with(task, _Slow(seconds, times))


def late(task: Task[..., Any] | Scripted, seconds: float, times: int | None = None) -> Scripted:
    """The task takes effect, and its result comes so much later: after its timeout, say, when it does not count."""
    return _with(task, _Late(seconds, times))


def crash(task: Task[..., Any] | Scripted, times: int | None = 1, *, after_effect: bool = False) -> Scripted:
    """The worker dies while it executes the task, before or after the task took effect. It is started again soon."""
    return _with(task, _Crash(times, after_effect))


def _with(task: Task[..., Any] | Scripted, act: Act) -> Scripted:
    if isinstance(task, Scripted):
        return Scripted(task.task, (act, *task.acts))
    if not isinstance(task, Task):
        raise TypeError(f"a script is for a @task, and {task!r} is none")
    return Scripted(task, (act,))


def _plays(number: int, times: int | None) -> bool:
    return times is None or number <= times


@dataclass(frozen=True)
class _Fail:
    error: BaseException | type[BaseException]
    times: int | None

    async def play(self, number: int, perform: Perform, stage: Stage) -> Any:
        if _plays(number, self.times):
            raise self.error if isinstance(self.error, type) else self.error.with_traceback(None)
        return await perform()


@dataclass(frozen=True)
class _Slow:
    seconds: float
    times: int | None

    async def play(self, number: int, perform: Perform, stage: Stage) -> Any:
        if _plays(number, self.times):
            await asyncio.sleep(self.seconds)
        return await perform()


@dataclass(frozen=True)
class _Late:
    seconds: float
    times: int | None

    async def play(self, number: int, perform: Perform, stage: Stage) -> Any:
        result = await perform()
        if _plays(number, self.times):
            await asyncio.sleep(self.seconds)
        return result


@dataclass(frozen=True)
class _Crash:
    times: int | None
    after_effect: bool

    async def play(self, number: int, perform: Perform, stage: Stage) -> Any:
        if not _plays(number, self.times):
            return await perform()
        if self.after_effect:
            await perform()
        await stage.die()
