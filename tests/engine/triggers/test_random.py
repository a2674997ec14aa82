"""Schedules and events in random order: all invariants hold, and replicas that restart or evict come to the same."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from orchestrator.engine.behaviour import STREAMS
from orchestrator.engine.choices import TerminateCompensation
from orchestrator.engine.commands import (
    AnyCommand,
    ArmSchedule,
    DecideEvent,
    DeleteEventHandler,
    DeleteSchedule,
    PauseSchedule,
    PauseScheduling,
    PublishEvent,
    PutEventHandler,
    PutSchedule,
    RaiseBehaviour,
    ResumeSchedule,
    ResumeScheduling,
    RunSchedule,
    TerminateWorkflow,
)
from orchestrator.engine.model import Table
from orchestrator.engine.outbox_commands import AcknowledgeEvents
from orchestrator.engine.stream_commands import ReceiveEvents, StreamEntry
from orchestrator.engine.triggers import queries, schedules, streams
from orchestrator.engine.triggers.index import armed_until
from orchestrator.engine.triggers.rows import StreamRow
from tests.engine.driver import START_MS, Driver, workflow
from tests.engine.triggers.making import action, busy_driver, document, handler

NAMES = ("s", "t")
STREAM = "redis:in"
POLICIES = ("ALLOW", "SKIP", "BUFFER_ONE", "TERMINATE_RUNNING")
# By a leader who is not the first to hear of it: as if some had computed their times twice, or late.
STALE = 0.2


class Chance:
    """What may happen next, drawn at random; the same for the same seed and state."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._arms: list[ArmSchedule] = []

    def command(self, driver: Driver) -> AnyCommand:
        makers = (self._arm, self._arm, self._arm, self._put, self._steer, self._publish, self._publish, self._decide,
                  self._put_handler, self._terminate, self._receive, self._receive, self._acknowledge)
        return self.rng.choice(makers)(driver)

    def _arm(self, driver: Driver) -> AnyCommand:
        rng, state = self.rng, driver.state
        wanting = sorted(state.triggers.wanting)
        if not wanting or (self._arms and rng.random() < STALE):
            return rng.choice(self._arms) if self._arms else RunSchedule("default", "s")
        key = rng.choice(wanting)
        row = schedules.schedule(state, *key)
        assert row is not None
        after_ms = armed_until(row)
        first_ms = max(after_ms, driver.now_ms - rng.choice((0, 3_000)))
        times = tuple((first_ms + 1000 * (number + 1), 0) for number in range(rng.randint(0, 4)))
        exhausted = rng.random() < 0.1
        made = ArmSchedule(
            *key, row.revision, after_ms, times, skipped=rng.choice((0, 0, 2)), refill_below=rng.choice((0, 2)),
            exhausted=exhausted, look_again_ms=0 if times or exhausted else driver.now_ms + 2_000,
        )
        self._arms = [*self._arms[-5:], made]
        return made

    def _put(self, driver: Driver) -> AnyCommand:
        rng = self.rng
        fields = document(
            name=rng.choice(NAMES), overlapPolicy=rng.choice(POLICIES), jitterMs=rng.choice((0, 700)),
            runCatchupScheduleInstances=rng.random() < 0.5, paused=rng.random() < 0.1,
            cronExpression=rng.choice(("0 * * * * *", "1 * * * * *")),
            startWorkflowRequest={"name": rng.choice(("report", "quick", "quick", "nothing"))},
        )
        return PutSchedule("default", msgspec.json.encode(fields))

    def _steer(self, driver: Driver) -> AnyCommand:
        name = self.rng.choice(NAMES)
        return self.rng.choice((
            PauseSchedule("default", name, "why"), ResumeSchedule("default", name), ResumeSchedule("default", name),
            RunSchedule("default", name), RunSchedule("default", name), PauseScheduling("all"), ResumeScheduling(),
            ResumeScheduling(), DeleteSchedule("default", name),
        ))

    def _put_handler(self, driver: Driver) -> AnyCommand:
        rng = self.rng
        if rng.random() < 0.2:
            return DeleteEventHandler("default", rng.choice(NAMES))
        actions: list[Any] = [
            action("start_workflow", name=rng.choice(("quick", "nothing", "${name}"))),
            action("terminate_workflow", workflowId="${id}"),
            action("complete_task", workflowId="${id}", taskRefName="a", output={"x": "${id}"}),
            action("update_workflow_variables", workflowId="${id}", variables={"l": ["${n}"]}, appendArray=True),
            action("record", correlationId=rng.choice(("${own}", "c")), service="s"),
        ]
        fields = handler(
            *rng.sample(actions, rng.randint(1, 4)), name=rng.choice(NAMES), active=rng.random() < 0.9,
            event=rng.choice(("paid", "paid", "other", STREAM, STREAM)), condition=rng.choice((None, "$.n > 1")),
        )
        return PutEventHandler("default", msgspec.json.encode(fields))

    def _publish(self, driver: Driver) -> AnyCommand:
        rng = self.rng
        payload = {"id": self._some_id(driver), "n": rng.randint(0, 3), "name": "quick"}
        payload[rng.choice(("own", "correlationId", "none"))] = rng.choice(("c", "d"))
        message_id = rng.choice(("", f"m{rng.randint(0, 9)}"))
        return PublishEvent("default", rng.choice(("paid", "other", STREAM)), message_id, msgspec.json.encode(payload))

    def _receive(self, driver: Driver) -> AnyCommand:
        """Of a stream that is read from anywhere, and now and then loses all it has."""
        rng = self.rng
        row = streams.row(driver.state, "default", STREAM)
        first = (START_MS if row is None else int(row.cursor.partition("-")[0])) + rng.randint(-5, 5)
        restarted = rng.random() < 0.1
        ids = sorted(rng.choices(range(max(0, 0 if restarted else first), max(0, first) + 10), k=rng.randint(0, 4)))
        payload = msgspec.json.encode({"id": self._some_id(driver), "n": rng.randint(0, 3), "name": "quick"})
        entries = tuple(
            StreamEntry(
                f"{each}-{rng.randint(0, 2)}" if ids.count(each) == 1 else f"{each}-0",
                rng.choice(("", f"m{rng.randint(0, 9)}")), payload, invalid=rng.choice(("", "", "", "no event")),
            )
            for each in ids
        )
        return ReceiveEvents("default", STREAM, entries, restarted)

    def _acknowledge(self, driver: Driver) -> AnyCommand:
        return AcknowledgeEvents(tuple(row.number for row in driver.state.resident[Table.OUTBOX].values())[:2])

    def _decide(self, driver: Driver) -> AnyCommand:
        rng, state = self.rng, driver.state
        pairs = [(row.number, name) for row in queries.pending_events(state, "default") for name in row.undecided]
        number, name = rng.choice(pairs) if pairs else (1, "s")
        kept = state.resident[Table.EVENT_HANDLER].get(("default", name))
        revision = 0 if kept is None else kept.revision - (rng.random() < STALE)
        return DecideEvent(number, name, revision, rng.random() < 0.6, rng.choice(("", "", "", "broken")))

    def _terminate(self, driver: Driver) -> AnyCommand:
        return TerminateWorkflow("default", self._some_id(driver), "", TerminateCompensation.SKIP)

    def _some_id(self, driver: Driver) -> str:
        found = [run.workflow_id for name in NAMES for run in self._runs(driver, name) if run.workflow_id]
        found += [run.workflow_id for run in queries.event_runs(driver.state, "default") if run.workflow_id]
        return self.rng.choice(found[:20]) if found else "none"

    @staticmethod
    def _runs(driver: Driver, name: str) -> list[Any]:
        row = schedules.schedule(driver.state, "default", name)
        return [] if row is None else queries.schedule_runs(driver.state, row)


def play(seed: int, *, restart_every: int = 0, evict: bool = False, messages: int = 1000) -> Driver:
    driver = busy_driver()
    driver.register(workflow("quick", {"name": "n", "taskReferenceName": "n", "type": "NOOP"}))
    driver.check = not evict
    driver.evict = evict
    driver.messages_per_entry = messages
    chance = Chance(seed)
    for number in range(150):
        # Some clusters are raised before anything happens, others in the midst of it.
        driver.do(RaiseBehaviour(STREAMS) if number == seed % 3 * 30 else chance.command(driver))
        if chance.rng.random() < 0.4:
            driver.wait(chance.rng.choice((100, 1_000, 5_000)))
        if restart_every and number % restart_every == restart_every - 1:
            driver = driver.restart()
            driver.check = True
    return driver


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_the_invariants_hold_and_a_restart_changes_nothing(seed: int) -> None:
    plain, restarted = play(seed), play(seed, restart_every=11)
    assert plain.machine.chain == restarted.machine.chain
    assert plain.rows() == restarted.rows()


@pytest.mark.parametrize("seed", range(10))
def test_a_replica_that_evicts_goes_on_alike(seed: int) -> None:
    plain, other = play(seed), play(seed, evict=True)
    assert plain.machine.chain == other.machine.chain
    assert plain.rows() == other.rows()


@pytest.mark.parametrize("seed", range(10))
def test_messages_may_be_taken_up_one_by_one(seed: int) -> None:
    driver = play(seed, messages=1)
    assert driver.machine.next_message() is None


def test_the_runs_are_worth_it() -> None:
    """Everything that may become of runs and actions does."""
    states: set[Any] = set()
    taken_up: set[Any] = set()
    told: set[Any] = set()
    for seed in range(25):
        driver = play(seed)
        states |= {run.state for run in driver.state.resident[Table.SCHEDULE_RUN].values()}
        taken_up |= {(bool(row.received), bool(row.repeated), bool(row.dead)) for row in _streams(driver)}
        states |= {(run.action, run.state) for run in driver.state.resident[Table.EVENT_RUN].values()}
        told |= {(entry.kind.name, entry.failed) for entry in driver.state.resident[Table.TRAIL].values()}
    assert {state for state in states if not isinstance(state, tuple)} >= {2, 3, 4, 5}
    assert {action for action, _ in (each for each in states if isinstance(each, tuple))} >= {
        "start_workflow", "terminate_workflow", "complete_task", "update_workflow_variables", "",
    }
    assert {state for _, state in (each for each in states if isinstance(each, tuple))} == {1, 2, 3}
    assert (True, True, True) in taken_up
    assert told == {("IN", False), ("DONE", False), ("DONE", True)}


def _streams(driver: Driver) -> list[StreamRow]:
    return list(driver.state.resident[Table.STREAM].values())
