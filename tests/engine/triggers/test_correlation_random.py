"""Events and those who wait for them in random order: no event is given twice or lost, and all invariants hold."""

from __future__ import annotations

import random

import msgspec
import pytest

from orchestrator.engine import limits
from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.choices import DeleteEffects, IfExists, TerminateCompensation
from orchestrator.engine.commands import (
    AnyCommand,
    Continue,
    DeleteWorkflow,
    PauseWorkflow,
    PublishEvent,
    RerunWorkflow,
    RestartWorkflow,
    ResumeWorkflow,
    RetryWorkflow,
    StartWorkflow,
    TerminateWorkflow,
    UpdateTask,
)
from orchestrator.engine.expressions import fields_of, text_of
from orchestrator.engine.model import Table, TaskStatus
from tests.engine.driver import Driver, simple, workflow
from tests.engine.triggers.making import action, busy_driver, event_runs, put_handler

IDS = ("a", "b", "c", "d")
KEYS = ("x", "x", "y")
KEPT_MS = 60_000


def wait(reference: str, key: str, timeout_s: int = 0) -> dict[str, object]:
    definition = {"name": "w", "timeoutSeconds": timeout_s, "retryCount": 2, "retryDelaySeconds": 1}
    given = {"event": "paid", "correlationKey": key}
    made = {"name": "w", "taskReferenceName": reference, "type": "WAIT", "inputParameters": given}
    return {**made, "taskDefinition": {**definition, "timeoutPolicy": "RETRY"}} if timeout_s else made


class Chance:
    """What may happen next, drawn at random; the same for the same seed and state."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.published = 0

    def command(self, driver: Driver) -> AnyCommand:
        rng = self.rng
        if rng.random() < 0.4:
            self.published += 1
            payload = msgspec.json.encode({"key": rng.choice(KEYS), "id": rng.choice(IDS)})
            return PublishEvent("default", rng.choice(("paid", "paid", "told")), f"m{self.published}", payload)
        one = ("default", rng.choice(IDS))
        if rng.random() < 0.5:
            given = msgspec.json.encode({"key": rng.choice(KEYS)})
            return StartWorkflow("default", "waiter", 0, one[1], IfExists.FAIL, given)
        compensation = rng.choice((TerminateCompensation.SKIP, TerminateCompensation.RUN))
        reference = rng.choice(("first", "second", "limited"))
        return rng.choice((
            TerminateWorkflow(*one, "", compensation), PauseWorkflow(*one), ResumeWorkflow(*one), RetryWorkflow(*one),
            RestartWorkflow(*one, effects=DeleteEffects.KEEP), DeleteWorkflow(*one, DeleteEffects.KEEP),
            UpdateTask(*one, reference, rng.choice((TaskStatus.COMPLETED, TaskStatus.FAILED)), b"{}"),
            RerunWorkflow(*one, task_id=self._some_task(driver, one), effects=DeleteEffects.KEEP),
        ))

    def _some_task(self, driver: Driver, key: tuple[str, str]) -> str:
        driver.heat(key)
        hot = driver.state.execution(key)
        return self.rng.choice([one.task_id for one in hot.tasks.values()] or ["none"]) if hot is not None else "none"


class Game:
    """One replica, and to which task each event was given."""

    def __init__(self, seed: int, *, messages: int = 1000, lags: bool = False, evict: bool = False) -> None:
        self.driver = busy_driver(STREAMS)
        self.driver.messages_per_entry, self.driver.evict = messages, evict
        self.driver.check = not evict
        branches = [[wait("first", "${workflow.input.key}"), simple("a", "undo")], [wait("limited", "x", 20)]]
        fork = {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": branches}
        join = {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["a", "limited"]}
        self.driver.register(workflow("waiter", fork, join, wait("second", "y")))
        self.driver.worker("s", "a", "undo", slots=100)
        put_handler(self.driver, action("correlate", correlationKey="${key}"))
        told = {"event": "paid", "correlationKey": "${key}", "output": {"id": "${id}"}}
        put_handler(
            self.driver, action("correlate", **told), action("signal", workflowId="${id}", signal="s"),
            name="told", event="told",
        )
        self.driver.lags = lags
        self.chance = Chance(seed)
        self.given: dict[str, str] = {}

    def play(self, restart_every: int = 0) -> Driver:
        for number in range(120):
            self.driver.do(self.chance.command(self.driver))
            self._note()
            self._work()
            if self.chance.rng.random() < 0.3:
                self.driver.wait(self.chance.rng.choice((500, 5_000, 30_000)))
                self._note()
            if restart_every and number % restart_every == restart_every - 1:
                self.driver = self.driver.restart()
        self.driver.lags = False
        self.driver.entry(Continue())
        self._note()
        return self.driver

    def _work(self) -> None:
        """A worker does what it has, now and then."""
        if self.chance.rng.random() < 0.5:
            return
        for workflow_id in IDS:
            self.driver.heat(("default", workflow_id))
            hot = self.driver.state.execution(("default", workflow_id))
            held = [] if hot is None else [one for one in hot.tasks.values() if one.fencing_token in self.driver.held]
            for attempt in held:
                self.driver.give(attempt, workflow_id=workflow_id)
                self._note()

    def _note(self) -> None:
        for _, hot in self.driver.state.hot_executions():
            for attempt in hot.tasks.values():
                if attempt.type != "WAIT" or not attempt.output:
                    continue
                event = fields_of(hot.load(attempt.output)).get("conductor.event.messageId")
                if event is not None:
                    holder = self.given.setdefault(text_of(event), attempt.task_id)
                    assert holder == attempt.task_id, f"{text_of(event)} was given twice"


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "EVENT_KEPT_MS", KEPT_MS)
    monkeypatch.setattr(limits, "EVENTS_KEPT", 12)
    monkeypatch.setattr(limits, "EVENTS_FORGOTTEN_PER_STEP", 2)


@pytest.mark.parametrize(("seed", "lags"), [(seed, seed % 2 == 0) for seed in range(16)])
def test_no_event_is_given_twice_and_none_is_lost(seed: int, lags: bool) -> None:
    """`lags`: commands come while events are on their way."""
    game = Game(seed, messages=2 if lags else 1000, lags=lags)
    driver = game.play()
    runs = [run for run in event_runs(driver) if run.action == "correlate"]
    assert len(runs) == game.chance.published
    failed = {run.message_id for run in runs if run.state.name == "FAILED"}
    kept = {text_of(fields_of(row.payload)["conductor.event.messageId"]): row.since_ms
            for row in driver.state.resident[Table.KEPT_EVENT].values()}
    # What is neither was kept for as long as it may be.
    forgotten = {run.message_id for run in runs} - failed - kept.keys() - game.given.keys()
    old = {run.message_id for run in runs if run.published_ms + KEPT_MS <= driver.now_ms}
    assert forgotten <= old
    assert not failed & game.given.keys() and not kept.keys() & game.given.keys()


@pytest.mark.parametrize("seed", range(6))
def test_a_replica_that_restarts_or_evicts_goes_on_alike(seed: int) -> None:
    plain, restarted, evicting = Game(seed).play(), Game(seed).play(restart_every=7), Game(seed, evict=True).play()
    assert plain.machine.chain == restarted.machine.chain == evicting.machine.chain
    assert plain.rows() == restarted.rows() == evicting.rows()


@pytest.mark.parametrize("seed", range(6))
def test_messages_may_be_taken_up_one_by_one(seed: int) -> None:
    assert Game(seed, messages=1).play().machine.next_message() is None


def test_the_runs_are_worth_it() -> None:
    games = [Game(seed) for seed in range(6)]
    drivers = [game.play() for game in games]
    states = {(run.action, run.state.name) for driver in drivers for run in event_runs(driver)}
    assert states == {(kind, state) for kind in ("correlate", "signal") for state in ("COMPLETED", "FAILED")}
    assert sum(len(game.given) for game in games) > 40
    assert any(driver.state.resident[Table.AWAITING] for driver in drivers)
