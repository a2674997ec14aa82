"""Carries a session: one stream to the leader, attempts executed side by side, results said until they are judged.

A change of the leader only moves the stream: running attempts go on. When the session itself is lost the server has
ended its attempts, so they are cancelled here too. What executes them is handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Protocol, cast

import grpc
import grpc.aio

from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_client.attempts import Attempt, Events, State, WorkerSession
from orchestrator_client.connection import Connection
from orchestrator_client.retry import CallRetry
from orchestrator_client.runner import failed
from orchestrator_client.silence import Silence
from orchestrator_client.status import Failure, Kind, failure_of

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

Beat = Callable[[Payload | None], None]
"""Takes the heartbeats of one attempt, from any thread."""


class Executor(Protocol):
    """Does the work of attempts."""

    def execute(self, attempt: Attempt, beat: Beat) -> Coroutine[Any, Any, pb.TaskResult]:
        """The attempt's result. What else than CancelledError it raises fails the attempt."""

    def cancel(self, attempt: Attempt, running: asyncio.Task[pb.TaskResult]) -> None:
        """The attempt is not wanted any more: `running` may be cancelled."""


class WorkLoop:
    """One session from `run` to its end."""

    def __init__(
        self,
        connection: Connection,
        hello: pb.WorkHello,
        executor: Executor,
        *,
        drain_timeout_s: float | None = None,
        make_session_id: Callable[[], str] | None = None,
    ) -> None:
        self._connection = connection
        self._executor = executor
        self._drain_timeout_s = drain_timeout_s
        self.worker_id = hello.worker_id
        self._session = WorkerSession(hello, make_session_id)
        self._running: dict[asyncio.Task[pb.TaskResult], Attempt] = {}
        self._wake = asyncio.Event()
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()
        self._started = False
        self._says_goodbye = False
        self._heartbeat_s = TICK_S
        self._retry: CallRetry | None = None
        # When the present stream was; None if it has not been.
        self._welcomed_at: float | None = None
        self._serving: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """How many attempts are being executed."""
        return len(self._running)

    @property
    def held(self) -> int:
        """How many attempts are being executed, or have a result that the leader has not judged."""
        return len(self._session.attempts)

    @property
    def is_connected(self) -> bool:
        """Whether there is a session now."""
        return self._connected.is_set()

    @property
    def session(self) -> WorkerSession | None:
        """The session while there is one, for who wants to look at it."""
        return self._session if self.is_connected else None

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._session.draining

    async def connected(self) -> None:
        """Returns once there is a session (again)."""
        await self._connected.wait()

    async def run(self) -> None:
        """Works until it is told to stop, once; raises if the cluster refuses the session for good."""
        self._started = True
        # Apart, because cancelling a read would end the stream before the goodbye is said.
        self._serving = serving = asyncio.ensure_future(self._serve())
        try:
            await asyncio.wait({serving})
            if not serving.cancelled():  # it is, if the goodbye took too long
                serving.result()
        except asyncio.CancelledError:
            if self._connected.is_set():
                self.leave()
                await asyncio.wait({serving})
            raise
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            self._ended.set()
            self._connected.clear()
            for task, attempt in list(self._running.items()):
                self._executor.cancel(attempt, task)
                task.cancel()

    async def stop(self, timeout_s: float | None = None) -> None:
        """Takes nothing new, finishes what runs (for at most `timeout_s`), and returns when `run` does."""
        self.drain(timeout_s)
        if self._started:
            await self._ended.wait()

    def drain(self, timeout_s: float | None = None) -> None:
        """Takes nothing new and lets `run` end when the running attempts have; does not wait."""
        timeout_s = self._drain_timeout_s if timeout_s is None else timeout_s
        if timeout_s is not None:
            asyncio.get_running_loop().call_later(timeout_s, self.leave)
        if not self._session.draining:
            self._session.drain()
            self._progress()

    def leave(self) -> None:
        """Says goodbye now: what still runs is handed out again."""
        if not self._says_goodbye and self._serving is not None:
            # Whatever the server does, leaving ends.
            asyncio.get_running_loop().call_later(2 * GOODBYE_S, self._serving.cancel)
        self._says_goodbye = True
        self._wake.set()

    def abort(self) -> None:
        """Ends at once without a goodbye: the session lives on until its timeout."""
        if self._serving is not None:
            self._serving.cancel()

    def hand_back(self) -> None:
        """Stops what runs, for another worker to take: nobody will know how far it came here."""
        for running, attempt in list(self._running.items()):
            if attempt.state is State.RUNNING:
                attempt.state = State.CANCELLED
                self._executor.cancel(attempt, running)

    async def _serve(self) -> None:
        connection = self._connection
        while not self._is_done():
            address = connection.finder.current
            failure = await self._stream(address)
            self._connected.clear()
            if self._is_done():
                return
            # A stream that ends as soon as it is welcomed, or never is, must not be reopened in a tight loop.
            has_lasted = self._welcomed_at is not None and connection.now() - self._welcomed_at > STABLE_S
            if self._retry is None or has_lasted:
                self._retry = CallRetry(deadline=float("inf"), identified=True, mutating=False, rng=connection.rng)
            self._welcomed_at = None
            if failure.kind is Kind.FINAL and failure.code in _SERVERS_FAULT:
                failure = replace(failure, kind=Kind.UNREACHABLE)
            elif failure.code is grpc.StatusCode.NOT_FOUND and self._session.session_id:
                failure = replace(failure, kind=Kind.SESSION_EXPIRED)
            if failure.kind is Kind.UNREACHABLE:
                connection.complain(address)
            decision = await connection.recover(address, failure, self._retry)
            if decision.new_session:
                self._cancel(self._session.forget())
            level = logging.WARNING if failure.kind is Kind.TOKEN_REFUSED else logging.DEBUG
            _logger.log(level, "worker %s reconnects: %s", self.worker_id, failure.message)

    def _is_done(self) -> bool:
        idle = self._session.draining and not self._session.attempts
        return self._says_goodbye or (idle and not self._connected.is_set())

    async def _stream(self, address: str) -> Failure:
        """Serves one stream to its end; answers why it ended."""
        stream = self._connection.node(address).workers.Work()
        silence = Silence(lambda: self._connection.check(address), PATIENCE_S, self._connection.now)
        silence.listen()
        receiving = asyncio.ensure_future(self._receive(address, stream, silence))
        try:
            either: set[asyncio.Future[Any]] = {receiving, silence.broken}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                return receiving.result()
            return Failure(Kind.UNREACHABLE, grpc.StatusCode.UNAVAILABLE, f"{address} is silent")
        finally:
            silence.end()
            receiving.cancel()
            cast(Any, stream).cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self, address: str, stream: Any, silence: Silence) -> Failure:
        helpers: list[asyncio.Task[None]] = []
        try:
            with contextlib.suppress(asyncio.InvalidStateError):  # it is over already; reading says why
                await stream.write(pb.WorkRequest(hello=self._session.hello()))
            while True:
                answer = await stream.read()
                silence.heard()
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
        except grpc.aio.AioRpcError as error:
            return failure_of(error)
        except (grpc.aio.UsageError, grpc.aio.InternalError) as error:
            return Failure(Kind.UNREACHABLE, grpc.StatusCode.UNAVAILABLE, str(error))
        finally:
            for helper in helpers:
                helper.cancel()

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
        loop = asyncio.get_running_loop()

        def beat(details: Payload | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
                loop.call_soon_threadsafe(self._session.beat, attempt, details)

        running = loop.create_task(
            self._executor.execute(attempt, beat), name=f"{given.workflow_id} {given.reference}"
        )
        self._running[running] = attempt
        running.add_done_callback(self._finished)

    def _finished(self, running: asyncio.Task[pb.TaskResult]) -> None:
        attempt = self._running.pop(running)
        error = None if running.cancelled() else running.exception()
        if error is not None:
            reason = f"{type(error).__name__}: {error}"
            _logger.error("what executes %s broke", attempt.assignment.reference, exc_info=error)
            told = failed(attempt.assignment, reason, type(error).__name__, outcome_unknown=True)
            self._session.finish(attempt, told)
        elif not running.cancelled():
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
        for running, attempt in list(self._running.items()):
            if attempt.key in cancelled:
                self._executor.cancel(attempt, running)

    def _progress(self) -> None:
        """There may be something to say, and draining may have come to its end."""
        if self._session.draining and not self._session.attempts:
            if self._session.drained or not self._connected.is_set():
                self.leave()
            elif self._idle is None:
                # The leader may have leased something before it knew, and says so at once if it is there at all.
                self._idle = asyncio.get_running_loop().call_later(GOODBYE_S, self._leave_if_idle)
        self._wake.set()

    def _leave_if_idle(self) -> None:
        self._idle = None
        if not self._session.attempts:
            self.leave()

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


def _as_failure(told: pb.WorkGoAway, by: str) -> Failure:
    if told.leader_address == by:
        # The session has ended, or another stream carries it: this is still the node to go to.
        return Failure(Kind.OUTCOME_UNKNOWN, grpc.StatusCode.UNAVAILABLE, told.reason)
    metadata = {"leader_address": told.leader_address} if told.leader_address else {}
    return Failure(Kind.NOT_LEADER, grpc.StatusCode.UNAVAILABLE, told.reason, "NOT_LEADER", metadata)
