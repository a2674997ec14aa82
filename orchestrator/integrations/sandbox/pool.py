"""A few evaluator processes: started when they are needed, replaced when one has ended or must be ended."""

from __future__ import annotations

import asyncio
import logging
import signal

from orchestrator.integrations.sandbox.process import (
    EvaluatorEnded,
    EvaluatorFailed,
    EvaluatorGarbled,
    EvaluatorProcess,
)
from orchestrator.integrations.sandbox.protocol import Answer, AnyRequest, Ask, Limits, Verdict

logger = logging.getLogger(__name__)

# What an evaluation is asked to be done again for: nothing in it leads to these, so someone else has sent them.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT})
_OVERRUN = frozenset({signal.SIGPROF, signal.SIGALRM, signal.SIGXCPU})
_ATTEMPTS = 2  # evaluations have no effects: done again is done once


class Pool:
    """At most `size` processes; further requests wait in turn, at most `waiting_max` of them."""

    def __init__(self, limits: Limits, size: int, waiting_max: int) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(size)
        self._waiting = 0
        self._waiting_max = waiting_max
        self._idle: list[EvaluatorProcess] = []  # the last one used is on top: what is not needed is never started
        self._alive: set[EvaluatorProcess] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False
        self.started_total = 0

    @property
    def pids(self) -> list[int]:
        """The processes that there are now."""
        return [process.pid for process in self._alive]

    async def ask(self, request: AnyRequest, time_ms: int) -> Answer:
        """Never raises but CancelledError, which ends the process that is at work on it."""
        if self._places.locked() and self._waiting >= self._waiting_max:
            return Answer(Verdict.UNAVAILABLE, message=f"{self._waiting} evaluations wait already")
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._ask(Ask(request, time_ms))
        except EvaluatorFailed as error:
            if not self._closed:
                logger.warning("%s", error)
            return Answer(Verdict.UNAVAILABLE, message=str(error))
        finally:
            self._places.release()

    async def close(self) -> None:
        """Returns when no process is left. What is being evaluated is UNAVAILABLE, and so is all that follows."""
        self._closed = True
        for process in list(self._alive):
            self._discard(process)
        while self._ending:
            await asyncio.wait(self._ending)

    async def _ask(self, ask: Ask) -> Answer:
        status = 0
        for _ in range(_ATTEMPTS):
            process = await self._take()
            try:
                reply = await process.ask(ask)
            except TimeoutError:
                self._discard(process)
                return _too_slow(ask)
            except EvaluatorGarbled as error:
                self._discard(process)
                logger.warning("an evaluator was broken by what it evaluated: %s", error)
                return Answer(Verdict.CRASHED, message="it has broken its evaluator")
            except EvaluatorEnded as ended:
                self._discard(process)
                status = ended.status
                if -status not in _FROM_OUTSIDE:
                    return self._explained(ask, status)
            except BaseException:
                self._discard(process)
                raise
            else:
                self._give_back(process, retired=reply.retired)
                return reply.answer
        return Answer(Verdict.UNAVAILABLE, message=f"the evaluator was ended from outside ({_name(status)})")

    async def _take(self) -> EvaluatorProcess:
        while self._idle:
            process = self._idle.pop()
            if not process.has_ended:
                return process
            self._discard(process)
        if self._closed:
            raise EvaluatorFailed("the node is stopping")
        process = EvaluatorProcess(self._limits)
        self._alive.add(process)
        self.started_total += 1
        try:
            ready = await process.ready()
        except BaseException:
            self._discard(process)
            raise
        logger.debug("evaluator process %d is ready: %s, seccomp: %s", process.pid, ready.versions, ready.seccomp)
        return process

    def _give_back(self, process: EvaluatorProcess, *, retired: bool) -> None:
        if retired or process not in self._alive:
            self._discard(process)
        else:
            self._idle.append(process)

    def _discard(self, process: EvaluatorProcess) -> None:
        if process in self._alive:
            self._alive.remove(process)
            process.kill()
            task = asyncio.create_task(self._end(process))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, process: EvaluatorProcess) -> None:
        await process.ended()

    def _explained(self, ask: Ask, status: int) -> Answer:
        if -status in _OVERRUN:
            return _too_slow(ask)
        logger.warning("an evaluator was brought down by what it evaluated: %s", _name(status))
        most = self._limits.memory_bytes
        message = f"it has ended its evaluator ({_name(status)}): most likely it needs more than {most} bytes of memory"
        return Answer(Verdict.CRASHED, message=message)


def _too_slow(ask: Ask) -> Answer:
    return Answer(Verdict.TIME, message=f"it took longer than {ask.time_ms} ms")


def _name(status: int) -> str:
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"status {status}"
