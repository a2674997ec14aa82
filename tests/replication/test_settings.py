"""Settings that cannot work together are refused at construction."""

from __future__ import annotations

import pytest

from orchestrator.replication.settings import RaftSettings


def test_defaults_hold() -> None:
    settings = RaftSettings()
    assert (settings.heartbeat_interval_ms, settings.election_timeout_min_ms, settings.election_timeout_max_ms) == (
        50,
        500,
        750,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"heartbeat_interval_ms": 0},
        {"heartbeat_interval_ms": 167},
        {"election_timeout_max_ms": 500},
        {"entry_bytes_max": 64 << 20},
        {"in_flight_bytes_max": 1 << 20},
        {"outgoing_buffer_bytes_max": 1 << 20},
        {"redial_max_ms": 10},
        {"fast_failover_max_ms": 10},
    ],
)
def test_relations_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must"):
        RaftSettings(**wrong)


def test_long_election_timeouts_need_nothing_else_changed() -> None:
    settings = RaftSettings(heartbeat_interval_ms=5_000, election_timeout_min_ms=30_000, election_timeout_max_ms=60_000)
    assert settings.silence_limit_ms > settings.election_timeout_max_ms
