"""Nodes that stand still for 200 ms again and again, under load: the same node leads all the time."""

from __future__ import annotations

import os

from tests.simulation.stalls import stall

# The whole ten minutes: STALL_SECONDS=600, or `python -m tests.simulation.stalls`.
SECONDS = float(os.environ.get("STALL_SECONDS", "60"))


def test_nobody_stands_for_election_because_of_short_stalls() -> None:
    found = stall(1, SECONDS)
    assert not found.violations
    assert found.stalls > SECONDS
    assert found.acknowledged > 10 * SECONDS
    assert found.terms[0] == found.terms[1]


def test_stalls_that_are_longer_than_the_timeout_are_another_matter() -> None:
    before, after = stall(1, 20.0, stall_seconds=1.0).terms
    assert before < after
