"""An event loop under virtual time: nothing sleeps, nothing is polled, and the same program takes the same steps again.

Callbacks belong to processes (by a context variable, so whatever a process starts is its own). A process that was
killed is not called any more, one that is paused is called later, and each has a clock of its own speed.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any, TypeVar

T = TypeVar("T")

# What running a callback takes: so a loop that spins comes to an end of its patience, as it would anywhere.
STEP_SECONDS = 2e-6
_TASKS_PRUNED_ABOVE = 256


class Process:
    """A program that runs on the loop, until it is killed."""

    def __init__(self, name: str, *, rate: float = 1.0, offset: float = 0.0) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        # Its monotonic clock: seconds of its own for each second, and what it showed when time began.
        self.rate = rate
        self.offset = offset
        # Tasks are kept until the end, so that those of a killed process never run their clean-up.
        self.tasks: list[asyncio.Task[Any]] = []
        self.deferred: list[_Handle] = []
        self._context = contextvars.copy_context()
        self._context.run(_PROCESS.set, self)
        self._prune_above = _TASKS_PRUNED_ABOVE

    def local(self, now: float) -> float:
        """What its clock shows."""
        return self.offset + now * self.rate

    def virtual(self, local: float) -> float:
        """When its clock shows that."""
        return (local - self.offset) / self.rate

    def context(self) -> contextvars.Context:
        """In which a callback is this process's."""
        return self._context.copy()

    def keep(self, task: asyncio.Task[Any]) -> None:
        self.tasks.append(task)
        if len(self.tasks) > self._prune_above:
            self.tasks = [kept for kept in self.tasks if not kept.done()]
            self._prune_above = 2 * len(self.tasks) + _TASKS_PRUNED_ABOVE


_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current_process() -> Process | None:
    """Whose code is running."""
    return _PROCESS.get()


class _Handle(asyncio.TimerHandle):
    __slots__ = ("process",)

    def __init__(
        self, when: float, callback: Callable[..., object], args: Any, loop: VirtualLoop, context: contextvars.Context
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.process: Process | None = context.get(_PROCESS)


class _Task(asyncio.Task[Any]):
    """Sets of tasks are iterated in the order of their hashes: not that of their addresses."""

    _number = 0

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    _number = 0

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.AbstractEventLoop):
    """Give it to nobody but the programs of one simulation; `run` takes it from one moment to another."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        # What no caller caught, of processes that were alive.
        self.errors: list[str] = []
        self._ready: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers = 0
        self._closed = False
        self._nobodys_tasks: list[asyncio.Task[Any]] = []
        self._abandoned: list[Any] = []
        self._nobody = contextvars.copy_context()
        self._nobody.run(_PROCESS.set, None)

    # -- time and callbacks ----------------------------------------------------------------------------------------

    def time(self) -> float:
        process = _PROCESS.get()
        return self.now if process is None else process.local(self.now)

    def call_soon(  # type: ignore[override]  # typeshed's variadic type variables
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = _Handle(0.0, callback, args, self, context or contextvars.copy_context())
        if not self._closed:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # as above

    def call_later(  # type: ignore[override]  # as above
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = _Handle(when, callback, args, self, context or contextvars.copy_context())
        if not self._closed:
            caller = _PROCESS.get()
            self._numbers += 1
            heappush(self._timers, (when if caller is None else caller.virtual(when), self._numbers, handle))
        return handle

    def schedule(self, when: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """At a moment of virtual time, and in nobody's process."""
        handle = _Handle(when, callback, args, self, self._nobody.copy())
        self._numbers += 1
        heappush(self._timers, (when, self._numbers, handle))
        return handle

    def resume(self, process: Process) -> None:
        """Goes on with a paused process."""
        process.paused = False
        self._ready.extend(process.deferred)
        process.deferred.clear()

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Runs to a moment of virtual time, or until `stop` says so."""
        asyncio._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._abandoned.append, finalizer=self._abandoned.append)
        try:
            while not stop():
                while self._timers and self._timers[0][0] <= self.now:
                    self._ready.append(heappop(self._timers)[2])
                if self._ready:
                    for _ in range(len(self._ready)):
                        self._step(self._ready.popleft())
                elif self._timers and self._timers[0][0] <= until:
                    self.now = self._timers[0][0]
                else:
                    self.now = max(self.now, until)
                if self.now >= until:
                    return
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)

    def _step(self, handle: _Handle) -> None:
        if handle.cancelled():
            return
        process = handle.process
        if process is not None:
            if not process.alive:
                return
            if process.paused:
                process.deferred.append(handle)
                return
        self.steps += 1
        self.now += STEP_SECONDS
        handle._run()

    def run_until_complete(self, future: Any) -> Any:
        """As of any loop; raises TimeoutError when nothing is left that could happen."""
        task = asyncio.ensure_future(future, loop=self)
        while not task.done():
            if not self._ready and not self._timers:
                raise TimeoutError("nothing is left that could happen")
            self.run(self._timers[0][0] if self._timers and not self._ready else self.now + 1.0, task.done)
        return task.result()

    # -- tasks and futures -----------------------------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        future = _Future(loop=self)
        self._numbers += 1
        future._number = self._numbers
        return future

    def create_task(  # type: ignore[override]  # newer Pythons add arguments
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        task = _Task(coro, loop=self, name=name, context=context)
        self._numbers += 1
        task._number = self._numbers
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is None:
            self._nobodys_tasks.append(task)
        else:
            process.keep(task)
        return task

    def spawn(self, process: Process, coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task of the process, from outside of it."""
        return self.create_task(coro, name=name, context=process.context())

    # -- the rest of what asyncio asks of a loop -------------------------------------------------------------------

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        process = _PROCESS.get()
        if self._closed or (process is not None and not process.alive):
            return
        error = context.get("exception")
        self.errors.append(f"{process.name if process else 'nobody'}: {context.get('message')}: {error!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Nothing that is still held by anybody runs any more."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""
