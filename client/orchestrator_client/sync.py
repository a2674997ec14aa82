"""The blocking face: the same client and worker, whose coroutines run on an event loop in a thread of their own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from orchestrator_client.client import Client
from orchestrator_client.conductor import Conductor
from orchestrator_client.events import Events
from orchestrator_client.running import loop_factory
from orchestrator_client.runs import Run
from orchestrator_client.schedules import Schedules
from orchestrator_client.schemas import Schemas
from orchestrator_client.secrets import Secrets
from orchestrator_client.tasks import Task
from orchestrator_client.worker import Worker

P = ParamSpec("P")
T = TypeVar("T")
Inner = TypeVar("Inner")


class LoopThread:
    """An event loop in a daemon thread, to which blocking callers hand coroutines."""

    def __init__(self) -> None:
        self._loop = loop_factory()()
        self._thread = threading.Thread(target=self._loop.run_forever, name="orchestrator-client", daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a blocking call inside the client's own event loop would wait for itself")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            # KeyboardInterrupt, above all: what nobody waits for any more should not go on.
            future.cancel()
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> T:
            return await anext(items)

        try:
            while True:
                try:
                    item = self.call(following())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                self.call(close())

    def stop(self) -> None:
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Blocking(Generic[Inner]):
    """Something asynchronous, and the loop that it lives on."""

    def __init__(self, inner: Inner, thread: LoopThread) -> None:
        self.inner = inner
        self._thread = thread


def _blocking(
    method: Callable[Concatenate[Inner, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Blocking[Inner], P], T]:
    def call(self: _Blocking[Inner], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.call(method(self.inner, *args, **kwargs))

    _name_after(call, method)
    return call


def _iterating(
    method: Callable[Concatenate[Inner, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Blocking[Inner], P], Iterator[T]]:
    def call(self: _Blocking[Inner], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._thread.iterate(method(self.inner, *args, **kwargs))

    _name_after(call, method)
    return call


def _starting(
    method: Callable[Concatenate[Inner, P], Coroutine[Any, Any, Run]],
) -> Callable[Concatenate[_Blocking[Inner], P], SyncRun]:
    def call(self: _Blocking[Inner], /, *args: P.args, **kwargs: P.kwargs) -> SyncRun:
        return SyncRun(self._thread.call(method(self.inner, *args, **kwargs)), self._thread)

    _name_after(call, method)
    return call


def _name_after(call: Callable[..., Any], method: Callable[..., Any]) -> None:
    call.__name__, call.__qualname__ = method.__name__, f"Sync{method.__qualname__}"
    call.__doc__ = method.__doc__


class SyncRun(_Blocking[Run]):
    """A `Run` whose methods block."""

    get = _blocking(Run.get)
    wait = _blocking(Run.wait)
    result = _blocking(Run.result)
    watch = _iterating(Run.watch)
    signal = _blocking(Run.signal)
    pause = _blocking(Run.pause)
    resume = _blocking(Run.resume)
    terminate = _blocking(Run.terminate)
    retry = _blocking(Run.retry)
    restart = _blocking(Run.restart)
    rerun = _blocking(Run.rerun)
    skip = _blocking(Run.skip)
    retry_compensation = _blocking(Run.retry_compensation)
    skip_compensation = _blocking(Run.skip_compensation)
    abandon_compensation = _blocking(Run.abandon_compensation)

    @property
    def workflow_id(self) -> str:
        return self.inner.workflow_id

    @property
    def existing(self) -> bool:
        return self.inner.existing


class SyncSchedules(_Blocking[Schedules]):
    """`Schedules` whose methods block."""

    put = _blocking(Schedules.put)
    get = _blocking(Schedules.get)
    list = _iterating(Schedules.list)
    delete = _blocking(Schedules.delete)
    pause = _blocking(Schedules.pause)
    resume = _blocking(Schedules.resume)
    pause_all = _blocking(Schedules.pause_all)
    resume_all = _blocking(Schedules.resume_all)
    all_paused = _blocking(Schedules.all_paused)
    run = _blocking(Schedules.run)
    runs = _blocking(Schedules.runs)
    fire_times = _blocking(Schedules.fire_times)


class SyncEvents(_Blocking[Events]):
    """`Events` whose methods block."""

    publish = _blocking(Events.publish)
    put_handler = _blocking(Events.put_handler)
    handler = _blocking(Events.handler)
    handlers = _iterating(Events.handlers)
    delete_handler = _blocking(Events.delete_handler)
    runs = _iterating(Events.runs)
    pending = _iterating(Events.pending)
    trail = _iterating(Events.trail)
    streams = _blocking(Events.streams)


class SyncSchemas(_Blocking[Schemas]):
    """`Schemas` whose methods block."""

    register = _blocking(Schemas.register)
    register_records = _blocking(Schemas.register_records)
    get = _blocking(Schemas.get)
    list = _iterating(Schemas.list)
    delete = _blocking(Schemas.delete)


class SyncSecrets(_Blocking[Secrets]):
    """`Secrets` whose methods block."""

    put = _blocking(Secrets.put)
    get = _blocking(Secrets.get)
    list = _iterating(Secrets.list)
    delete = _blocking(Secrets.delete)
    rotate = _blocking(Secrets.rotate)


class SyncConductor(_Blocking[Conductor]):
    """`Conductor` whose methods block."""

    get = _blocking(Conductor.get)
    tasks = _iterating(Conductor.tasks)
    search = _iterating(Conductor.search)
    search_tasks = _iterating(Conductor.search_tasks)
    test = _blocking(Conductor.test)
    execute = _blocking(Conductor.execute)
    wait_blocked = _blocking(Conductor.wait_blocked)
    signal = _blocking(Conductor.signal)


class SyncClient(_Blocking[Client]):
    """A `Client` whose methods block; takes the same arguments. Threads may share it."""

    register = _blocking(Client.register)
    validate = _blocking(Client.validate)
    workflow_definition = _blocking(Client.workflow_definition)
    task_definition = _blocking(Client.task_definition)
    workflow_definitions = _iterating(Client.workflow_definitions)
    task_definitions = _iterating(Client.task_definitions)
    delete_workflow_definition = _blocking(Client.delete_workflow_definition)
    delete_task_definition = _blocking(Client.delete_task_definition)
    register_service = _blocking(Client.register_service)
    service = _blocking(Client.service)
    services = _iterating(Client.services)
    delete_service = _blocking(Client.delete_service)
    test_workflow = _blocking(Client.test_workflow)
    test_document = _blocking(Client.test_document)
    start = _starting(Client.start)
    start_and_wait = _blocking(Client.start_and_wait)
    execute = _blocking(Client.execute)
    wait_blocked = _blocking(Client.wait_blocked)
    signal_task = _blocking(Client.signal_task)
    get = _blocking(Client.get)
    wait = _blocking(Client.wait)
    watch = _iterating(Client.watch)
    search = _iterating(Client.search)
    search_tasks = _iterating(Client.search_tasks)
    count = _blocking(Client.count)
    count_tasks = _blocking(Client.count_tasks)
    signal = _blocking(Client.signal)
    pause = _blocking(Client.pause)
    resume = _blocking(Client.resume)
    terminate = _blocking(Client.terminate)
    retry = _blocking(Client.retry)
    restart = _blocking(Client.restart)
    rerun = _blocking(Client.rerun)
    skip_task = _blocking(Client.skip_task)
    explain = _blocking(Client.explain)
    timing = _blocking(Client.timing)
    push_message = _blocking(Client.push_message)
    migrate = _blocking(Client.migrate)
    retry_compensation = _blocking(Client.retry_compensation)
    skip_compensation = _blocking(Client.skip_compensation)
    abandon_compensation = _blocking(Client.abandon_compensation)
    delete = _blocking(Client.delete)
    operate = _blocking(Client.operate)
    update_variables = _blocking(Client.update_variables)
    update_task = _blocking(Client.update_task)
    task_logs = _blocking(Client.task_logs)
    add_task_logs = _blocking(Client.add_task_logs)
    retention = _blocking(Client.retention)
    set_retention = _blocking(Client.set_retention)
    task_queues = _blocking(Client.task_queues)
    status = _blocking(Client.status)
    leader = _blocking(Client.leader)

    def __init__(self, endpoints: str | Iterable[str], **options: Any) -> None:
        thread = LoopThread()

        async def make() -> Client:
            return Client(endpoints, **options)

        try:
            super().__init__(thread.call(make()), thread)
        except BaseException:
            thread.stop()
            raise
        self.schedules = SyncSchedules(self.inner.schedules, thread)
        self.events = SyncEvents(self.inner.events, thread)
        self.conductor = SyncConductor(self.inner.conductor, thread)
        self.schemas = SyncSchemas(self.inner.schemas, thread)
        self.secrets = SyncSecrets(self.inner.secrets, thread)

    def run(self, workflow_id: str, *, output: type | None = None) -> SyncRun:
        """A handle of an execution that was started elsewhere; `output` is the type of its result."""
        return SyncRun(self.inner.run(workflow_id, output=output), self._thread)

    def close(self) -> None:
        """Closes the channels and ends the thread; calls under way are cancelled."""
        try:
            self._thread.call(self.inner.close())
        finally:
            self._thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SyncWorker:
    """A `Worker` that runs on its client's loop; takes the same arguments.

    `run` blocks until the worker has been stopped; Ctrl-C drains. `start` and `stop` are for a worker beside other
    work. Signals are left alone otherwise: call `stop` from your own handler.
    """

    def __init__(self, client: SyncClient, tasks: Iterable[Task[..., Any]], **options: Any) -> None:
        self._thread = client._thread

        async def make() -> Worker:
            return Worker(client.inner, tasks, **{**options, "handle_signals": False})

        self.inner = self._thread.call(make())
        self._running: concurrent.futures.Future[None] | None = None

    def start(self) -> None:
        """Returns once the worker has its session."""
        self._running = self._thread.submit(self.inner.run())
        ready = self._thread.submit(self.inner.connected())
        concurrent.futures.wait((self._running, ready), return_when=concurrent.futures.FIRST_COMPLETED)
        if self._running.done():
            ready.cancel()
            self._running.result()

    def run(self) -> None:
        """Works until it is stopped; raises if the cluster refuses the worker for good."""
        self._running = self._thread.submit(self.inner.run())
        try:
            self._running.result()
        except KeyboardInterrupt:
            self.stop()

    def stop(self, timeout_s: float | None = None) -> None:
        """Takes nothing new, finishes what runs (for at most `timeout_s`), and returns then."""
        self._thread.call(self.inner.stop(timeout_s))
        if self._running is not None:
            self._running.result()
