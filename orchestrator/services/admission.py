"""Refuses starts while the node is short of something, so that what runs can finish; nothing else is refused here.

To refuse is cheap: some numbers are compared, nothing is proposed, and the words are the same for a moment. Who is
refused is told when to ask again, and the more are refused, the later that is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from orchestrator.config import Config
from orchestrator.engine import limits
from orchestrator.replication.errors import Overloaded
from orchestrator.services.start_limit import StartLimit

# A refusal is worded anew after so long.
SAME_WORDS_S = 0.01


@dataclass(frozen=True)
class AdmissionLimits:
    """Above any of these (below, for the free disk) starts are refused."""

    queue_age_ms_max: int
    pending_starts_max: int
    # Commands that take longer are a reason to take fewer starts at once.
    start_delay_ms: int
    live_executions_max: int
    dirty_bytes_max: int
    free_disk_bytes_min: int
    # What executions tell of themselves is never refused.
    pending_events_max: int = limits.EVENTS

    @classmethod
    def of(cls, config: Config) -> Self:
        return cls(
            queue_age_ms_max=config.max_queue_age_ms,
            pending_starts_max=config.max_pending_starts,
            start_delay_ms=config.start_delay_ms,
            live_executions_max=config.max_live_executions,
            dirty_bytes_max=config.max_dirty_bytes,
            free_disk_bytes_min=config.min_free_disk_bytes,
        )


class Queue(Protocol):
    """What is asked of the sequencer."""

    @property
    def is_open(self) -> bool: ...

    @property
    def queue_age_ms(self) -> float: ...

    @property
    def pending_starts(self) -> int: ...

    @property
    def starts_under_way(self) -> int: ...


@dataclass(frozen=True)
class AdmissionReadings:
    """Where the present values come from."""

    queue: Queue
    live_executions: Callable[[], int]
    dirty_bytes: Callable[[], int]
    free_disk_bytes: Callable[[], int]
    # Of the member with the least room among those that make the roomiest majority.
    majority_free_disk_bytes: Callable[[], int]
    pending_events: Callable[[], int]


class RetryDelay:
    """How long who is refused is asked to wait: doubled while more are refused than is cheap, halved when few are."""

    FIRST_MS = 100
    MAX_MS = 5_000
    INTERVAL_S = 0.25
    # So many are cheap.
    REFUSED_PER_S = 1_000

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self._count = 0
        self.ms = self.FIRST_MS

    def refused(self) -> None:
        self._count += 1
        passed_s = self._monotonic() - self._began
        if passed_s < self.INTERVAL_S:
            return
        per_s = self._count / passed_s
        if per_s > self.REFUSED_PER_S:
            self.ms = min(2 * self.ms, self.MAX_MS)
        elif per_s < self.REFUSED_PER_S / 4:
            # Nobody was refused for as long as nothing was counted.
            halvings = min(int(passed_s / self.INTERVAL_S), 10)
            self.ms = max(self.ms >> halvings, self.FIRST_MS)
        self._began += passed_s
        self._count = 0


class Admission:
    """The door for starts."""

    def __init__(
        self,
        limits: AdmissionLimits,
        readings: AdmissionReadings,
        *,
        monotonic: Callable[[], float],
        on_refused: Callable[[str], None],
    ) -> None:
        self._limits = limits
        self._readings = readings
        self._monotonic = monotonic
        self.start_limit = StartLimit(
            monotonic=monotonic, target_s=limits.start_delay_ms / 1000, most=limits.pending_starts_max
        )
        self._on_refused = on_refused
        self._delay = RetryDelay(monotonic)
        self._short = ""
        self._refusal = Overloaded("")
        self._worded_at = float("-inf")

    def check(self) -> None:
        """Raises Overloaded, naming what ran short."""
        if (refusal := self.refusal()) is not None:
            raise refusal.with_traceback(None)  # it may have been raised before

    def refusal(self) -> Overloaded | None:
        """The error for a start that comes now, if it is refused: the same object for a moment. It is counted."""
        # Who can't take it anyway has no say in whether there is room.
        short = self._what_is_short() if self._readings.queue.is_open else None
        if short is None:
            return None
        name = short[0]
        self._on_refused(name)
        self._delay.refused()
        now = self._monotonic()
        if name != self._short or now - self._worded_at >= SAME_WORDS_S:
            self._short, self._worded_at = name, now
            self._refusal = Overloaded(
                f"no new workflows for now: {name} is {int(short[1])}, the limit is {short[2]}", self._delay.ms
            )
        return self._refusal

    def _what_is_short(self) -> tuple[str, float, int] | None:
        """Its name, value and limit."""
        most, now = self._limits, self._readings
        under_way = now.queue.starts_under_way
        if under_way >= self.start_limit.value:
            self.start_limit.reached()
            return "starts_under_way", under_way, self.start_limit.value
        if (value := now.queue.queue_age_ms) > most.queue_age_ms_max:
            return "queue_age", value, most.queue_age_ms_max
        if (count := now.queue.pending_starts) >= most.pending_starts_max:
            return "pending_starts", count, most.pending_starts_max
        if (count := now.live_executions() + under_way) >= most.live_executions_max:
            return "live_executions", count, most.live_executions_max
        if (count := now.dirty_bytes()) > most.dirty_bytes_max:
            return "dirty_bytes", count, most.dirty_bytes_max
        if (count := now.free_disk_bytes()) < most.free_disk_bytes_min:
            return "free_disk", count, most.free_disk_bytes_min
        if (count := now.majority_free_disk_bytes()) < most.free_disk_bytes_min:
            return "majority_free_disk", count, most.free_disk_bytes_min
        if (count := now.pending_events()) >= most.pending_events_max:
            return "pending_events", count, most.pending_events_max
        return None
