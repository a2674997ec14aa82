"""What one client may take: requests per second, and streams at once. A client is a principal, or an address.

A bucket of tokens for each: it holds `burst` of them and fills at the rate. Completions and heartbeats take none.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

# The longest unused buckets are forgotten: they are full again by then.
_BUCKETS_MAX = 10_000


@dataclass(frozen=True)
class ClientLimits:
    """0 is no limit."""

    requests_per_second: int = 0
    burst: int = 0
    streams_max: int = 0

    @property
    def are_any(self) -> bool:
        return self.requests_per_second > 0 or self.streams_max > 0


class Rate:
    """Buckets by client."""

    def __init__(self, per_second: float, burst: float, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = max(burst, 1.0)
        self._monotonic = monotonic
        self._buckets: OrderedDict[Hashable, list[float]] = OrderedDict()

    def take(self, client: Hashable) -> float:
        """0 if there was a token; else in how many seconds there is one."""
        if self._per_second <= 0:
            return 0.0
        left = self._left(client)
        if left >= 1.0:
            self._buckets[client][0] = left - 1.0
            return 0.0
        return (1.0 - left) / self._per_second

    def is_empty(self, client: Hashable) -> bool:
        return self._per_second > 0 and client in self._buckets and self._left(client) < 1.0

    def _left(self, client: Hashable) -> float:
        """How many tokens there are now, which is noted."""
        now = self._monotonic()
        bucket = self._buckets.get(client)
        if bucket is None:
            self._buckets[client] = [self._burst, now]
            if len(self._buckets) > _BUCKETS_MAX:
                self._buckets.popitem(last=False)
            return self._burst
        left, noted = bucket
        left = min(self._burst, left + (now - noted) * self._per_second)
        bucket[0], bucket[1] = left, now
        self._buckets.move_to_end(client)
        return left


class Streams:
    """How many each client has open."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[Hashable] = Counter()

    def open(self, client: Hashable) -> bool:
        """False if it has as many as it may have; else `close` has to follow."""
        if self._most and self._open[client] >= self._most:
            return False
        self._open[client] += 1
        return True

    def close(self, client: Hashable) -> None:
        self._open[client] -= 1
        if self._open[client] <= 0:
            del self._open[client]
