"""Whatever is defined and whatever happens: invariants hold after every step, and good behaviour leads to an end."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.engine import limits
from orchestrator.engine.transitions import WORKFLOW_TERMINAL
from tests.engine.scenario import play

EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "60"))


@settings(max_examples=EXAMPLES, deadline=None, derandomize="ENGINE_EXAMPLES" not in os.environ)
@given(seed=st.integers(0, 2**32), events=st.integers(0, 60))
def test_any_run_keeps_the_invariants_and_comes_to_an_end(seed: int, events: int) -> None:
    driver = play(seed, events)
    assert not driver.state.leases
    assert not driver.state.ready
    assert not driver.state.messages
    for key in driver.state.hot_keys():
        hot = driver.state.execution(key)
        assert hot is not None
        assert hot.execution.status in WORKFLOW_TERMINAL
        assert hot.execution.ended_ms >= hot.execution.created_ms


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="ENGINE_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 2**32), events=st.integers(0, 60), bound=st.integers(1, 4))
def test_so_does_a_run_in_small_steps(seed: int, events: int, bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on what a step may do, so low that everything goes on in later steps, and some in later entries."""
    with monkeypatch.context() as patched:
        patched.setattr(limits, "TRANSITIONS_PER_STEP", bound)
        driver = play(seed, events, messages=bound)
    assert not driver.state.leases
    assert not driver.state.messages


@settings(max_examples=max(EXAMPLES // 3, 1), deadline=None, derandomize="ENGINE_EXAMPLES" not in os.environ)
@given(seed=st.integers(0, 2**32), every=st.integers(1, 7))
def test_a_replica_restored_in_between_goes_on_alike(seed: int, every: int) -> None:
    plain = play(seed, 30)
    restored = play(seed, 30, restart_every=every)
    assert restored.machine.chain == plain.machine.chain
    assert restored.rows() == plain.rows()
