"""The numbers by which the cluster recognises a repeated request. No I/O."""

from __future__ import annotations

import heapq

from orchestrator_api.v1.common_pb2 import RequestIdentity

# How far a session's numbers may run ahead of its oldest open request. The cluster remembers a bounded number of
# results for each session, and refuses further requests rather than forget one.
WINDOW = 512


class RequestLedger:
    """The requests of one client session: each has a number, and the lowest one still awaited is told along."""

    def __init__(self, session_id: str, idle_timeout_s: float, now: float) -> None:
        self.session_id = session_id
        self._idle_timeout_s = idle_timeout_s
        self._used = now
        self._next = 1
        # Numbers without a final answer; the heap keeps answered ones until they come to its top.
        self._open: set[int] = set()
        self._heap: list[int] = []

    def begin(self, now: float) -> int:
        """The number of a new request."""
        sequence = self._next
        self._next += 1
        self._used = now
        self._open.add(sequence)
        heapq.heappush(self._heap, sequence)
        return sequence

    def finish(self, sequence: int) -> None:
        """The request has its final answer, or nobody will ask for it again."""
        self._open.discard(sequence)
        while self._heap and self._heap[0] not in self._open:
            heapq.heappop(self._heap)

    def identify(self, request: RequestIdentity, sequence: int) -> None:
        """Writes who repeats it into a request."""
        session = request.session
        session.id = self.session_id
        session.sequence = sequence
        session.lowest_unacknowledged = self._heap[0] if self._heap else self._next

    def has_room(self) -> bool:
        """Whether a further request may begin; another session has to take it otherwise."""
        return not self._heap or self._next - self._heap[0] < WINDOW

    def rested(self, seconds: float) -> None:
        """So much time has passed without a request, and `now` does not show it: virtual time was passed over."""
        self._used -= seconds

    def is_stale(self, now: float) -> bool:
        """Whether the cluster may have forgotten the session for want of use; no request is under way then."""
        return not self._open and now - self._used > 0.8 * self._idle_timeout_s


class Ticket:
    """A request's place in a client session, the same through all its attempts."""

    def __init__(self, ledger: RequestLedger, now: float) -> None:
        self.ledger = ledger
        self.sequence = ledger.begin(now)

    def identify(self, request: RequestIdentity) -> None:
        """Writes who repeats it into a request."""
        self.ledger.identify(request, self.sequence)

    def close(self) -> None:
        self.ledger.finish(self.sequence)
