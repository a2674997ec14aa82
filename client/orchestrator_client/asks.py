"""One stream to one node, on which many callers ask: what they ask in one turn of the loop shares a message.

Here is only the I/O, and what becomes of asks whose stream ends; whether they are asked again is for `Connection`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import Any

import grpc
import grpc.aio

from orchestrator_api.v1 import asks_pb2 as pb
from orchestrator_api.v1 import workflows_pb2
from orchestrator_client.silence import Check, Silence
from orchestrator_client.status import Failure, Kind, failure_of, failure_of_status

ASKS_PER_FRAME = 1_000
BYTES_PER_FRAME = 1 << 20
# How long the node may be silent while something is asked before it is asked for a sign of life.
PATIENCE_S = 0.3
_SLACK = 1_000

Answer = workflows_pb2.StartWorkflowResponse | workflows_pb2.Workflow


class Asked:
    """One ask on its way."""

    __slots__ = ("ask", "future", "is_sent", "mutating", "number", "on_accepted", "started", "wait_s")

    def __init__(self, ask: pb.Ask, *, mutating: bool, wait_s: float) -> None:
        self.ask = ask
        self.number = 0
        self.future: asyncio.Future[Answer | Failure] = asyncio.get_running_loop().create_future()
        self.mutating = mutating
        # Of an outcome: once it has started, its last answer may take so long.
        self.wait_s = wait_s
        self.is_sent = False
        # Of a start: called once, when it is known that it was not refused.
        self.on_accepted: Callable[[], None] | None = None
        # Told of what is waited for: it need not be started again.
        self.started: workflows_pb2.StartWorkflowResponse | None = None


class AskStream:
    """From the first ask to the end of the stream, which fails what is not answered; then there is another one."""

    def __init__(self, call: Any, address: str, now: Callable[[], float], check: Check) -> None:
        self._call = call
        self._address = address
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._unsent: deque[Asked] = deque()
        self._cancels: list[int] = []
        # Everything without its last answer.
        self._open: dict[int, Asked] = {}
        self._sent = 0  # of these
        self._asks_max = ASKS_PER_FRAME
        self._is_welcome = False
        self._wake = asyncio.Event()
        self.is_over = False
        self._silence = Silence(check, PATIENCE_S, now, lambda: bool(self._open))
        self._silence.broken.add_done_callback(self._on_silence)
        # When an ask is given up: (when, number).
        self._due: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._spawn(self._converse())

    @property
    def is_idle(self) -> bool:
        """Nothing is waited for."""
        return not self._open

    async def answer(self, asked: Asked, timeout_s: float) -> Answer | Failure:
        """The last answer. It is a failure that none came within the time, unless it has started by then."""
        self._put(asked, timeout_s)
        try:
            return await asked.future
        except asyncio.CancelledError:
            self._give_up(asked)
            raise

    def _put(self, asked: Asked, timeout_s: float) -> None:
        if not self._open:
            self._silence.listen()
        asked.number = asked.ask.number = next(self._numbers)
        asked.is_sent = False
        self._open[asked.number] = asked
        self._unsent.append(asked)
        self._remind(self._now() + timeout_s, asked.number)
        self._wake.set()

    def _give_up(self, asked: Asked) -> None:
        """Nobody waits for it any more."""
        if self._open.pop(asked.number, None) is not None and asked.is_sent:
            self._sent -= 1
            self._cancels.append(asked.number)
            self._wake.set()

    def end(self, failure: Failure) -> None:
        """The stream is of no use any more."""
        if self.is_over:
            return
        self.is_over = True
        self._silence.end()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._call.cancel()
        asks, self._open = self._open, {}
        for asked in asks.values():
            if not asked.future.done():
                asked.future.set_result(self._failure_for(asked, failure))

    async def close(self) -> None:
        """What is asked is cancelled."""
        asks = list(self._open.values())
        self._open.clear()
        self.end(Failure(Kind.UNREACHABLE, grpc.StatusCode.CANCELLED, "the client is closed"))
        for asked in asks:
            asked.future.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _failure_for(self, asked: Asked, failure: Failure) -> Failure:
        """A node that leads no longer may have done what it was sent to do; for all else it only names another one."""
        was_let_in = self._is_welcome and asked.mutating and asked.is_sent
        if failure.kind in (Kind.TOKEN_REFUSED, Kind.OVERLOADED) and was_let_in:
            # The token has expired since, or this client has not taken its answers.
            return replace(failure, kind=Kind.OUTCOME_UNKNOWN)
        if failure.kind is Kind.OUTCOME_UNKNOWN and not (asked.mutating and asked.is_sent):
            return replace(failure, kind=Kind.NOT_LEADER)
        return failure if asked.is_sent else replace(failure, sent=False)

    # The stream.

    async def _converse(self) -> None:
        try:
            await self._call.write(pb.AskRequest(hello=pb.AskHello()))
            self._spawn(self._write())
            while True:
                frame = await self._call.read()
                if not isinstance(frame, pb.AskResponse):
                    break
                self._silence.heard()
                kind = frame.WhichOneof("frame")
                if kind == "answers":
                    self._take(frame.answers)
                elif kind == "welcome":
                    self._is_welcome = True
                    self._asks_max = frame.welcome.asks_max or ASKS_PER_FRAME
                    self._wake.set()
        except grpc.aio.AioRpcError as error:
            self.end(_of_stream(failure_of(error)))
            return
        except (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError) as error:
            self.end(Failure(Kind.UNREACHABLE, grpc.StatusCode.UNAVAILABLE, str(error)))
            return
        self.end(Failure(Kind.UNREACHABLE, grpc.StatusCode.UNAVAILABLE, "the stream ended"))

    async def _write(self) -> None:
        """What comes up while a frame is being written goes into the next one."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while (frame := self._next_frame()) is not None:
                    await self._call.write(frame)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            return  # it is over, and reading says why

    def _next_frame(self) -> pb.AskRequest | None:
        if self._cancels:
            numbers, self._cancels = self._cancels, []
            return pb.AskRequest(cancels=pb.AskCancels(numbers=numbers))
        asks: list[pb.Ask] = []
        size = 0
        while self._unsent and self._sent < self._asks_max and len(asks) < ASKS_PER_FRAME:
            asked = self._unsent[0]
            more = _size(asked.ask)
            if asks and size + more > BYTES_PER_FRAME:
                # A large one has a frame of its own.
                break
            self._unsent.popleft()
            if asked.number not in self._open:
                continue
            asked.is_sent = True
            self._sent += 1
            asks.append(asked.ask)
            size += more
        if not asks:
            return None
        frame = pb.AskRequest()
        frame.asks.asks.extend(asks)  # a frame made of messages in messages copies each twice
        return frame

    def _take(self, answers: pb.Answers) -> None:
        had_no_room = self._sent >= self._asks_max
        for answer in answers.answers:
            asked = self._open.get(answer.number)
            if asked is None:
                continue
            kind = answer.WhichOneof("answer")
            if kind != "refused" and asked.on_accepted is not None:
                asked.on_accepted()
                asked.on_accepted = None
            if kind == "started" and asked.wait_s:
                asked.started = answer.started
                continue
            del self._open[answer.number]
            self._sent -= 1
            if not asked.future.done():
                asked.future.set_result(_read(answer, kind))
        if had_no_room and self._unsent:
            self._wake.set()

    def _on_silence(self, broken: asyncio.Future[None]) -> None:
        if not broken.cancelled():
            self.end(Failure(Kind.UNREACHABLE, grpc.StatusCode.UNAVAILABLE, f"{self._address} is silent"))

    # Silence and deadlines.

    def _remind(self, when: float, number: int) -> None:
        if len(self._due) > 2 * len(self._open) + _SLACK:
            self._due = [due for due in self._due if due[1] in self._open]
            heapify(self._due)
        heappush(self._due, (when, number))
        if self._timer is None or when < self._armed_for:
            self._arm(when)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        self._timer = self._loop.call_later(max(when - self._now(), 0.0), self._pass)

    def _pass(self) -> None:
        self._timer = None
        now = self._now()
        while self._due and self._due[0][0] <= now:
            _, number = heappop(self._due)
            asked = self._open.get(number)
            if asked is None:
                continue
            if asked.started is not None and asked.wait_s > 0:
                # It was given up if it did not start in time; now it is if it does not end.
                heappush(self._due, (now + asked.wait_s, number))
                asked.wait_s = -1.0
                continue
            self._give_up(asked)
            if not asked.future.done():
                message = f"{self._address} did not answer in time"
                failure = Failure(Kind.UNREACHABLE, grpc.StatusCode.DEADLINE_EXCEEDED, message, sent=asked.is_sent)
                asked.future.set_result(failure)
        if self._due:
            self._arm(self._due[0][0])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _of_stream(failure: Failure) -> Failure:
    """A write to a connection that has just broken may be told in these words."""
    broke = failure.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and not failure.reason
    return replace(failure, kind=Kind.UNREACHABLE) if broke else failure


def _read(answer: pb.Answer, kind: str | None) -> Answer | Failure:
    if kind == "started":
        return answer.started
    if kind == "workflow":
        return answer.workflow
    return failure_of_status(answer.refused)


def _size(ask: pb.Ask) -> int:
    """About."""
    kind = ask.WhichOneof("ask")
    if kind == "wait":
        return 100
    start = ask.outcome.start if kind == "outcome" else ask.start
    return 300 + len(start.input.inline) + len(start.definition_json)
