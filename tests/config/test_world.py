"""The real world is this process's, and shows no secrets."""

from __future__ import annotations

import pytest

from orchestrator.world import World


def test_variables_are_those_of_the_process_and_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDUCTOR_ENV_KEY", "hunter2")
    world = World()
    assert world.environment["CONDUCTOR_ENV_KEY"] == "hunter2"
    assert "hunter2" not in repr(world)
