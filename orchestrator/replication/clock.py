"""Log time: advances by the leader's monotonic clock, drawn gently towards the median of the members' wall clocks.

A wall clock that jumps neither fires every timer nor stops the world: it moves log time by at most `SLEW_PER_CENT`
of the time that really passed. Only after a stop of the whole cluster, when nobody's monotonic clock reaches back to
the last entry, log time jumps forward, to the median, and only once a majority of the members has told its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from orchestrator.replication.ports import Clock

SLEW_PER_CENT = 5


def lower_median(values: Iterable[int]) -> int:
    """The middle value; of an even number the lower one, so that one wild clock of two can't drag time forward."""
    ordered = sorted(values)
    return ordered[(len(ordered) - 1) // 2]


class LogClock:
    """Gives the time of the next entry. One per node; followers keep it in step by `observe`."""

    def __init__(
        self, clock: Clock, peer_offsets: Callable[[], dict[str, int]], voices_min: int | Callable[[], int] = 1
    ) -> None:
        self._clock = clock
        self._peer_offsets = peer_offsets
        # Log time jumps forward only on the word of so many wall clocks, this node's included.
        self._voices_min = voices_min
        self._time_ms = 0
        self._at = clock.monotonic()
        self._live = False  # whether the newest time was seen as it was given, not in replay
        self._carry = 0.0

    def observe(self, time_ms: int, *, live: bool) -> None:
        """An entry with this time was applied; `live` unless it was replayed from the journal at start."""
        if time_ms > self._time_ms:
            self._time_ms = time_ms
            self._at = self._clock.monotonic()
            self._carry = 0.0
        self._live = self._live or live

    @property
    def voices(self) -> int:
        """How many wall clocks the median is of, this node's included."""
        return 1 + len(self._peer_offsets())

    def median_wall_ms(self) -> int:
        """The lower median of the members' wall clocks, this node's included."""
        own = self._clock.wall_ms()
        return lower_median([own, *(own + offset for offset in self._peer_offsets().values())])

    def skew_ms(self) -> int:
        """How far this node's wall clock is from the median."""
        return self._clock.wall_ms() - self.median_wall_ms()

    def skews_ms(self) -> dict[str, int]:
        """How far the wall clock of each connected peer is from the median."""
        skew_ms = self.skew_ms()
        return {name: skew_ms + offset_ms for name, offset_ms in self._peer_offsets().items()}

    def peers_within_ms(self, limit_ms: float) -> set[str]:
        """Peers whose wall clocks are no further from the median."""
        return {name for name, skew_ms in self.skews_ms().items() if abs(skew_ms) <= limit_ms}

    def peek_ms(self) -> int:
        """What `next_ms` would give now; never less than any answer before."""
        # Slewed step by step: a wall clock that jumps now has no say in the time that has passed until now.
        self._advance()
        return self._time_ms

    def next_ms(self) -> int:
        """The time for an entry that is appended now."""
        self._advance()
        self._live = self._live or self._enough_voices()
        return self._time_ms

    def _enough_voices(self) -> bool:
        needed = self._voices_min if isinstance(self._voices_min, int) else self._voices_min()
        return self.voices >= needed

    def _advance(self) -> None:
        now = self._clock.monotonic()
        passed = (now - self._at) * 1000
        median = self.median_wall_ms()
        limit = passed * SLEW_PER_CENT / 100
        behind = median - self._time_ms - passed - self._carry
        # Kept apart from the time itself, whose float would have no room left for microseconds.
        moved = max(0.0, self._carry + passed + max(-limit, min(limit, behind)))
        self._at = now
        if not self._live and behind > 0 and self._enough_voices():
            self._time_ms, self._carry = median, 0.0
            return
        self._time_ms += int(moved)
        self._carry = moved - int(moved)
