"""The simulation finds mistakes that are planted: some of them here, all of them in the table of the README."""

from __future__ import annotations

import pytest

from tests.simulation import mutants
from tests.simulation.run import Trouble, run_seed

pytestmark = pytest.mark.long

SEEDS = 32
TROUBLE = Trouble(10.0)


@pytest.mark.parametrize(
    "name",
    [
        "skip_fsync",
        "ack_before_durable",
        "commit_unsynced",
        "commit_alone",
        "commit_old_term",
        "vote_twice",
        "vote_before_durable",
        "database_unsynced",
        "accept_late",
        "forget_requests",
        "forget_request_ids",
        "retry_early",
        "timeout_early",
        "fire_early",
        "fire_late",
        "wake_nobody",
        "read_anywhere",
        "read_deleted",
        "mix_namespaces",
    ],
)
def test_a_planted_mistake_is_found(name: str) -> None:
    with mutants.planted(name):
        assert any(run_seed(seed, TROUBLE).violations for seed in range(SEEDS)), mutants.MUTANTS[name].about


@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_a_mistake_can_be_planted(name: str) -> None:
    """What it replaces is there, under the name that it had."""
    with mutants.planted(name):
        pass


def test_a_mistake_is_gone_afterwards() -> None:
    before = run_seed(3, Trouble(2.0))
    with mutants.planted("skip_fsync"):
        assert run_seed(3, Trouble(2.0)).violations
    assert run_seed(3, Trouble(2.0)).trace_hash == before.trace_hash
    assert not before.violations
