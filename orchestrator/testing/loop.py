"""An event loop under virtual time: nothing sleeps, nothing is polled, and the same program takes the same steps again.

Callbacks belong to processes (by a context variable, so whatever a process starts is its own). A process that was
killed is not called any more, one that is paused is called later, and each has a clock of its own speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from heapq import heapify, heappop, heappush
from typing import Any, NoReturn, TypeVar

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
        # In which its transports call it back, as a selector's would: one for all of them.
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)
        self._prune_above = _TASKS_PRUNED_ABOVE

    def local(self, now: float) -> float:
        """What its clock shows."""
        return self.offset + now * self.rate

    def virtual(self, local: float) -> float:
        """When its clock shows that."""
        return (local - self.offset) / self.rate

    def keep(self, task: asyncio.Task[Any]) -> None:
        self.tasks.append(task)
        if len(self.tasks) > self._prune_above:
            self.tasks = [kept for kept in self.tasks if not kept.done()]
            self._prune_above = 2 * len(self.tasks) + _TASKS_PRUNED_ABOVE


_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current_process() -> Process | None:
    """Whose code is running."""
    return _PROCESS.get()


class _Handle(list[Any]):
    """[when, number, callback, arguments, context, process]: a list, for it is made for every callback there is.

    Handles are their own place in the heap of timers: no two of those have the same number.
    """

    __slots__ = ()

    def cancel(self) -> None:
        """It is passed over when its turn comes."""
        self[2] = self[3] = None

    def cancelled(self) -> bool:
        return self[2] is None

    def when(self) -> float:
        """In virtual time."""
        when: float = self[0]
        return when


def _numbered(future: Any) -> int:
    """The hash of a task or future: sets of them are iterated in this order, not in that of their addresses."""
    if not future.number:
        future.number = future.get_loop().next_number()
    number: int = future.number
    return number


class _Task(asyncio.Task[Any]):
    number = 0
    __hash__ = _numbered


class _Future(asyncio.Future[Any]):
    number = 0
    __hash__ = _numbered


def _never() -> bool:
    return False


class VirtualLoop(asyncio.AbstractEventLoop):
    """Give it to nobody but the programs of one simulation; `run` takes it from one moment to another."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        # What no caller caught, of processes that were alive.
        self.errors: list[str] = []
        self._ready: list[_Handle] = []
        self._timers: list[_Handle] = []
        self._numbers = 0
        self._closed = False
        self._nobodys_tasks: list[asyncio.Task[Any]] = []
        self._abandoned: list[Any] = []
        self._thread: ThreadPoolExecutor | None = None
        self._processes: dict[Process, None] = {}

    # -- time and callbacks ----------------------------------------------------------------------------------------

    def time(self) -> float:
        process = _PROCESS.get()
        return self.now if process is None else process.local(self.now)

    def next_number(self) -> int:
        """They only grow."""
        self._numbers += 1
        return self._numbers

    # `Any`: what asyncio wants of a handle, ours have.

    def call_soon(  # type: ignore[override]  # typeshed's variadic type variables
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        if context is None:
            context = contextvars.copy_context()
        handle = _Handle((0.0, 0, callback, args, context, context.get(_PROCESS)))
        if not self._closed:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # as above

    def call_later(  # type: ignore[override]  # as above
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        caller = _PROCESS.get()
        when = self.now + (delay if caller is None else delay / caller.rate)
        return self._at(when, callback, args, context)

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        caller = _PROCESS.get()
        return self._at(when if caller is None else caller.virtual(when), callback, args, context)

    def _at(
        self, when: float, callback: Callable[..., object], args: Any, context: contextvars.Context | None
    ) -> _Handle:
        if context is None:
            context = contextvars.copy_context()
        self._numbers += 1
        handle = _Handle((when, self._numbers, callback, args, context, context.get(_PROCESS)))
        if not self._closed:
            heappush(self._timers, handle)
        return handle

    def schedule(self, when: float, callback: Callable[..., object], *args: Any) -> Any:
        """At a moment of virtual time, and in nobody's process."""
        self._numbers += 1
        handle = _Handle((when, self._numbers, callback, args, None, None))
        heappush(self._timers, handle)
        return handle

    def deliver(self, process: Process, callback: Callable[..., object], *args: Any) -> None:
        """To be called from nobody's: now, but later if the process is paused, and never if it was killed."""
        handle = _Handle((0.0, 0, callback, args, process.context, process))
        self._run_all((handle,))

    def resume(self, process: Process) -> None:
        """Goes on with a paused process, first of all with what it has missed."""
        self.schedule(self.now, self._go_on, process)

    def _go_on(self, process: Process) -> None:
        process.paused = False
        missed, process.deferred = process.deferred, []
        self._run_all(missed)

    def run(self, until: float, stop: Callable[[], object] = _never) -> None:
        """Runs to a moment of virtual time, or until `stop` says so."""
        timers = self._timers
        asyncio._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._abandon, finalizer=self._abandon)
        try:
            while not stop():
                turn, self._ready = self._ready, []
                if not turn:
                    self.now = max(self.now, min(until, timers[0][0]) if timers else until)
                while timers and timers[0][0] <= self.now:
                    turn.append(heappop(timers))
                self._run_all(turn)
                if self.now >= until:
                    return
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)

    def _abandon(self, generator: Any) -> None:
        """It is never closed at a moment of the collector's."""
        if not self._closed:
            self._abandoned.append(generator)

    def _run_all(self, handles: Iterable[_Handle]) -> None:
        for handle in handles:
            _, _, callback, args, context, process = handle
            if callback is None:
                continue
            if process is not None:
                if not process.alive:
                    continue
                if process.paused:
                    process.deferred.append(handle)
                    continue
            self.steps += 1
            self.now += STEP_SECONDS
            try:
                if context is None:
                    callback(*args)
                else:
                    context.run(callback, *args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as any loop does
                self.call_exception_handler({"message": f"Exception in callback {callback}", "exception": error})

    # -- time that is passed over ----------------------------------------------------------------------------------

    def skip(self, seconds: float, processes: Collection[Process]) -> None:
        """To these processes so much time passes at once, while the others, and what they say, stand still."""
        for process in processes:
            process.offset += seconds * process.rate
        for handle in self._timers:
            if handle[5] in processes:
                handle[0] -= seconds
        heapify(self._timers)

    def next_timer(self, processes: Collection[Process]) -> float | None:
        """In how many seconds the first timer of these processes is due; None if they have none."""
        due = [handle[0] for handle in self._timers if handle[5] in processes and handle[2] is not None]
        return max(min(due) - self.now, 0.0) if due else None

    def is_busy(self, processes: Collection[Process]) -> bool:
        """Whether any of them has something to do now."""
        return any(handle[5] in processes and handle[2] is not None for handle in self._ready)

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
        return _Future(loop=self)

    def create_task(  # type: ignore[override]  # newer Pythons add arguments
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        task = _Task(coro, loop=self, name=name, context=context)
        process = _PROCESS.get() if context is None else context.get(_PROCESS)
        if process is None:
            self._nobodys_tasks.append(task)
        else:
            process.keep(task)
        return task

    def spawn(self, process: Process, coro: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task of the process, from outside of it."""
        self._processes[process] = None
        return self.create_task(coro, name=name, context=process.context.copy())

    # -- the rest of what asyncio asks of a loop -------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]  # as above
        self, executor: Executor | None, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """In a thread, as anywhere; but the loop waits for it, so that it takes no time and no other order."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="virtual-loop")
        done = self.create_future()
        try:
            done.set_result(self._thread.submit(function, *args).result())
        except Exception as error:  # noqa: BLE001 - it is the caller's
            done.set_exception(error)
        return done

    async def shutdown_asyncgens(self) -> None:
        """They end with the loop."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's
        """As above."""

    async def _no_world(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(
            "this loop has virtual time and no sockets, files or processes: what a test calls outside of it must be "
            "a stand-in that needs none"
        )

    create_connection = create_server = create_unix_connection = create_unix_server = _no_world
    create_datagram_endpoint = connect_read_pipe = connect_write_pipe = _no_world
    getaddrinfo = getnameinfo = sock_connect = sock_accept = sock_recv = sock_sendall = _no_world
    subprocess_exec = subprocess_shell = _no_world

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
        if self._thread is not None:
            self._thread.shutdown()
        self._ready.clear()
        self._timers.clear()

    def forget(self) -> None:
        """After `close`: ends what has not ended, now and not when the collector finds it.

        Whoever still holds a part of what ran here does not hold its tasks by that.
        """
        for process in self._processes:
            for task in process.tasks:
                if not task.done():
                    with contextlib.suppress(BaseException):  # as its last words
                        task.get_coro().close()
            process.tasks.clear()
            process.deferred.clear()
        self._processes.clear()
        self._nobodys_tasks.clear()
        self._abandoned.clear()
