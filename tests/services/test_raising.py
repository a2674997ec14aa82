"""The level is raised by itself only where nobody has to be asked."""

from __future__ import annotations

import logging

import pytest

from orchestrator.engine.commands import AnyCommand, RaiseBehaviour
from orchestrator.engine.machine import Machine
from orchestrator.engine.results import AnyResult
from orchestrator.replication.release import Release
from orchestrator.services.raising import LevelRaiser
from tests.engine.driver import Driver, simple, workflow

OLD, NEW = Release("1.0", 1, 1), Release("1.1", 1, 2)
SOAK_MS = 60_000


class Bench:
    def __init__(self, after_ms: int, *, blank: bool = False) -> None:
        self.driver = Driver()
        if not blank:
            self.driver.register(workflow("one", simple("a")))
        self.releases: dict[str, Release | None] = dict.fromkeys("abc", OLD)
        self.now = 100.0
        self.proposed: list[AnyCommand] = []
        self.raiser = LevelRaiser(self.submit, self.machine, lambda: self.releases, lambda: self.now, after_ms)

    def machine(self) -> Machine:
        return self.driver.machine

    async def submit(self, command: AnyCommand) -> AnyResult:
        self.proposed.append(command)
        return self.driver.do(command)

    async def after(self, seconds: float, **changes: Release | None) -> int:
        self.now += seconds
        self.releases |= changes
        await self.raiser.look()
        return self.driver.state.meta.behaviour_level


async def test_by_default_it_is_only_said(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(0)
    with caplog.at_level(logging.INFO):
        assert await bench.after(1, a=NEW, b=NEW) == 1 and not caplog.messages
        for _ in range(3):
            assert await bench.after(1e6, c=NEW) == 1
    assert [message for message in caplog.messages if "raise-behaviour" in message] == caplog.messages[:1]
    assert len(caplog.messages) == 1 and not bench.proposed


async def test_if_a_setting_says_so_when_all_have_known_it_without_a_break() -> None:
    bench = Bench(SOAK_MS)
    assert await bench.after(1000, a=NEW, b=NEW) == 1
    assert await bench.after(1000, c=NEW) == 1
    assert await bench.after(59) == 1
    # Away, and whatever it will run when it comes back is not known: from then on it counts anew.
    assert await bench.after(1000, b=None) == 1
    assert await bench.after(1, b=NEW) == 1
    assert await bench.after(59) == 1
    assert await bench.after(2) == 2
    assert await bench.after(1000) == 2
    assert bench.proposed == [RaiseBehaviour(2)]


async def test_at_once_where_nothing_is_registered_yet() -> None:
    bench = Bench(0, blank=True)
    assert await bench.after(1, a=NEW, b=NEW) == 1
    assert await bench.after(1, c=NEW) == 2
