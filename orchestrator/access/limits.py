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


class Bucket:
    """Of one client."""

    __slots__ = ("_burst", "_left", "_monotonic", "_noted", "_per_second")

    def __init__(self, per_second: float, burst: float, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = self._left = max(burst, 1.0)
        self._monotonic = monotonic
        self._noted = monotonic()

    def take(self) -> float:
        """0 if there was a token; else in how many seconds there is one."""
        left = self.left()
        if left >= 1.0:
            self._left = left - 1.0
            return 0.0
        return (1.0 - left) / self._per_second

    def left(self) -> float:
        """How many tokens there are now."""
        now = self._monotonic()
        left = self._left + (now - self._noted) * self._per_second
        self._left = left = min(left, self._burst)
        self._noted = now
        return left


class Rate:
    """Buckets by client. `per_second` is above 0."""

    def __init__(self, per_second: float, burst: float, monotonic: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._monotonic = monotonic
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def bucket(self, client: Hashable) -> Bucket:
        """The client's, to take from it again and again."""
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = Bucket(self._per_second, self._burst, self._monotonic)
            if len(self._buckets) > _BUCKETS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(client)
        return bucket

    def take(self, client: Hashable) -> float:
        """As of the client's bucket."""
        return self.bucket(client).take()

    def is_empty(self, client: Hashable) -> bool:
        return client in self._buckets and self._buckets[client].left() < 1.0


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
