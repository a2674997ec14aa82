"""Refuses starts while the node is short of something, so that what runs can finish; nothing else is refused here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from orchestrator.config import Config
from orchestrator.engine import limits
from orchestrator.replication.errors import Overloaded


@dataclass(frozen=True)
class AdmissionLimits:
    """Above any of these (below, for the free disk) starts are refused."""

    queue_age_ms_max: int
    pending_starts_max: int
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
            live_executions_max=config.max_live_executions,
            dirty_bytes_max=config.max_dirty_bytes,
            free_disk_bytes_min=config.min_free_disk_bytes,
        )


@dataclass(frozen=True)
class AdmissionReadings:
    """Where the present values come from."""

    queue_age_ms: Callable[[], float]
    pending_starts: Callable[[], int]
    live_executions: Callable[[], int]
    dirty_bytes: Callable[[], int]
    free_disk_bytes: Callable[[], int]
    # Of the member with the least room among those that make the roomiest majority.
    majority_free_disk_bytes: Callable[[], int]
    pending_events: Callable[[], int]


class Admission:
    """The door for starts."""

    def __init__(
        self, limits: AdmissionLimits, readings: AdmissionReadings, on_refused: Callable[[str], None]
    ) -> None:
        self._limits = limits
        self._readings = readings
        self._on_refused = on_refused

    def check(self) -> None:
        """Raises Overloaded, naming what ran short."""
        most, now = self._limits, self._readings
        for name, short, value, limit in (
            ("queue_age", now.queue_age_ms() > most.queue_age_ms_max, now.queue_age_ms(), most.queue_age_ms_max),
            ("pending_starts", now.pending_starts() >= most.pending_starts_max, now.pending_starts(),
             most.pending_starts_max),
            ("live_executions", now.live_executions() >= most.live_executions_max, now.live_executions(),
             most.live_executions_max),
            ("dirty_bytes", now.dirty_bytes() > most.dirty_bytes_max, now.dirty_bytes(), most.dirty_bytes_max),
            ("free_disk", now.free_disk_bytes() < most.free_disk_bytes_min, now.free_disk_bytes(),
             most.free_disk_bytes_min),
            ("majority_free_disk", now.majority_free_disk_bytes() < most.free_disk_bytes_min,
             now.majority_free_disk_bytes(), most.free_disk_bytes_min),
            ("pending_events", now.pending_events() >= most.pending_events_max, now.pending_events(),
             most.pending_events_max),
        ):
            if short:
                self._on_refused(name)
                raise Overloaded(f"no new workflows for now: {name} is {int(value)}, the limit is {limit}")
