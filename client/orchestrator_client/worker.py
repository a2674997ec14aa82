"""The worker: one stream to the leader, attempts executed side by side, results said until they are judged.

A change of the leader only moves the stream: running attempts go on. When the session itself is lost the server has
ended its attempts, so they are cancelled here too.
"""

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
from dataclasses import replace
from functools import partial
from typing import Any, cast

import grpc
import grpc.aio

from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_client.attempts import Attempt, Events, State, WorkerSession
from orchestrator_client.client import Client
from orchestrator_client.context import TaskContext
from orchestrator_client.retry import CallRetry
from orchestrator_client.runner import failed, make_context, run_attempt
from orchestrator_client.status import Failure, Kind
from orchestrator_client.tasks import Task

# How long the stream may be silent before its node is asked for a sign of life.
PATIENCE_S = 1.0
# Heartbeats of tasks are gathered for this long.
TICK_S = 0.5
# A stream that has lasted this long starts anew with its delays when it breaks.
STABLE_S = 1.0
# How long a goodbye may take.
GOODBYE_S = 1.0

# A worker outlives these: another leader, or the next version of the server, may do better.
_SERVERS_FAULT = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)

_logger = logging.getLogger("orchestrator_client.worker")


class Worker:
    """Executes these tasks (their compensations included), `slots` at once.

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
        worker_id: str | None = None,
        session_timeout_ms: int = 10_000,
        drain_timeout_s: float | None = None,
        handle_signals: bool = True,
    ) -> None:
        if slots < 1:
            raise ValueError(f"a worker needs at least one slot, not {slots}")
        self._tasks = _by_name(tasks)
        self._connection = client.connection
        self._drain_timeout_s = drain_timeout_s
        self._handle_signals = handle_signals
        self.worker_id = worker_id or f"{socket.gethostname()}:{os.getpid()}"
        self._session = WorkerSession(
            pb.WorkHello(
                namespace=client.connection.namespace,
                worker_id=self.worker_id,
                task_names=sorted(self._tasks),
                domain=domain or "",
                slots=slots,
                session_timeout_ms=session_timeout_ms,
            )
        )
        # Threads of cancelled functions that do not look at `ctx.cancelled` still occupy their slots, so this many do.
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="orchestrator-task")
        self._running: dict[asyncio.Task[pb.TaskResult], tuple[Attempt, TaskContext]] = {}
        self._wake = asyncio.Event()
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()
        self._started = False
        self._says_goodbye = False
        self._heartbeat_s = TICK_S
        self._retry: CallRetry | None = None
        self._welcomed_at = 0.0
        self._serving: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """How many attempts are being executed."""
        return len(self._running)

    async def connected(self) -> None:
        """Returns once the worker has a session (again)."""
        await self._connected.wait()

    async def run(self) -> None:
        """Works until it is told to stop; raises if the cluster refuses the worker for good."""
        if self._started:
            raise RuntimeError("a worker runs once")
        self._started = True
        with self._signals():
            # Apart, because cancelling a read would end the stream before the goodbye is said.
            self._serving = serving = asyncio.ensure_future(self._serve())
            try:
                await asyncio.wait({serving})
                if not serving.cancelled():  # it is, if the goodbye took too long
                    serving.result()
            except asyncio.CancelledError:
                if self._connected.is_set():
                    self._leave()
                    await asyncio.wait({serving})
                raise
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
                self._ended.set()
                self._connected.clear()
                for task, (_, context) in list(self._running.items()):
                    context.cancelled.set()
                    task.cancel()
                self._threads.shutdown(wait=False, cancel_futures=True)

    async def stop(self, timeout_s: float | None = None) -> None:
        """Takes nothing new, finishes what runs (for at most `timeout_s`), and returns when `run` does."""
        self.drain(timeout_s)
        if self._started:
            await self._ended.wait()

    def drain(self, timeout_s: float | None = None) -> None:
        """Takes nothing new and lets `run` end when the running attempts have; does not wait."""
        timeout_s = self._drain_timeout_s if timeout_s is None else timeout_s
        if timeout_s is not None:
            asyncio.get_running_loop().call_later(timeout_s, self._leave)
        if not self._session.draining:
            self._session.drain()
            self._progress()

    async def _serve(self) -> None:
        connection = self._connection
        while not self._is_done():
            address = connection.finder.current
            failure = await self._stream(address)
            self._connected.clear()
            if self._is_done():
                return
            # A stream that ends as soon as it is welcomed must not be reopened in a tight loop.
            if self._retry is None or connection.now() - self._welcomed_at > STABLE_S:
                self._retry = CallRetry(deadline=float("inf"), identified=True, mutating=False, rng=connection.rng)
            if failure.kind is Kind.FINAL and failure.code in _SERVERS_FAULT:
                failure = replace(failure, kind=Kind.UNREACHABLE)
            elif failure.code is grpc.StatusCode.NOT_FOUND and self._session.session_id:
                failure = replace(failure, kind=Kind.SESSION_EXPIRED)
            decision = await connection.recover(address, failure, self._retry)
            if decision.new_session:
                self._cancel(self._session.forget())
            _logger.debug("worker %s reconnects: %s", self.worker_id, failure.message)

    def _is_done(self) -> bool:
        idle = self._session.draining and not self._session.attempts
        return self._says_goodbye or (idle and not self._connected.is_set())

    async def _stream(self, address: str) -> Failure:
        """Serves one stream to its end; answers why it ended."""
        stream = self._connection.node(address).workers.Work()
        helpers: list[asyncio.Task[None]] = []
        try:
            hello = pb.WorkRequest(hello=self._session.hello())
            read: Callable[[], Any] = partial(_write_and_read, stream, hello)
            while True:
                answer = await self._connection.watchful(address, read, PATIENCE_S)
                read = stream.read
                if isinstance(answer, Failure):
                    return answer
                if not isinstance(answer, pb.WorkResponse):
                    return Failure(Kind.UNREACHABLE, grpc.StatusCode.UNAVAILABLE, "the stream ended")
                events = self._session.receive(answer)
                if events.stale:
                    if answer.HasField("welcome"):
                        return Failure(Kind.UNREACHABLE, grpc.StatusCode.UNAVAILABLE, f"{address} led an earlier term")
                    continue
                if events.go_away is not None:
                    return _as_failure(events.go_away, address)
                self._take_up(events)
                if events.welcome is not None and not helpers:
                    helpers = [asyncio.ensure_future(self._send(stream)), asyncio.ensure_future(self._tick())]
        finally:
            for helper in helpers:
                helper.cancel()
            cast(Any, stream).cancel()

    def _take_up(self, events: Events) -> None:
        if events.welcome is not None:
            self._heartbeat_s = max(events.welcome.heartbeat_interval_ms / 1000, 0.05)
            self._welcomed_at = self._connection.now()
            self._connected.set()
            self._wake.set()
            if events.cancel:
                _logger.warning("worker %s lost its session: %d attempts end", self.worker_id, len(events.cancel))
        for attempt in events.start:
            self._start(attempt)
        self._cancel(events.cancel)
        for attempt, verdict in events.verdicts:
            if verdict.verdict != pb.VERDICT_ACCEPTED:
                _logger.warning(
                    "result of %s in %s does not count: %s %s",
                    attempt.assignment.reference,
                    attempt.assignment.workflow_id,
                    pb.Verdict.Name(verdict.verdict),
                    verdict.message,
                )
        self._progress()

    def _start(self, attempt: Attempt) -> None:
        given = attempt.assignment
        task = self._tasks.get(given.name)
        if task is None:
            self._session.finish(attempt, failed(given, f"this worker has no task {given.name!r}", "NO_SUCH_TASK"))
            return
        attempt.beats_itself = task.options.response_timeout_ms is not None
        loop = asyncio.get_running_loop()

        def beat(details: Payload | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
                loop.call_soon_threadsafe(self._session.beat, attempt, details)

        context = make_context(given, beat)
        running = loop.create_task(
            run_attempt(task, given, context, self._threads), name=f"{given.workflow_id} {given.reference}"
        )
        self._running[running] = (attempt, context)
        running.add_done_callback(self._finished)

    def _finished(self, running: asyncio.Task[pb.TaskResult]) -> None:
        attempt, _ = self._running.pop(running)
        if not running.cancelled():
            self._session.finish(attempt, running.result())
        elif attempt.state is State.CANCELLED or self._ended.is_set():
            self._session.stopped(attempt)
        else:
            reason = "CancelledError: the task cancelled itself"
            self._session.finish(attempt, failed(attempt.assignment, reason, "CancelledError"))
        self._progress()

    def _cancel(self, attempts: Iterable[Attempt]) -> None:
        cancelled = {attempt.key for attempt in attempts}
        if not cancelled:
            return
        for running, (attempt, context) in list(self._running.items()):
            if attempt.key in cancelled:
                context.cancelled.set()
                # A thread can't be stopped from outside; its function is asked through the context.
                if self._tasks[attempt.assignment.name].is_async:
                    running.cancel()

    def _progress(self) -> None:
        """There may be something to say, and draining may have come to its end."""
        if self._session.draining and not self._session.attempts:
            if self._session.drained or not self._connected.is_set():
                self._leave()
            elif self._idle is None:
                # The leader may have leased something before it knew, and says so at once if it is there at all.
                self._idle = asyncio.get_running_loop().call_later(GOODBYE_S, self._leave_if_idle)
        self._wake.set()

    def _leave_if_idle(self) -> None:
        self._idle = None
        if not self._session.attempts:
            self._leave()

    def _leave(self) -> None:
        if not self._says_goodbye and self._serving is not None:
            # Whatever the server does, leaving ends.
            asyncio.get_running_loop().call_later(2 * GOODBYE_S, self._serving.cancel)
        self._says_goodbye = True
        self._wake.set()

    async def _send(self, stream: Any) -> None:
        """Writes what there is to say; what comes up while a frame is being written goes into the next one."""
        loop = asyncio.get_running_loop()
        beat_at = loop.time()
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            while True:
                self._wake.clear()
                for frame in self._session.outgoing():
                    await stream.write(frame)
                if self._says_goodbye:
                    await stream.write(pb.WorkRequest(goodbye=pb.WorkGoodbye()))
                    await stream.done_writing()
                    # The server ends the stream when it has noted the goodbye.
                    loop.call_later(GOODBYE_S, cast(Any, stream).cancel)
                    return
                if loop.time() >= beat_at:
                    await stream.write(pb.WorkRequest(heartbeat=self._session.heartbeat()))
                    beat_at = loop.time() + self._heartbeat_s
                await self._wake.wait()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(min(TICK_S, self._heartbeat_s / 2))
            self._session.tick()
            self._wake.set()

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
        if self._session.draining:
            self._leave()
        else:
            _logger.info("worker %s drains %d attempts", self.worker_id, self.running)
            self.drain()


def _by_name(tasks: Iterable[Task[..., Any]]) -> dict[str, Task[..., Any]]:
    found: dict[str, Task[..., Any]] = {}
    for task in tasks:
        for each in (task, task.compensator):
            if each is None:
                continue
            if found.setdefault(each.name, each) is not each:
                raise ValueError(f"two different tasks are named {each.name!r}")
            _ = each.signature  # wrong annotations are better found now than by the first attempt
    if not found:
        raise ValueError("a worker needs a task")
    return found


def _as_failure(told: pb.WorkGoAway, by: str) -> Failure:
    if told.leader_address == by:
        # The session has ended, or another stream carries it: this is still the node to go to.
        return Failure(Kind.OUTCOME_UNKNOWN, grpc.StatusCode.UNAVAILABLE, told.reason)
    metadata = {"leader_address": told.leader_address} if told.leader_address else {}
    return Failure(Kind.NOT_LEADER, grpc.StatusCode.UNAVAILABLE, told.reason, "NOT_LEADER", metadata)


async def _write_and_read(stream: Any, frame: pb.WorkRequest) -> Any:
    with contextlib.suppress(asyncio.InvalidStateError):  # it is over already; reading says why
        await stream.write(frame)
    return await stream.read()
