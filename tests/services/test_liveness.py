"""Whoever is silent for too long is given up, by the leader's own clock; a lost proposal is made again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.engine.choices import DeadlineKind
from orchestrator.engine.commands import AnyCommand, CloseSession, ExpireDeadline, ExpireSession
from orchestrator.engine.pending import effects_owed
from orchestrator.engine.results import AnyResult, Done
from orchestrator.replication.errors import NotLeader
from orchestrator.services import liveness as liveness_module
from orchestrator.services.liveness import Liveness
from tests.engine.driver import Driver, simple, workflow
from tests.replication.cluster import wait_until

DEADLINE_S = 10.0


class Bench:
    """A state machine, a clock that is set by hand, and the liveness of a leader over them."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.now = 1000.0
        self.submitted: list[AnyCommand] = []
        self.refuse: Exception | None = None
        self.liveness = self.leader()

    def leader(self) -> Liveness:
        made = Liveness(self.submit, lambda: self.driver.machine, lambda: self.now)
        made.begin(effects_owed(self.driver.state))
        return made

    async def submit(self, command: AnyCommand) -> AnyResult:
        self.submitted.append(command)
        if self.refuse is not None:
            raise self.refuse
        return self.do(lambda: self.driver.do(command))

    def do(self, work: Callable[[], Any]) -> Any:
        """Applies something, and performs its effects as a leader does."""
        result = work()
        for effect in self.driver.effects:
            self.liveness.perform(effect)
        return result

    def order(self, *, response_s: int = 0, poll_s: int = 0, slots: int = 1) -> None:
        """A workflow of one task, and a worker for it unless it has no slots."""
        self.driver.register_task(
            name="pay", ownerEmail="a@example.com", responseTimeoutSeconds=response_s, pollTimeoutSeconds=poll_s,
            timeoutSeconds=0, timeoutPolicy="RETRY",
        )
        self.driver.register(workflow("order", simple("pay")))
        if slots:
            self.do(lambda: self.driver.worker("s1", "pay", slots=slots))
        self.do(lambda: self.driver.start("order"))

    def after(self, seconds: float) -> list[AnyCommand]:
        self.now += seconds
        return self.liveness.expired()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_session_that_is_silent_for_its_timeout_is_given_up(bench: Bench) -> None:
    bench.do(lambda: bench.driver.worker("s1", "pay"))
    bench.liveness.session_seen("s1")
    assert bench.after(9.9) == []
    assert bench.after(0.2) == [ExpireSession("s1")]


def test_signs_of_life_give_a_session_its_whole_timeout_again(bench: Bench) -> None:
    bench.do(lambda: bench.driver.worker("s1", "pay"))
    bench.liveness.session_seen("s1")
    for _ in range(5):
        assert bench.after(8) == []
        bench.liveness.session_seen("s1")
    assert bench.after(10.1) == [ExpireSession("s1")]


def test_a_session_whose_worker_went_away_before_its_stream_was_served_is_given_up_too(bench: Bench) -> None:
    bench.do(lambda: bench.driver.worker("s1", "pay"))
    assert bench.after(0) == []
    assert bench.after(10.1) == [ExpireSession("s1")]


def test_a_proposal_that_came_to_nothing_is_repeated_but_not_in_a_storm(bench: Bench) -> None:
    bench.do(lambda: bench.driver.worker("s1", "pay"))
    bench.liveness.session_seen("s1")
    assert bench.after(10.1) == [ExpireSession("s1")]
    assert bench.after(0.2) == []
    assert bench.after(2) == [ExpireSession("s1")]
    bench.do(lambda: bench.driver.do(ExpireSession("s1")))
    assert bench.after(30) == []


def test_a_worker_that_comes_back_meanwhile_has_its_whole_timeout(bench: Bench) -> None:
    bench.do(lambda: bench.driver.worker("s1", "pay"))
    bench.liveness.session_seen("s1")
    assert bench.after(10.1) == [ExpireSession("s1")]
    bench.liveness.session_seen("s1")
    assert bench.after(9.9) == []


def test_a_closed_session_is_not_given_up(bench: Bench) -> None:
    bench.do(lambda: bench.driver.worker("s1", "pay"))
    bench.liveness.session_seen("s1")
    bench.do(lambda: bench.driver.do(CloseSession("s1")))
    bench.liveness.session_seen("s1")
    assert bench.after(60) == []


def test_a_new_leader_gives_everything_a_full_timeout(bench: Bench) -> None:
    bench.order(response_s=5)
    assert bench.after(4.9) == []
    bench.liveness = bench.leader()
    assert bench.after(4.9) == []
    assert bench.after(0.2) == [ExpireDeadline(DeadlineKind.RESPONSE, bench.driver.latest("pay").fencing_token)]
    assert bench.after(5) == [
        ExpireSession("s1"), ExpireDeadline(DeadlineKind.RESPONSE, bench.driver.latest("pay").fencing_token)
    ]


def test_heartbeats_keep_an_attempt_alive_one_by_one_and_all_together(bench: Bench) -> None:
    bench.order(response_s=3)
    token = bench.driver.latest("pay").fencing_token
    assert bench.after(2.9) == []
    bench.liveness.attempt_seen(token)
    assert bench.after(2.9) == []
    bench.liveness.attempts_seen("s1")
    assert bench.after(2.9) == []
    assert bench.after(0.2) == [ExpireDeadline(DeadlineKind.RESPONSE, token)]


def test_an_attempt_that_was_given_up_is_not_given_up_again(bench: Bench) -> None:
    bench.order(response_s=3)
    token = bench.driver.latest("pay").fencing_token
    command = ExpireDeadline(DeadlineKind.RESPONSE, token)
    assert bench.after(3.1) == [command]
    bench.do(lambda: bench.driver.do(command))
    # Fenced: its slot is held until the worker lets go, but there is nothing to wait for.
    assert bench.driver.state.leases[token,].fenced
    bench.liveness.session_seen("s1")
    assert bench.after(9) == []


def test_an_attempt_that_has_ended_has_no_deadline(bench: Bench) -> None:
    bench.order(response_s=3)
    bench.do(lambda: bench.driver.give("pay"))
    bench.liveness.session_seen("s1")
    assert bench.after(9) == []


def test_an_attempt_that_no_worker_takes_in_time_is_given_up(bench: Bench) -> None:
    bench.order(poll_s=5, slots=0)
    number = bench.driver.latest("pay").ready
    assert bench.after(4.9) == []
    assert bench.after(0.2) == [ExpireDeadline(DeadlineKind.POLL, number)]
    assert bench.after(2.1) == [ExpireDeadline(DeadlineKind.POLL, number)]
    bench.do(lambda: bench.driver.do(ExpireDeadline(DeadlineKind.POLL, number)))
    assert bench.after(60) == []


def test_an_attempt_that_a_worker_takes_in_time_is_not(bench: Bench) -> None:
    bench.order(poll_s=5, slots=0)
    assert bench.after(4) == []
    bench.do(lambda: bench.driver.worker("s1", "pay"))
    bench.liveness.session_seen("s1")
    assert bench.after(2) == []


def test_deadlines_of_attempts_long_taken_do_not_pile_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness_module, "_SLACK", 3)
    bench.order(poll_s=5000, response_s=5000, slots=0)
    bench.do(lambda: bench.driver.worker("s1", "pay"))
    names = ["w", *(f"w{number}" for number in range(50))]
    for ended, begun in pairwise(names):
        bench.do(partial(bench.driver.give, "pay", workflow_id=ended))
        bench.do(partial(bench.driver.do, CloseSession("s1")))
        bench.do(partial(bench.driver.start, "order", begun))
        bench.do(partial(bench.driver.worker, "s1", "pay"))
        bench.liveness.expired()
        assert len(bench.liveness._polls) <= 5
        assert len(bench.liveness._leases._heap) <= 6


async def test_losses_are_proposed_by_themselves_and_again_after_leadership_was_nearly_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness_module, "SCAN_SECONDS", 0.001)
    bench.do(lambda: bench.driver.worker("s1", "pay"))
    bench.liveness.session_seen("s1")
    bench.now += 11
    bench.refuse = NotLeader(None)
    with pytest.raises(NotLeader):
        async with asyncio.timeout(DEADLINE_S):
            await bench.liveness.run()
    assert bench.submitted == [ExpireSession("s1")]
    bench.refuse = None
    bench.now += 2.1
    running = asyncio.create_task(bench.liveness.run())
    await wait_until("the session to end", lambda: not bench.driver.state.sessions)
    running.cancel()
    assert bench.submitted == [ExpireSession("s1")] * 2
    assert await bench.submit(ExpireSession("s1")) != Done()
