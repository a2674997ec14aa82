"""Who is alive: sessions by their signs of life, attempts by their heartbeats, queued attempts by their poll deadline.

Kept in the leader's memory only. A new leader gives every session, lease and deadline a fresh full timeout: nobody
is declared lost for a silence that was the cluster's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Iterator
from heapq import heappop, heappush
from typing import Generic, TypeVar

from orchestrator.engine.choices import DeadlineKind
from orchestrator.engine.commands import AnyCommand, ExpireDeadline, ExpireSession
from orchestrator.engine.effects import AnyEffect, Deliver, LeaseEnded, SessionEnded, TaskQueued
from orchestrator.engine.model import SessionKind
from orchestrator.engine.state import State
from orchestrator.services.ports import CurrentMachine, Performs, Submit, perform

SCAN_SECONDS = 0.2
# What has passed and is still there, because its proposal was lost or refused, is proposed again after this.
REPEAT_SECONDS = 2.0
_SLACK = 1_000

_Key = TypeVar("_Key", bound=int | str)


class Liveness:
    """Deadlines of sessions, leases and queued attempts, and the proposals that follow when they pass."""

    def __init__(self, submit: Submit, machine: CurrentMachine, monotonic: Callable[[], float]) -> None:
        self._submit = submit
        self._machine = machine
        self._monotonic = monotonic
        self._sessions: _Deadlines[str] = _Deadlines()
        self._leases: _Deadlines[int] = _Deadlines()
        self._polls: _Deadlines[int] = _Deadlines()
        self.performs: Performs = {
            Deliver: self._delivered,
            LeaseEnded: self._lease_ended,
            SessionEnded: self._session_ended,
            TaskQueued: self._queued,
        }

    def session_seen(self, session_id: str) -> None:
        """A sign of life of the session's worker."""
        if not self._sessions.refresh(session_id, self._monotonic()):
            self._watch_session(session_id)

    def attempt_seen(self, token: int) -> None:
        """A sign of life of one attempt."""
        self._leases.refresh(token, self._monotonic())

    def attempts_seen(self, session_id: str) -> None:
        """A sign of life of every attempt that the session holds."""
        for token in self._state().leases_of.get(session_id, ()):
            self.attempt_seen(token)

    def perform(self, effect: AnyEffect) -> None:
        """Begins and ends deadlines as leases and queued attempts come and go."""
        perform(self, effect)

    def begin(self, owed: Iterable[AnyEffect]) -> None:
        """This node leads now: everything starts with a full timeout."""
        self._sessions, self._leases, self._polls = _Deadlines(), _Deadlines(), _Deadlines()
        self._watch_sessions()
        for effect in owed:
            self.perform(effect)

    async def run(self) -> None:
        """Runs until cancelled, or until a proposal finds that this node leads no longer."""
        while True:
            await asyncio.sleep(SCAN_SECONDS)
            expired = self.expired()
            if expired:
                await asyncio.gather(*(self._submit(command) for command in expired))

    def expired(self) -> list[AnyCommand]:
        """What is to be proposed now; again after a while, for as long as it has not come true."""
        now = self._monotonic()
        state = self._state()
        # Also those whose worker went away before its stream was served.
        self._watch_sessions()
        if len(self._polls) > 2 * len(state.ready) + _SLACK:
            self._polls.keep(lambda number: (number,) in state.ready)
        commands: list[AnyCommand] = [
            ExpireSession(session_id) for session_id in self._sessions.passed(now, lambda key: (key,) in state.sessions)
        ]
        for token in self._leases.passed(now, self._is_awaited):
            commands.append(ExpireDeadline(DeadlineKind.RESPONSE, token))
        for number in self._polls.passed(now, lambda key: (key,) in state.ready):
            commands.append(ExpireDeadline(DeadlineKind.POLL, number))
        return commands

    def next_deadline(self, sessions: Container[str], tokens: Container[int]) -> float | None:
        """When the first of all deadlines passes, but for those of sessions and attempts that go on giving signs."""
        state = self._state()
        found = [
            *(one.at for one in self._sessions if one.key not in sessions and (one.key,) in state.sessions),
            *(one.at for one in self._leases if one.key not in tokens and self._is_awaited(one.key)),
            *(one.at for one in self._polls if (one.key,) in state.ready),
        ]
        return min(found, default=None)

    def _delivered(self, effect: Deliver) -> None:
        self._watch_lease(effect.token)

    def _lease_ended(self, effect: LeaseEnded) -> None:
        self._leases.drop(effect.token)

    def _session_ended(self, effect: SessionEnded) -> None:
        self._sessions.drop(effect.session_id)

    def _queued(self, effect: TaskQueued) -> None:
        if effect.poll_timeout_ms:
            self._polls.add(effect.number, effect.poll_timeout_ms, self._monotonic())

    def _is_awaited(self, token: int) -> bool:
        lease = self._state().leases.get((token,))
        return lease is not None and not lease.fenced

    def _watch_sessions(self) -> None:
        for session in self._state().sessions.values():
            if session.id not in self._sessions:
                self._watch_session(session.id)

    def _watch_session(self, session_id: str) -> None:
        session = self._state().sessions.get((session_id,))
        if session is not None and session.kind is SessionKind.STREAM:
            self._sessions.add(session_id, session.timeout_ms, self._monotonic())

    def _watch_lease(self, token: int) -> None:
        lease = self._state().leases.get((token,))
        if lease is not None and lease.response_timeout_ms:
            self._leases.add(token, lease.response_timeout_ms, self._monotonic())

    def _state(self) -> State:
        return self._machine().state


class _Deadline(Generic[_Key]):
    __slots__ = ("at", "key", "timeout_seconds")

    def __init__(self, key: _Key, timeout_seconds: float, at: float) -> None:
        self.key = key
        self.timeout_seconds = timeout_seconds
        self.at = at


class _Deadlines(Generic[_Key]):
    """Deadlines by key; the heap is corrected when one that was moved comes to its top."""

    def __init__(self) -> None:
        self._by_key: dict[_Key, _Deadline[_Key]] = {}
        self._heap: list[tuple[float, int, _Deadline[_Key]]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[_Deadline[_Key]]:
        return iter(self._by_key.values())

    def __contains__(self, key: _Key) -> bool:
        return key in self._by_key

    def add(self, key: _Key, timeout_ms: int, now: float) -> None:
        deadline = _Deadline(key, timeout_ms / 1000, now + timeout_ms / 1000)
        self._by_key[key] = deadline
        if len(self._heap) > 2 * len(self._by_key) + _SLACK:
            self._make_heap()
        else:
            self._push(deadline)

    def refresh(self, key: _Key, now: float) -> bool:
        """Starts the timeout anew; False if there is no such deadline."""
        deadline = self._by_key.get(key)
        if deadline is None:
            return False
        deadline.at = now + deadline.timeout_seconds
        return True

    def drop(self, key: _Key) -> None:
        self._by_key.pop(key, None)

    def keep(self, wanted: Callable[[_Key], bool]) -> None:
        self._by_key = {key: deadline for key, deadline in self._by_key.items() if wanted(key)}
        self._make_heap()

    def passed(self, now: float, is_there: Callable[[_Key], bool]) -> list[_Key]:
        """The keys whose deadline has passed; they are asked for again later. What is there no longer is dropped."""
        found: list[_Key] = []
        while self._heap and self._heap[0][0] <= now:
            _, _, deadline = heappop(self._heap)
            if self._by_key.get(deadline.key) is not deadline:
                continue
            if deadline.at <= now:
                if not is_there(deadline.key):
                    del self._by_key[deadline.key]
                    continue
                found.append(deadline.key)
                deadline.at = now + min(deadline.timeout_seconds, REPEAT_SECONDS)
            self._push(deadline)
        return found

    def _make_heap(self) -> None:
        self._heap = []
        for deadline in self._by_key.values():
            self._push(deadline)

    def _push(self, deadline: _Deadline[_Key]) -> None:
        self._pushed += 1
        heappush(self._heap, (deadline.at, self._pushed, deadline))
