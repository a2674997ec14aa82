"""The worker: executes a program's tasks for the cluster until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_client import tracing
from orchestrator_client.attempts import Attempt, Key, WorkerSession
from orchestrator_client.client import Client
from orchestrator_client.context import TaskContext
from orchestrator_client.runner import failed, make_context, run_attempt
from orchestrator_client.tasks import Task
from orchestrator_client.work_loop import Beat, WorkLoop

_logger = logging.getLogger("orchestrator_client.worker")


class Worker:
    """Executes these tasks (their compensations included), `slots` at once.

    `domain`, `execution_namespace` and `isolation_group` say in which queues it looks for them; the last two are for
    tasks whose own options say nothing of it, as where definitions were registered by others.

    `run` goes on until `stop`, SIGTERM or SIGINT: then nothing new is taken, what runs is finished (for at most
    `drain_timeout_s`; None is for as long as it takes), and the worker says goodbye. A second signal stops at once.
    """

    def __init__(
        self,
        client: Client,
        tasks: Iterable[Task[..., Any]],
        *,
        slots: int = 32,
        domain: str | None = None,
        execution_namespace: str | None = None,
        isolation_group: str | None = None,
        worker_id: str | None = None,
        session_timeout_ms: int = 10_000,
        drain_timeout_s: float | None = None,
        handle_signals: bool = True,
        make_session_id: Callable[[], str] | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"a worker needs at least one slot, not {slots}")
        found = _by_queue(tasks, execution_namespace, isolation_group)
        self._handle_signals = handle_signals
        self._started = False
        self.worker_id = worker_id or f"{socket.gethostname()}:{os.getpid()}"
        hello = pb.WorkHello(
            namespace=client.connection.namespace,
            worker_id=self.worker_id,
            task_names=sorted(found),
            domain=domain or "",
            slots=slots,
            session_timeout_ms=session_timeout_ms,
        )
        # Threads of cancelled functions that do not look at `ctx.cancelled` still occupy their slots, so this many do.
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="orchestrator-task")
        executor = _Functions(found, self._threads)
        self._loop = WorkLoop(
            client.connection, hello, executor, drain_timeout_s=drain_timeout_s, make_session_id=make_session_id
        )

    @property
    def running(self) -> int:
        """How many attempts are being executed."""
        return self._loop.running

    @property
    def session(self) -> WorkerSession | None:
        """What the worker holds, while it is connected."""
        return self._loop.session

    async def connected(self) -> None:
        """Returns once the worker has a session (again)."""
        await self._loop.connected()

    async def run(self) -> None:
        """Works until it is told to stop; raises if the cluster refuses the worker for good."""
        if self._started:
            raise RuntimeError("a worker runs once")
        self._started = True
        with self._signals():
            try:
                await self._loop.run()
            finally:
                self._threads.shutdown(wait=False, cancel_futures=True)

    async def stop(self, timeout_s: float | None = None) -> None:
        """Takes nothing new, finishes what runs (for at most `timeout_s`), and returns when `run` does."""
        await self._loop.stop(timeout_s)

    def drain(self, timeout_s: float | None = None) -> None:
        """Takes nothing new and lets `run` end when the running attempts have; does not wait."""
        self._loop.drain(timeout_s)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT drain; the second one stops at once."""
        if not self._handle_signals or threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        installed = []
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError):
                loop.add_signal_handler(number, self._on_signal)
                installed.append(number)
        try:
            yield
        finally:
            for number in installed:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self._loop.draining:
            self._loop.leave()
        else:
            _logger.info("worker %s drains %d attempts", self.worker_id, self.running)
            self.drain()


class _Functions:
    """Executes attempts by calling functions: on the event loop if they are async, else each in a thread."""

    def __init__(self, tasks: dict[str, Task[..., Any]], threads: ThreadPoolExecutor) -> None:
        self._tasks = tasks
        self._threads = threads
        self._contexts: dict[Key, TaskContext] = {}

    async def execute(self, attempt: Attempt, beat: Beat) -> pb.TaskResult:
        given = attempt.assignment
        task = self._tasks.get(_queue_of(given))
        if task is None:
            return failed(given, f"this worker has no task {given.name!r}", "NO_SUCH_TASK")
        attempt.beats_itself = task.options.response_timeout_ms is not None
        context = self._contexts[attempt.key] = make_context(given, beat, attempt.logged.add)
        try:
            with tracing.processing(given) as traced:
                result = await run_attempt(task, given, context, self._threads)
                traced.ended(result)
                return result
        finally:
            del self._contexts[attempt.key]

    def cancel(self, attempt: Attempt, running: asyncio.Task[pb.TaskResult]) -> None:
        context = self._contexts.get(attempt.key)
        if context is not None:
            context.cancelled.set()
        # A thread can't be stopped from outside; its function is asked through the context.
        if context is None or self._tasks[_queue_of(attempt.assignment)].is_async:
            running.cancel()


def _queue_of(assignment: pb.Assignment) -> str:
    return assignment.queue or assignment.name


def _by_queue(
    tasks: Iterable[Task[..., Any]], execution_namespace: str | None, isolation_group: str | None
) -> dict[str, Task[..., Any]]:
    found: dict[str, Task[..., Any]] = {}
    for task in tasks:
        for each in (task, task.compensator):
            if each is None:
                continue
            queue = each.queue(execution_namespace, isolation_group)
            if found.setdefault(queue, each) is not each:
                raise ValueError(f"two different tasks are named {queue!r}")
            _ = each.signature  # wrong annotations are better found now than by the first attempt
    if not found:
        raise ValueError("a worker needs a task")
    return found
