"""Which endpoint of a service is next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

# An endpoint that could not be reached is tried after the others for so long.
DOWN_SECONDS = 5.0


class Rotation:
    """Round robin; those that were down lately come last."""

    def __init__(self, endpoints: Sequence[str], monotonic: Callable[[], float]) -> None:
        self._endpoints = tuple(endpoints)
        self._monotonic = monotonic
        self._turn = 0
        self._down_until: dict[str, float] = {}

    def next(self, tried: Mapping[str, int]) -> str:
        """`tried`: how often each was, by whoever asks."""
        now, count = self._monotonic(), len(self._endpoints)
        order = [(self._turn + place) % count for place in range(count)]

        def burden(place: int) -> tuple[int, bool]:
            endpoint = self._endpoints[place]
            return tried.get(endpoint, 0), self._down_until.get(endpoint, now) > now

        chosen = min(order, key=burden)
        self._turn = (chosen + 1) % count
        return self._endpoints[chosen]

    def down(self, endpoint: str) -> None:
        self._down_until[endpoint] = self._monotonic() + DOWN_SECONDS

    def up(self, endpoint: str) -> None:
        self._down_until.pop(endpoint, None)
