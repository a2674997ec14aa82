"""Starts are refused when something runs short, with its name."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.replication.errors import Overloaded
from orchestrator.services.admission import Admission, AdmissionLimits, AdmissionReadings

LIMITS = AdmissionLimits(
    queue_age_ms_max=100, pending_starts_max=10, live_executions_max=50, dirty_bytes_max=1000, free_disk_bytes_min=500
)
FINE = {"queue_age_ms": 100, "pending_starts": 9, "live_executions": 49, "dirty_bytes": 1000, "free_disk_bytes": 500,
        "majority_free_disk_bytes": 500,
        "pending_events": 9_999}


def admission(refused: list[str], **readings: Any) -> Admission:
    values = FINE | readings
    return Admission(
        LIMITS, AdmissionReadings(**{name: lambda value=value: value for name, value in values.items()}), refused.append
    )


def test_at_the_limits_starts_are_taken() -> None:
    refused: list[str] = []
    admission(refused).check()
    assert refused == []


@pytest.mark.parametrize(
    ("reading", "value", "name"),
    [
        ("queue_age_ms", 101, "queue_age"),
        ("pending_starts", 10, "pending_starts"),
        ("live_executions", 50, "live_executions"),
        ("dirty_bytes", 1001, "dirty_bytes"),
        ("free_disk_bytes", 499, "free_disk"),
        ("majority_free_disk_bytes", 499, "majority_free_disk"),
        ("pending_events", 10_000, "pending_events"),
    ],
)
def test_beyond_one_limit_they_are_refused_and_the_limit_is_named(reading: str, value: int, name: str) -> None:
    refused: list[str] = []
    with pytest.raises(Overloaded, match=rf"{name} is {value}, the limit is \d+"):
        admission(refused, **{reading: value}).check()
    assert refused == [name]
