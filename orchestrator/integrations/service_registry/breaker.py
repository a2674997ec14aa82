"""A circuit breaker: a service that fails again and again is left alone for a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from orchestrator.engine.services import CircuitBreaker


class Circuit(Enum):
    CLOSED = "closed"  # calls are made
    OPEN = "open"  # none is
    HALF_OPEN = "half open"  # a few are, to see


class Breaker:
    """One service's. Of calls that ended without saying anything of the service (`healthy` is None), nothing counts."""

    def __init__(
        self,
        rule: CircuitBreaker,
        monotonic: Callable[[], float],
        on_change: Callable[[Circuit], None] = lambda circuit: None,
    ) -> None:
        self._rule = rule
        self._monotonic = monotonic
        self._on_change = on_change
        self._circuit = Circuit.CLOSED
        self._failed_at: deque[float] = deque(maxlen=rule.failures)
        self._opened_at = 0.0
        # Grows with each change, so that a call that began before it has no say after it.
        self._generation = 0
        self._let_through = 0
        self._succeeded = 0

    @property
    def circuit(self) -> Circuit:
        return self._circuit

    @property
    def open_for_s(self) -> float:
        """How long it stays open; 0 if it is not."""
        if self._circuit is not Circuit.OPEN:
            return 0.0
        return max(0.0, self._opened_at + self._rule.open_ms / 1000 - self._monotonic())

    def admit(self) -> int | None:
        """A number to tell `finished`, or None: the call must not be made."""
        if self._circuit is Circuit.OPEN and self.open_for_s == 0:
            self._become(Circuit.HALF_OPEN)
        if self._circuit is Circuit.OPEN:
            return None
        if self._circuit is Circuit.HALF_OPEN:
            if self._let_through >= self._rule.half_open_calls:
                return None
            self._let_through += 1
        return self._generation

    def finished(self, admitted: int, healthy: bool | None) -> None:
        """How an admitted call went."""
        if admitted != self._generation:
            return
        if self._circuit is Circuit.HALF_OPEN:
            self._tried(healthy)
        elif healthy is False:
            self._failed()

    def _tried(self, healthy: bool | None) -> None:
        if healthy is None:
            self._let_through -= 1
        elif not healthy:
            self._become(Circuit.OPEN)
        else:
            self._succeeded += 1
            if self._succeeded >= self._rule.half_open_calls:
                self._become(Circuit.CLOSED)

    def _failed(self) -> None:
        now = self._monotonic()
        self._failed_at.append(now)
        if len(self._failed_at) == self._rule.failures and now - self._failed_at[0] <= self._rule.window_ms / 1000:
            self._become(Circuit.OPEN)

    def _become(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._generation += 1
        self._opened_at = self._monotonic()
        self._let_through = self._succeeded = 0
        self._failed_at.clear()
        self._on_change(circuit)
