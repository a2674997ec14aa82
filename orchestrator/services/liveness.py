"""Who is alive: sessions by their signs of life, attempts by their heartbeats, queued attempts by their poll deadline.

Kept in the leader's memory only. A new leader gives every session, lease and deadline a fresh full timeout: nobody
is declared lost for a silence that was the cluster's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from orchestrator.engine.commands import AnyCommand, DeadlineKind, ExpireDeadline, ExpireSession
from orchestrator.engine.effects import AnyEffect, Deliver, LeaseEnded, SessionEnded, TaskQueued
from orchestrator.engine.model import SessionKind
from orchestrator.engine.state import State
from orchestrator.services.ports import CurrentMachine, Submit

SCAN_SECONDS = 0.2

_Key = TypeVar("_Key", int, str)


class _Deadline:
    __slots__ = ("at", "timeout_seconds")

    def __init__(self, timeout_ms: int, now: float) -> None:
        self.timeout_seconds = timeout_ms / 1000
        self.at = now + self.timeout_seconds

    def refresh(self, now: float) -> None:
        self.at = now + self.timeout_seconds


class Liveness:
    """Deadlines of sessions, leases and queued attempts, and the proposals that follow when they pass."""

    def __init__(self, submit: Submit, machine: CurrentMachine, monotonic: Callable[[], float]) -> None:
        self._submit = submit
        self._machine = machine
        self._monotonic = monotonic
        self._sessions: dict[str, _Deadline] = {}
        self._leases: dict[int, _Deadline] = {}
        self._polls: dict[int, _Deadline] = {}

    def session_seen(self, session_id: str) -> None:
        """A sign of life of the session's worker."""
        deadline = self._sessions.get(session_id)
        if deadline is not None:
            deadline.refresh(self._monotonic())
            return
        session = self._state().sessions.get((session_id,))
        if session is not None and session.kind is SessionKind.STREAM:
            self._sessions[session_id] = _Deadline(session.timeout_ms, self._monotonic())

    def attempt_seen(self, token: int) -> None:
        """A sign of life of one attempt."""
        deadline = self._leases.get(token)
        if deadline is not None:
            deadline.refresh(self._monotonic())

    def attempts_seen(self, session_id: str) -> None:
        """A sign of life of every attempt that the session holds."""
        for token in self._state().leases_of.get(session_id, ()):
            self.attempt_seen(token)

    def perform(self, effect: AnyEffect) -> None:
        """Begins and ends deadlines as leases and queued attempts come and go."""
        match effect:
            case Deliver(token=token):
                self._watch_lease(token)
            case LeaseEnded(token=token):
                self._leases.pop(token, None)
            case SessionEnded(session_id=session_id):
                self._sessions.pop(session_id, None)
            case TaskQueued(number=number, poll_timeout_ms=timeout_ms) if timeout_ms:
                self._polls[number] = _Deadline(timeout_ms, self._monotonic())
            case _:
                pass

    def begin(self, owed: Iterable[AnyEffect]) -> None:
        """This node leads now: everything starts with a full timeout."""
        self._sessions.clear()
        self._leases.clear()
        self._polls.clear()
        for session in self._state().sessions.values():
            self.session_seen(session.id)
        for effect in owed:
            self.perform(effect)

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        while True:
            await asyncio.sleep(SCAN_SECONDS)
            expired = self._expired()
            if expired:
                await asyncio.gather(*(self._submit(command) for command in expired))

    def _expired(self) -> list[AnyCommand]:
        now = self._monotonic()
        state = self._state()
        for number in [number for number in self._polls if (number,) not in state.ready]:
            del self._polls[number]
        commands: list[AnyCommand] = [ExpireSession(key) for key in _take_passed(self._sessions, now)]
        commands += [ExpireDeadline(DeadlineKind.RESPONSE, token) for token in _take_passed(self._leases, now)]
        commands += [ExpireDeadline(DeadlineKind.POLL, number) for number in _take_passed(self._polls, now)]
        return commands

    def _watch_lease(self, token: int) -> None:
        lease = self._state().leases.get((token,))
        if lease is not None and lease.response_timeout_ms:
            self._leases[token] = _Deadline(lease.response_timeout_ms, self._monotonic())

    def _state(self) -> State:
        return self._machine().state


def _take_passed(deadlines: dict[_Key, _Deadline], now: float) -> list[_Key]:
    passed = [key for key, deadline in deadlines.items() if deadline.at <= now]
    for key in passed:
        del deadlines[key]
    return passed
