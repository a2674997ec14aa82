"""Delivers leased attempts, cancellations and go-aways to worker streams.

The leases are the truth: a stream that attaches gets every attempt its session holds and the worker does not, so
nothing is lost when a leader dies between the lease and its delivery, and nothing is leased twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.engine.effects import AnyEffect, Cancel, Deliver, SessionEnded
from orchestrator.engine.pending import effects_owed_to
from orchestrator.engine.resident import Lease
from orchestrator.services.ports import CurrentMachine, Performs, perform


class WorkerStream(Protocol):
    """One connected worker. Calls never wait: what can't be sent at once is queued by the stream."""

    def deliver(self, lease: Lease) -> None: ...

    def cancel(self, effect: Cancel) -> None: ...

    def go_away(self, reason: str) -> None: ...


class Dispatcher:
    """Which stream speaks for which session."""

    def __init__(self, machine: CurrentMachine, session_seen: Callable[[str], None]) -> None:
        self._machine = machine
        self._session_seen = session_seen
        self._streams: dict[str, WorkerStream] = {}
        self._generation = 0
        self.performs: Performs = {
            Deliver: self._hand_over,
            Cancel: self._cancel,
            SessionEnded: self._session_ended,
        }

    @property
    def stream_count(self) -> int:
        """Connected workers."""
        return len(self._streams)

    def next_generation(self) -> int:
        """Grows with each stream of this leader: workers ignore frames of lower ones."""
        self._generation += 1
        return self._generation

    def attach(self, session_id: str, stream: WorkerStream, held: set[int]) -> None:
        """The stream speaks for the session from now on: it gets what the session is owed and does not hold."""
        before = self._streams.get(session_id)
        if before is not None:
            before.go_away("another stream of the same session has taken over")
        self._streams[session_id] = stream
        self._session_seen(session_id)
        state = self._machine().state
        for effect in effects_owed_to(state, session_id):
            if isinstance(effect, Deliver):
                if effect.token not in held:
                    self._deliver(stream, effect)
            elif isinstance(effect, Cancel):
                stream.cancel(effect)

    def detach(self, session_id: str, stream: WorkerStream) -> None:
        """The stream has ended; the session lives on until its timeout."""
        if self._streams.get(session_id) is stream:
            del self._streams[session_id]

    def perform(self, effect: AnyEffect) -> None:
        """Sends what the effect says to the stream it concerns, if that is connected here."""
        perform(self, effect)

    def end(self, reason: str) -> None:
        """This node leads no longer: all streams go elsewhere."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.go_away(reason)

    def _hand_over(self, effect: Deliver) -> None:
        stream = self._streams.get(effect.session_id)
        if stream is not None:
            self._deliver(stream, effect)

    def _cancel(self, effect: Cancel) -> None:
        stream = self._streams.get(effect.session_id)
        if stream is not None:
            stream.cancel(effect)

    def _session_ended(self, effect: SessionEnded) -> None:
        stream = self._streams.pop(effect.session_id, None)
        if stream is not None:
            stream.go_away(f"the session has ended: {effect.reason}")

    def _deliver(self, stream: WorkerStream, effect: Deliver) -> None:
        lease = self._machine().state.leases.get((effect.token,))
        if lease is not None and not lease.fenced:
            stream.deliver(lease)
