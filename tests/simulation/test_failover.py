"""The pause when the leader is lost, in virtual time: the same on any machine, so it has a limit here."""

from __future__ import annotations

import pytest

from orchestrator.config import SETTINGS
from tests.simulation.failover import KINDS, measure

LOSSES = 3
# A killed leader is missed at once, a silent one after an election timeout; slow disks and a slow hall come on top.
WORST_MS = {"kill": 600.0, "handover": 400.0}
SILENT_WORST_MS = 1_000.0
ELECTION_TIMEOUT_MIN_MS: int = SETTINGS["election_timeout_min_ms"].default


@pytest.mark.parametrize("kind", KINDS)
def test_another_node_leads_soon(kind: str) -> None:
    for seed in range(2):
        measured = measure(seed, kind, LOSSES)
        assert not measured.violations
        assert len(measured.pauses) == LOSSES
        worst = max(measured.pauses)
        assert 0 < worst.ms < WORST_MS.get(kind, SILENT_WORST_MS), worst


def test_a_seed_decides_every_pause() -> None:
    assert measure(1, "kill", 3).pauses == measure(1, "kill", 3).pauses
    assert measure(1, "kill", 3).pauses != measure(2, "kill", 3).pauses


@pytest.mark.parametrize("seed", range(4))
def test_a_leader_that_is_told_to_stop_costs_no_call_and_no_election_timeout(seed: int) -> None:
    """Another one leads before it has ended; what clients wait is less than anybody's patience with a silent leader."""
    measured = measure(seed, "handover", LOSSES)
    assert not measured.violations
    assert measured.failed == []
    assert max(pause.leader_ms for pause in measured.pauses) < ELECTION_TIMEOUT_MIN_MS
    assert max(pause.ms for pause in measured.pauses) < ELECTION_TIMEOUT_MIN_MS
